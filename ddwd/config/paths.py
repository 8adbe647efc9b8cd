"""Every path that ddwd owns, derived from Config. After the semicolon of a docstring: the one process that writes there.

Read by every process. No other module spells a path of the portal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ddwd import __version__
from ddwd.core.model import marked_component

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddwd.config.retention import Place
    from ddwd.config.schema import Config, NodeName, Role

Daemon = Literal["acceptor", "scp", "extractor"]

_POSTGRESQL = Path("/var/lib/postgresql")
_INSTALLED_TREE = Path("/usr/lib/ddwd")
_INSTALLED_SHARE = Path("/usr/share/ddwd/orthanc")

PRIVATE = ".ddwd"
"""Folder inside OUTPUT_DIR for what is not yet published: same file system, so that a rename publishes."""


def orthanc_share(package: Path | None = None) -> Path:
    """Folder of the Orthanc JSON and Lua scripts: the installed one, or the clone's `orthanc/`."""
    home = (package or Path(__file__).parents[1]).resolve()
    return _INSTALLED_SHARE if home.is_relative_to(_INSTALLED_TREE) else home.parent / "orthanc"


class _Path:
    """A read-only property in one line: the path that a function makes of the Paths."""

    def __init__(self, make: Callable[[Paths], Path]) -> None:
        self._make = make

    def __get__(self, paths: Paths, _owner: object = None) -> Path:
        return self._make(paths)


@dataclass(frozen=True, slots=True)
class Paths:
    """The portal's files for one Config."""

    config: Config

    # --- below OUTPUT_DIR
    output = _Path(lambda paths: paths.config.output_dir)
    """The published tree PatientID/Study/Series/SOP.dcm; the extractor, by rename."""
    incoming = _Path(lambda paths: paths.private / "incoming")
    """Objects that are being received, not yet acknowledged; the SCP, which also sweeps it."""
    spool = _Path(lambda paths: paths.private / "spool")
    """Acknowledged objects, one folder a study; the SCP adds, the extractor alone removes."""
    staging = _Path(lambda paths: paths.private / "staging")
    """Studies that are being laid out before their one rename; the extractor."""

    former_names = _Path(lambda paths: paths.private / "former-names.json")
    """Folders that were renamed for an older version; prerm before a downgrade, and the extractor, which removes it."""

    @property
    def private(self) -> Path:
        """Holds `incoming`, `spool` and `staging`; made by the daemon that starts first.

        Where several machines share OUTPUT_DIR, each has its own, by the AE title of its receiver, and uses no other's.
        """
        folder = self.output / PRIVATE
        return folder / marked_component(self.config.scp.aet) if self.config.ledger.is_shared else folder

    # --- below data_dir
    state = _Path(lambda paths: paths.config.data_dir / "state")
    """What must survive a restart; the extractor."""
    settings = _Path(lambda paths: paths.state / "settings.json")
    """The settings of the last start, without passwords; the extractor."""
    ledger = _Path(lambda paths: paths.state / "ledger")
    """Segments of the rotating ledger; the extractor."""
    custody = _Path(lambda paths: paths.state / "custody")
    """One record for each finished study; the extractor."""
    studies = _Path(lambda paths: paths.state / "studies.sqlite")
    """The index of all studies, derived from the custody records; the extractor."""
    pre_upgrade_copy = _Path(lambda paths: paths.state / f"before-{__version__}")
    """Ledger and custody records as the previous version left them, to go back to; the extractor, once at its first start."""
    retention = _Path(lambda paths: paths.state / "retention.json")
    """What retention removed last, and what it could not remove; the extractor."""
    lost = _Path(lambda paths: paths.state / "lost.json")
    """Studies of which an Orthanc is missing images that it had; the extractor."""
    requests = _Path(lambda paths: paths.state / "requests")
    """Commands of the operator, one file each; the CLI and the TUI add, the extractor consumes."""
    restoring = _Path(lambda paths: paths.config.data_dir / "restore-unfinished")
    """Exists while `ddwd restore` runs, or after it was interrupted: no service starts then; `ddwd restore`."""
    hooks = _Path(lambda paths: paths.config.data_dir / "hooks")
    """Finished studies whose hooks must run; the extractor adds to `waiting`, ddwd-hooks writes the rest."""
    chain = _Path(lambda paths: paths.config.data_dir / "chain")
    """The chain: its entries, their tree, the heads and the public key; ddwd-signer."""
    signer_key = _Path(lambda paths: paths.config.data_dir / "signer" / "key.pem")
    """The key that signs the chain's heads; ddwd-signer, once."""
    deliveries = _Path(lambda paths: paths.config.data_dir / "courier")
    """What each of `destinations` was proved to have, one file for a destination and a study; ddwd-courier."""
    quarantine = _Path(lambda paths: paths.config.data_dir / "quarantine")
    """Images that could not be published, each with the reason beside it; the extractor."""
    commitments = _Path(lambda paths: paths.config.data_dir / "commitment")
    """Requests for storage commitment without an answer yet; each Orthanc (plugin.py) adds, ddwd-commitment removes."""
    alerts = _Path(lambda paths: paths.config.data_dir / "monitor" / "alerts.json")
    """Conditions that last, and those that were reported; the monitor."""
    chain_publication = _Path(lambda paths: paths.config.data_dir / "monitor" / "chain.json")
    """Up to which published head of the chain all were brought elsewhere, and what is in the way of the next; the monitor."""
    chain_stamps = _Path(lambda paths: paths.config.data_dir / "monitor" / "stamps")
    """Time stamps (RFC 3161) of published heads of the chain, by the number of their entries; the monitor."""
    audit_queue = _Path(lambda paths: paths.config.data_dir / "monitor" / "audit")
    """Audit messages that wait for the repository, and how far the journal was read; the monitor."""
    refusals = _Path(lambda paths: paths.config.data_dir / "monitor" / "refusals.cursor")
    """How far the Orthancs' log was read for refused associations; the monitor."""

    def storage_area(self, node: NodeName) -> Path:
        """Storage area; that Orthanc."""
        return self.config.data_dir / node

    def conflicts(self, node: NodeName) -> Path:
        """Objects whose content differs from the stored ones; that Orthanc (plugin.py) adds, the extractor removes."""
        return self.config.data_dir / "conflicts" / node

    def of_place(self, place: Place) -> Path:
        """A folder on the volume of one of the places of retention, to measure its space; who writes there is in the other rows."""
        return self.output if place == "output" else self.storage_area(place)

    def database_area(self) -> list[Path]:
        """Folder of the indexes if PostgreSQL runs on this machine; PostgreSQL."""
        return [_POSTGRESQL] if self.config.database.is_local else []

    # --- below run_dir: provision writes its files anew at each start
    hooks_table = _Path(lambda paths: paths.config.run_dir / "hooks.json")
    """Which route has which hook; provision."""
    routes = _Path(lambda paths: paths.config.run_dir / "routes.json")
    """The table of routes that the gateway's Lua and the extractor read; provision."""
    logins = _Path(lambda paths: paths.config.run_dir / "logins")
    """The login of each unit that asks an Orthanc, a file for each, which systemd reads as root; provision."""
    tls = _Path(lambda paths: paths.config.run_dir / "tls")
    """What is rendered for TLS: the terminators' settings, and the authorities that the gateway trusts; provision."""
    hooks_status = _Path(lambda paths: paths.config.run_dir / "hooks" / "status.json")
    """Studies that wait for their hook, and why; ddwd-hooks."""
    monitor_status = _Path(lambda paths: paths.config.run_dir / "monitor" / "status.json")
    """Problems that only the monitor notices, and since when each problem lasts; the monitor."""
    signer_status = _Path(lambda paths: paths.config.run_dir / "signer" / "status.json")
    """State of the chain: entries, heads, and what is wrong with it; ddwd-signer."""
    courier_status = _Path(lambda paths: paths.config.run_dir / "courier" / "status.json")
    """State of each of `destinations`, and what waits for it; ddwd-courier."""
    self_test = _Path(lambda paths: paths.config.run_dir / "doctor" / "last.json")
    """Result of the last self test; `ddwd doctor --send`."""
    verdicts = _Path(lambda paths: paths.config.run_dir / "acceptor" / "verdicts")
    """Socket by which the gateway's admission filter says why it refuses an object; the acceptor."""
    gateway_fault = _Path(lambda paths: paths.config.run_dir / "gateway" / "fault")
    """The signal by which ORTHANC1 last ended by a fault of its own; ExecStopPost= of ddwd-gateway."""
    forwarding_paused = _Path(lambda paths: paths.config.run_dir / "extractor" / "forwarding-paused")
    """Exists while storage has no space for more images; read by the gateway's Lua; the extractor."""

    def rendered(self, node: NodeName) -> Path:
        """Folder of JSON files that Orthanc is started with; provision."""
        return self.config.run_dir / "orthanc" / node

    def role(self, role: Role) -> Path:
        """Exists where this machine has that role: a condition of the units; provision."""
        return self.config.run_dir / "roles" / role

    def doorbell(self, node: NodeName) -> Path:
        """A byte for each change, which the extractor notices by inotify; that Orthanc (Lua)."""
        return self.config.run_dir / "doorbell" / node

    def heartbeat(self, daemon: Daemon) -> Path:
        """JSON status for the CLI and the TUI; that daemon."""
        return self.config.run_dir / daemon / "status.json"

    def additions(self, node: NodeName) -> Path:
        """The operator's own JSON for that Orthanc; the operator."""
        return self.config.credentials_file.parent / "orthanc" / f"{node}.d"
