"""State of the portal's units from systemd, for `ddwd status`. Reads only; without systemd (`ddwd try`) there are no units."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ddwd.config.schema import Config, Role
    from ddwd.config.schema_network import NodeName

    Systemctl = Callable[[Sequence[str]], str | None]
    """Runs systemctl with these arguments; returns its output, or None if systemd does not answer."""

UNITS = (
    "ddwd",
    "ddwd-folders",
    "ddwd-provision",
    "ddwd-databases",
    "ddwd-firewall",
    "ddwd-gateway",
    "ddwd-acceptor",
    "ddwd-storage",
    "ddwd-scp",
    "ddwd-extractor",
    "ddwd-signer",
    "ddwd-monitor",
    "ddwd-inbox",
    "ddwd-hooks",
    "ddwd-commitment",
    "ddwd-courier",
)
"""The target unit, then the others in the order they start."""
OPTIONAL = ("ddwd-tls@storage", "ddwd-tls@web-gateway", "ddwd-tls@web-storage", "ddwd-tls@link")
"""Units that depend on the settings by a condition."""
ROLE_OF: Mapping[str, Role] = {
    "ddwd-gateway": "gateway",
    "ddwd-acceptor": "gateway",
    "ddwd-inbox": "gateway",
    "ddwd-courier": "gateway",
    "ddwd-storage": "storage",
    "ddwd-scp": "extractor",
    "ddwd-extractor": "extractor",
    "ddwd-hooks": "extractor",
}
"""Units that start only if that role is this machine's; the others start everywhere."""
_PROPERTIES = "Id,ConditionResult,LoadState,ActiveState,SubState,Result,NRestarts,StatusText"
_SKIPPED = "exec-condition"
"""Result= of a unit that the settings do not need: ddwd-hooks without a hook."""
_BOOTED = Path("/run/systemd/system")
_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit in systemd's terms; `text` is the status that the daemon last reported.

    `sub` is the substate, or `exec-condition` if it does not run because the settings do not need it.
    """

    name: str
    active: str
    sub: str
    restarts: int
    text: str

    @property
    def is_well(self) -> bool:
        """True for a unit that runs, or is not needed; one that is still starting does not count."""
        return self.active == "active" or (self.active == "inactive" and self.sub == _SKIPPED)


def systemctl(arguments: Sequence[str]) -> str | None:
    """Run systemctl of this machine; None if there is none, or it does not answer."""
    program = shutil.which("systemctl")
    if program is None or not _BOOTED.is_dir():  # the folder that sd_booted(3) checks
        return None
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def log_command(unit: str) -> str:
    """Return the command that shows the end of a unit's log."""
    return f"journalctl -u {unit} -n 50"


def log_of(config: Config, node: NodeName) -> str:
    """Return the command that shows an Orthanc's log; of one on another machine also that of the link, which may be what fails."""
    own = log_command(f"ddwd-{node}")
    return own if config.has(node) else f"{log_command('ddwd-tls@link')}; on {config.node(node).host}: {own}"


def is_active(run: Systemctl, unit: str) -> bool:
    """Return whether systemd reports the unit as active."""
    found = run(["show", "--property=ActiveState", "--", unit])
    return found is not None and _properties(found).get("ActiveState") == "active"


def ask(run: Systemctl, roles: Collection[Role]) -> tuple[Unit, ...]:
    """Return every unit of these roles, in the order of UNITS, then those of OPTIONAL that the settings need; empty if systemd does not answer."""
    names = [f"{name}.service" for name in (*UNITS, *OPTIONAL)]
    found = run(["show", f"--property={_PROPERTIES}", "--", *names])
    if found is None:
        return ()
    blocks = [_properties(block) for block in found.strip().split("\n\n")]
    by_name = {block.get("Id", ""): block for block in blocks}
    optional = [
        name for name in OPTIONAL if by_name.get(f"{name}.service", {}).get("ConditionResult") == "yes"
    ]
    here = [name for name in UNITS if ROLE_OF.get(name) is None or ROLE_OF[name] in roles]
    return tuple(_unit(name, by_name.get(f"{name}.service", {})) for name in (*here, *optional))


def _properties(block: str) -> dict[str, str]:
    return {key: value for key, _, value in (line.partition("=") for line in block.splitlines())}


def _unit(name: str, properties: dict[str, str]) -> Unit:
    restarts = properties.get("NRestarts", "")
    skipped = properties.get("Result") == _SKIPPED
    loaded = properties.get("LoadState", "not-found")
    return Unit(
        name=name,
        active=properties.get("ActiveState", "unknown") if loaded == "loaded" else loaded,
        sub=_SKIPPED if skipped else properties.get("SubState", ""),
        restarts=int(restarts) if restarts.isdecimal() else 0,
        text="not needed by the settings" if skipped else properties.get("StatusText", ""),
    )
