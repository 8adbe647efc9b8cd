"""What the bench reads inside the machine, of the portal's own processes. Used by bench and growth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.machine import Machine


def memory(machine: Machine, unit: str, figure: str = "VmRSS") -> float:
    """Resident memory of a unit's main process in MB (proc_pid_status(5)); VmHWM is the most it ever was."""
    pid = machine.show(unit, "MainPID")
    status = machine.run(["cat", f"/proc/{pid}/status"]).stdout
    (kibibytes,) = (line.split()[1] for line in status.splitlines() if line.startswith(f"{figure}:"))
    return int(kibibytes) * 1024 / 1e6


def standing(machine: Machine) -> dict[str, Any]:
    """The extractor's status file."""
    found: dict[str, Any] = json.loads(machine.run(["cat", "/run/ddwd/extractor/status.json"]).stdout)
    return found
