"""Every path that ddwd owns, each with the one process that writes it; all derived from Config.

Read by every process. Nothing else in the package spells a path of the portal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ddwd import __version__
from ddwd.core.model import safe_component

if TYPE_CHECKING:
    from ddwd.config.retention import Place
    from ddwd.config.schema import Config, NodeName, Role

Daemon = Literal["scp", "extractor"]

_POSTGRESQL = Path("/var/lib/postgresql")
_INSTALLED_TREE = Path("/usr/lib/ddwd")
_INSTALLED_SHARE = Path("/usr/share/ddwd/orthanc")

PRIVATE = ".ddwd"
"""Folder inside OUTPUT_DIR for what is not yet published: same file system, so that a rename publishes."""


def orthanc_share(package: Path | None = None) -> Path:
    """Folder of the Orthanc JSON and Lua scripts: the installed one, or the clone's `orthanc/`."""
    home = (package or Path(__file__).parents[1]).resolve()
    return _INSTALLED_SHARE if home.is_relative_to(_INSTALLED_TREE) else home.parent / "orthanc"


@dataclass(frozen=True, slots=True)
class Paths:
    """The portal's files for one Config."""

    config: Config

    @property
    def output(self) -> Path:
        """The published tree PatientID/Study/Series/SOP.dcm; the extractor, by rename."""
        return self.config.output_dir

    @property
    def private(self) -> Path:
        """Holds `incoming`, `spool` and `staging`; made by whichever daemon comes first.

        Where several machines share OUTPUT_DIR, each has its own, by the AE title of its receiver, and touches no other's.
        """
        folder = self.output / PRIVATE
        return folder / safe_component(self.config.scp.aet) if self.config.ledger.is_shared else folder

    @property
    def incoming(self) -> Path:
        """Objects on their way in, not yet acknowledged; the SCP writes and sweeps it."""
        return self.private / "incoming"

    @property
    def spool(self) -> Path:
        """Acknowledged objects, one folder a study; the SCP adds, the extractor alone takes away."""
        return self.private / "spool"

    @property
    def staging(self) -> Path:
        """Studies being laid out before their one rename; the extractor."""
        return self.private / "staging"

    @property
    def state(self) -> Path:
        """What must survive a restart; the extractor."""
        return self.config.data_dir / "state"

    @property
    def restoring(self) -> Path:
        """Stands while `ddwd restore` is at work, or was broken off: nothing starts then; it alone writes it."""
        return self.config.data_dir / "restore-unfinished"

    @property
    def settings(self) -> Path:
        """The settings of the last start, without passwords; the extractor."""
        return self.state / "settings.json"

    @property
    def ledger(self) -> Path:
        """Segments of the rotating ledger; the extractor."""
        return self.state / "ledger"

    @property
    def custody(self) -> Path:
        """One record for each finished study; the extractor."""
        return self.state / "custody"

    @property
    def pre_upgrade_copy(self) -> Path:
        """The ledger and the custody records as the version before left them, to go back to; the extractor, once at its first start."""
        return self.state / f"before-{__version__}"

    @property
    def retention(self) -> Path:
        """What retention removed last, and what it could not; the extractor."""
        return self.state / "retention.json"

    @property
    def requests(self) -> Path:
        """The operator's wishes, one file each; the CLI and the TUI add, the extractor consumes."""
        return self.state / "requests"

    @property
    def hooks(self) -> Path:
        """Finished studies whose hooks are to be called: the extractor adds to `waiting`, ddwd-hooks writes the rest."""
        return self.config.data_dir / "hooks"

    @property
    def hooks_table(self) -> Path:
        """Which rule has which hook; provision writes it anew at each start."""
        return self.config.run_dir / "hooks.json"

    @property
    def hooks_status(self) -> Path:
        """What waits for its hook, and why; ddwd-hooks."""
        return self.config.run_dir / "hooks" / "status.json"

    @property
    def deliveries(self) -> Path:
        """What each of `destinations` was proved to have, one file for a destination and a study; ddwd-courier."""
        return self.config.data_dir / "courier"

    @property
    def courier_status(self) -> Path:
        """How each of `destinations` stands, and what waits for it; ddwd-courier."""
        return self.config.run_dir / "courier" / "status.json"

    @property
    def quarantine(self) -> Path:
        """What could not be delivered as it should, with the reason beside it; the extractor."""
        return self.config.data_dir / "quarantine"

    def conflicts(self, node: NodeName) -> Path:
        """Objects of other content than the stored ones; that Orthanc (plugin.py) adds, the extractor takes away."""
        return self.config.data_dir / "conflicts" / node

    @property
    def commitments(self) -> Path:
        """Requests for storage commitment that wait for their answer; each Orthanc (plugin.py) adds, ddwd-commitment takes away."""
        return self.config.data_dir / "commitment"

    @property
    def gateway_storage(self) -> Path:
        """Storage area of the gateway Orthanc, which alone writes it."""
        return self.config.data_dir / "gateway"

    @property
    def storage_storage(self) -> Path:
        """Storage area of the storage Orthanc, which alone writes it."""
        return self.config.data_dir / "storage"

    def storage_area(self, node: NodeName) -> Path:
        """Storage area of that Orthanc, which alone writes it."""
        return self.gateway_storage if node == "gateway" else self.storage_storage

    def of_place(self, place: Place) -> Path:
        """A folder on the volume of one of the places that retention knows (ddwd/config/retention.py)."""
        return self.output if place == "output" else self.storage_area(place)

    def database_area(self) -> list[Path]:
        """Where PostgreSQL keeps the indexes, if it is the one of this machine; PostgreSQL alone writes there."""
        return [_POSTGRESQL] if self.config.database.is_local else []

    def rendered(self, node: NodeName) -> Path:
        """Folder of JSON files that Orthanc is started with; provision writes it anew at each start."""
        return self.config.run_dir / "orthanc" / node

    @property
    def routes(self) -> Path:
        """The table of rules that the gateway's Lua and the extractor judge by; provision writes it anew at each start."""
        return self.config.run_dir / "routes.json"

    @property
    def tls(self) -> Path:
        """What is rendered for TLS: the terminators' settings, and whom the gateway trusts; provision writes it anew at each start."""
        return self.config.run_dir / "tls"

    def role(self, role: Role) -> Path:
        """Stands where that role is this machine's: the units look for it; provision writes it anew at each start."""
        return self.config.run_dir / "roles" / role

    def additions(self, node: NodeName) -> Path:
        """The operator's own JSON for that Orthanc; only the operator writes it."""
        return self.config.credentials_file.parent / "orthanc" / f"{node}.d"

    def doorbell(self, node: NodeName) -> Path:
        """That Orthanc (Lua) writes a byte here when something came; the extractor listens by inotify."""
        return self.config.run_dir / "doorbell" / node

    @property
    def alerts(self) -> Path:
        """What stands and was told; the monitor."""
        return self.config.data_dir / "monitor" / "alerts.json"

    @property
    def audit_queue(self) -> Path:
        """Audit messages that wait for the repository, and how far the journal was read; the monitor."""
        return self.config.data_dir / "monitor" / "audit"

    @property
    def refusals(self) -> Path:
        """How far the Orthancs' log was read for refused associations; the monitor."""
        return self.config.data_dir / "monitor" / "refusals.cursor"

    @property
    def self_test(self) -> Path:
        """What the last study of our own did; `ddwd doctor --send` writes it."""
        return self.config.run_dir / "doctor" / "last.json"

    @property
    def forwarding_paused(self) -> Path:
        """Stands while storage has no room for more; the extractor writes it, the gateway's Lua looks for it."""
        return self.config.run_dir / "extractor" / "forwarding-paused"

    def heartbeat(self, daemon: Daemon) -> Path:
        """JSON status of that daemon, which alone writes it; the CLI and the TUI read it."""
        return self.config.run_dir / daemon / "status.json"
