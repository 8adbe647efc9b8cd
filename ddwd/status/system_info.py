"""Facts about the machine for a support bundle: versions, units, their journal, disks, memory, network. Reads only.

Each is one question with a bounded answer; raises NotFoundError or PeerDownError if there is none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddwd.core import audit
from ddwd.core.clock import stamp
from ddwd.core.errors import NotFoundError, PeerDownError
from ddwd.status.formatting import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Run = Callable[[Sequence[str]], str]
    """Output of the program, whatever its exit status."""

_SECONDS = 30.0
_JOURNAL_BYTES = 4 * 1024 * 1024
_PACKAGES = (
    "ddwd",
    "orthanc*",
    "postgresql*",
    "python3",
    "python3-*",
    "dcmtk",
    "libdcmtk*",
    "stunnel4",
    "systemd",
    "linux-image-*",
)
_SHOWN = (
    *(
        "Id",
        "Description",
        "LoadState",
        "ActiveState",
        "SubState",
        "Result",
        "UnitFileState",
        "ConditionResult",
        "StatusText",
    ),
    *("FragmentPath", "DropInPaths", "NRestarts", "ExecMainCode", "ExecMainStatus", "ExecMainStartTimestamp"),
    *(
        "ActiveEnterTimestamp",
        "InactiveEnterTimestamp",
        "MemoryCurrent",
        "MemoryPeak",
        "MemoryMax",
        "TasksCurrent",
    ),
    *("CPUUsageNSec", "WatchdogTimestamp", "NextElapseUSecRealtime", "LastTriggerUSec"),
)
"""Properties of a unit that hold no password, as Environment= may."""
_PROC = ("loadavg", "uptime", "meminfo", "pressure/cpu", "pressure/io", "pressure/memory")
_LEFT_OUT = frozenset({"accession"})
FIELDS = sorted({*audit.FIELDS - _LEFT_OUT, "event", "study_uid"})
"""Fields of an audit record; the patient's identifier and the accession number are not among them."""
_LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")


def run(command: Sequence[str]) -> str:
    """Run a program."""
    program = shutil.which(command[0])
    if program is None:
        raise NotFoundError(f"{command[0]} is not here")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired:
        raise PeerDownError(f"{command[0]} did not answer within {_SECONDS:.0f} s") from None
    said = done.stdout.decode(errors="replace")
    if not said.strip() and done.returncode:
        complaint = done.stderr.decode(errors="replace").strip().splitlines()
        raise NotFoundError(
            f"{command[0]}: {complaint[0] if complaint else f'exit status {done.returncode}'}"
        )
    return said


def together(run: Run, *commands: Sequence[str]) -> str:
    """Return several answers as one text, each below its question; one that fails is named there."""
    parts = []
    for command in commands:
        try:
            said = run(command)
        except (NotFoundError, PeerDownError) as error:
            said = f"({error})\n"
        parts.append(f"$ {' '.join(command)}\n{said}")
    return "\n".join(parts)


def versions(run: Run) -> str:
    """Return the relevant packages, the distribution and the kernel."""
    wanted = ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev} ${Package} ${Version}\n", *_PACKAGES]
    packages = [line for line in run(wanted).splitlines() if line.startswith("i")]
    return "\n".join([*packages, "", together(run, ["uname", "-a"], ["cat", "/etc/os-release"])])


def units(run: Run) -> list[str]:
    """Return every unit of the portal and of PostgreSQL that systemd knows."""
    said = run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "ddwd*", "postgresql*"])
    return sorted(line.split()[0] for line in said.splitlines() if line.strip())


def unit_states(run: Run, names: Sequence[str]) -> str:
    """Return what systemd reports of them, without lines of the journal, which are a part of their own, and without their environment."""
    return together(
        run,
        ["systemctl", "list-units", "--all", "--plain", "ddwd*", "postgresql*"],
        ["systemctl", "list-timers", "--all", "ddwd*"],
        ["systemctl", "--failed", "--plain"],
        ["systemctl", "status", "--lines=0", "--full", "--no-pager", "--", *names],
        ["systemctl", "show", f"--property={','.join(_SHOWN)}", "--", *names],
    )


def disks(run: Run, places: Iterable[Path]) -> str:
    """Return the room on each volume that the portal writes to."""
    known = [str(place) for place in dict.fromkeys(places) if place.exists()]
    table = ["df", "--output=source,fstype,size,used,avail,pcent,iavail,target", "--block-size=1"]
    mounts = (["findmnt", "--noheadings", "--output=TARGET,SOURCE,FSTYPE", "--target", one] for one in known)
    return together(run, [*table, *known], ["df", "--human-readable", "/"], *mounts)


def memory() -> str:
    """Return memory, load and pressure."""
    files = [Path("/proc") / name for name in _PROC]
    parts = [f"$ cat {path}\n{path.read_text(encoding='ascii')}" for path in files if path.exists()]
    return "\n".join([f"{os.cpu_count()} processors\n", *parts])


def network(run: Run) -> str:
    """Return addresses, routes and listening sockets."""
    return together(
        run,
        ["ip", "-brief", "address"],
        ["ip", "route", "show", "table", "all"],
        ["ip", "-6", "route", "show"],
        ["ss", "--listening", "--tcp", "--udp", "--numeric", "--processes"],
        ["ss", "--summary"],
    )


def clock(run: Run) -> str:
    """Return whether the clock is synchronised."""
    return together(run, ["timedatectl", "show"], ["date", "--utc", "--iso-8601=ns"])


def journal(*, unit: str = "", identifier: str = "", limit: int = _JOURNAL_BYTES) -> str:
    """Return the last day of one unit, or of one identifier: the newest lines up to `limit` bytes, and of an audit record FIELDS alone."""
    chosen = [f"--unit={unit}"] if unit else [f"--identifier={identifier}"]
    fields = ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "_PID", *(f"DDWD_{one.upper()}" for one in FIELDS)]
    program = shutil.which("journalctl")
    if program is None:
        raise NotFoundError("journalctl is not here")
    command = [program, "--no-pager", "--all", "--since=-24h", "--reverse", "--output=json", *chosen]
    rows, is_cut = _rows([*command, f"--output-fields={','.join(fields)}"], limit)
    if unit:  # the audit trail is a file of its own
        rows = [row for row in rows if row.get("SYSLOG_IDENTIFIER") != audit.IDENTIFIER]
    lines = [line for row in reversed(rows) for line in _lines_of(row)]
    head = (
        [f"(older lines are left out: this is the newest of more than {limit // 1024} KiB)"] if is_cut else []
    )
    return "".join(f"{line}\n" for line in [*head, *lines])


def _rows(command: Sequence[str], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Read the records, newest first, and whether there were more than the limit."""
    rows: list[dict[str, Any]] = []
    size = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        patience = threading.Timer(_SECONDS, asked.kill)
        patience.start()
        try:
            assert asked.stdout is not None  # noqa: S101 - a pipe was asked for
            assert asked.stderr is not None  # noqa: S101 - as above
            for line in asked.stdout:
                size += len(line)
                if size > limit:
                    asked.kill()
                    return rows, True
                rows.append(json.loads(line))
            if asked.wait() and not rows:
                said = asked.stderr.read().decode(errors="replace").strip().splitlines()
                raise PeerDownError(f"journalctl: {said[0] if said else 'it was ended'}")
        finally:
            patience.cancel()
    return rows, False


def _lines_of(row: dict[str, Any]) -> list[str]:
    """Format one record; further lines of its message are indented."""
    at = datetime.fromtimestamp(int(row.get("__REALTIME_TIMESTAMP", 0)) / 1e6, UTC)
    priority = str(row.get("PRIORITY", ""))
    level = _LEVELS[int(priority)] if priority.isdecimal() and int(priority) < len(_LEVELS) else "-"
    first, *more = _message(row.get("MESSAGE")).splitlines() or [""]
    fields = [f"DDWD_{one.upper()}" for one in FIELDS]
    facts = "".join(f" {name}={plain(row[name])}" for name in fields if name in row)
    who = f"{plain(row.get('SYSLOG_IDENTIFIER', '-'))}[{plain(row.get('_PID', '-'))}]"
    return [f"{stamp(at)} {who} {level}: {plain(first)}{facts}", *(f"    {plain(line)}" for line in more)]


def _message(value: object) -> str:
    """Return text; journald gives bytes that are not text as a list of numbers, and null for what is too long."""
    if isinstance(value, list):
        return bytes(one & 0xFF for one in value if isinstance(one, int)).decode(errors="replace")
    return "(too long)" if value is None else str(value)
