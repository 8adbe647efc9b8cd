"""The state of the portal as one frozen Report: units, both Orthancs, heartbeats and disks, each read once. Writes nothing.

Each source has a time limit, and the failure of one does not affect the others. Studies are named by StudyInstanceUID only.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ddwd.config.paths import Paths
from ddwd.config.schema import HERE
from ddwd.core import disk_space
from ddwd.core.audit import Audit
from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import ConfigError, DamagedStateError, DdwdError
from ddwd.core.problem import Problem, problem
from ddwd.core.problem_codes import Code
from ddwd.extractor.peers import silent
from ddwd.extractor.quarantine import Quarantine
from ddwd.provisioning import credentials
from ddwd.status import chain, connections, postgresql, study_lookup, units
from ddwd.status.formatting import size, span
from ddwd.status.problems import problems_of
from ddwd.store import status_files
from ddwd.store.statefile import stored
from ddwd.store.status_files import AcceptorStatus, ExtractorStatus, ScpStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddwd.config.paths import Daemon
    from ddwd.config.schema import Config, OrthancNode
    from ddwd.core.clock import Clock
    from ddwd.orthanc.port import ServerStatus
    from ddwd.provisioning.credentials import Credentials
    from ddwd.status.units import Systemctl, Unit

_STALE_SECONDS = 10.0
_NOTICED_FOR = timedelta(minutes=1)
"""What ddwd-monitor noticed is not believed any longer: it writes every few seconds."""
_STOPPED = {
    "retrieve": "nothing is retrieved",
    "forward": "nothing is forwarded",
    "receive": "nothing is accepted",
}


@dataclass(frozen=True, slots=True)
class ReportSources:
    """The sources of a report; `patience` is the seconds an Orthanc has to answer."""

    systemctl: Systemctl
    orthanc: Callable[[OrthancNode, Credentials], ServerStatus]
    clock: Clock
    database: Callable[[Config], str]
    """Why PostgreSQL is not reached; empty if it is."""
    patience: float = 10.0
    connected: Callable[[int], int] = connections.established
    """Port of this machine -> established connections to it."""


@dataclass(frozen=True, slots=True)
class OrthancState:
    """One Orthanc: its answer and the milliseconds it took, or in `problem` why there is none; `unasked` without credentials.

    `log` is the command that shows its log.

    `hangs` are the seconds for which it was asked in vain; 0 for one that answers, or refuses the connection.

    `associations` are the connections to the DICOM port of ORTHANC2, of which `limit` are served at once; None where it is on another
    machine, and for ORTHANC1, before which ddwd-acceptor counts.
    """

    name: str
    aet: str
    version: str = ""
    database: str = ""
    studies: int = 0
    instances: int = 0
    bytes: int = 0
    milliseconds: float = 0.0
    problem: str = ""
    unasked: bool = False
    log: str = ""
    hangs: float = 0.0
    associations: int | None = None
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One daemon's heartbeat: its age in seconds and its content, both None without one; its problem."""

    daemon: str
    age: float | None = None
    facts: AcceptorStatus | ScpStatus | ExtractorStatus | None = field(
        default=None, metadata=stored(blank=True)
    )
    problem: str = ""
    is_stale: bool = False

    @property
    def scp(self) -> ScpStatus:
        """The status of the receiver; that of an idle one if this is none."""
        return self.facts if isinstance(self.facts, ScpStatus) else ScpStatus()

    @property
    def acceptor(self) -> AcceptorStatus:
        """The status of the acceptor; that of an idle one if this is none."""
        return self.facts if isinstance(self.facts, AcceptorStatus) else AcceptorStatus()

    @property
    def extractor(self) -> ExtractorStatus:
        """The status of the extractor; that of an idle one if this is none."""
        return self.facts if isinstance(self.facts, ExtractorStatus) else ExtractorStatus()

    @property
    def silent_peers(self) -> dict[str, str]:
        """Peers that do not answer the extractor, each with the reason."""
        return silent(self.extractor.peers)


@dataclass(frozen=True, slots=True)
class VolumeState:
    """Space on one volume, in bytes; `level` as disk_space.SpaceLevel, in lower case; `hours_left` is None while it does not fill up."""

    use: str
    path: str
    free: int = 0
    total: int = 0
    level: str = ""
    hours_left: float | None = None
    problem: str = ""
    read_only: bool = False

    @property
    def main_use(self) -> str:
        """The first of its uses."""
        return self.use.partition(", ")[0]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything `ddwd status` shows; `quarantine`, the number of images in it, is None if this user may not read it."""

    at: str
    units: tuple[Unit, ...]
    servers: tuple[OrthancState, ...]
    hearts: tuple[Heartbeat, ...]
    volumes: tuple[VolumeState, ...]
    counts: dict[str, int]
    in_flight: tuple[status_files.InFlightStudy, ...]
    recent: tuple[status_files.FinishedStudy, ...]
    quarantine: int | None
    paused: bool = False
    paused_by: str = ""
    """Who has paused retrieving, `paused_at` when, as a stamp; empty where that is not known."""
    paused_at: str = ""
    self_test: status_files.SelfTestResult | None = None
    swept: status_files.SweepStatus | None = field(default=None, metadata=stored(blank=True))
    retention: status_files.RetentionStatus | None = field(default=None, metadata=stored(blank=True))
    destinations: tuple[status_files.DestinationStatus, ...] = ()
    """The state of each destination, from ddwd-courier's status file."""
    hooks: int = 0
    """Studies whose hook failed and will be retried."""
    acceptor: Heartbeat | None = None
    """The heartbeat of ddwd-acceptor, with the senders and their refusals; None if the gateway is on another machine."""
    lost: status_files.LostStatus | None = field(default=None, metadata=stored(blank=True))
    """Published studies of which an Orthanc is missing images that it had, though retention did not remove them; None without any."""
    two_patients: int = 0
    """Studies whose StudyInstanceUID is in use under another PatientID too, and about which nobody has decided."""
    chain: chain.ChainState | None = None
    """The chain of signed events, from ddwd-signer's status file; None without one."""
    database: str = ""
    """Why PostgreSQL is not reached; empty if it is."""
    noticed: tuple[Problem, ...] = field(default=(), metadata=stored(transient=True))
    """Problems that only ddwd-monitor notices, since they show over time or need checks that take long."""
    since: dict[str, str] = field(default_factory=dict, metadata=stored(transient=True))
    """Since when each problem lasts: a stamp by its key, as ddwd-monitor has seen it."""
    aside: dict[str, int] = field(default_factory=dict)
    """Folder -> objects whose content differs from the stored ones, and that no extractor of this machine moves to quarantine."""

    @property
    def studies(self) -> tuple[status_files.InFlightStudy | status_files.FinishedStudy, ...]:
        """The studies in flight, then those that were just published."""
        return (*self.in_flight, *self.recent)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is not well, causes with their consequences: the one list that every view reads."""
        return problems_of(self)


def real_sources() -> ReportSources:
    """Return this machine's systemd, Orthancs and clock."""
    return ReportSources(units.systemctl, study_lookup.orthanc, SystemClock(), postgresql.problem)


def collect(config: Config, sources: ReportSources) -> Report:
    """Read every source; one that fails leaves its part of the report empty."""
    paths = Paths(config)
    daemons: tuple[Daemon, ...] = ("scp", "extractor") if config.has("extractor") else ()
    hearts = tuple(_heart(config, daemon, sources.clock) for daemon in daemons)
    heart = hearts[-1] if hearts else Heartbeat("extractor", problem="it runs on another machine")
    extractor = heart.extractor
    quarantined, two_patients = _quarantined(paths.quarantine)
    noticed, since = noticed_by_monitor(config, sources.clock)
    return Report(
        at=stamp(sources.clock.utc()),
        # only `ddwd try` has the embedded database, and it has no units
        units=units.ask(sources.systemctl, config.roles) if config.database.engine == "postgresql" else (),
        servers=tuple(_with_associations(config, sources, server) for server in _servers(config, sources)),
        hearts=hearts,
        volumes=_watched(config, heart) or _volumes(config),
        counts=extractor.counts,
        in_flight=extractor.in_flight,
        recent=extractor.recent,
        quarantine=quarantined,
        two_patients=two_patients,
        paused=extractor.paused,
        paused_by=extractor.paused_by,
        paused_at=extractor.paused_at,
        self_test=status_files.SELF_TEST.read_or_none(paths.self_test),
        swept=extractor.swept,
        retention=extractor.retention,
        lost=extractor.lost,
        destinations=destination_states(config),
        hooks=_failed_hooks(paths.hooks_status),
        acceptor=_heart(config, "acceptor", sources.clock) if config.has("gateway") else None,
        chain=chain.state_of(config, sources.clock),
        database=sources.database(config),
        noticed=noticed,
        since=since,
        aside=_aside(config),
    )


def noticed_by_monitor(config: Config, clock: Clock) -> tuple[tuple[Problem, ...], dict[str, str]]:
    """Return what ddwd-monitor notices, and since when each problem lasts; nothing of a monitor that does not run."""
    status = status_files.MONITOR.read_or_none(Paths(config).monitor_status)
    try:
        if status is None or clock.utc() - datetime.fromisoformat(status.at) > _NOTICED_FOR:
            return (), {}
        rows = status.problems
        found = [
            problem(Code(row.code), row.cause, row.remedy, row.subject, study=row.study, count=row.count)
            for row in rows
        ]
    except (ValueError, TypeError):  # no stamp, or a code of another version
        return (), {}
    return tuple(found), status.since


def _heart(config: Config, daemon: Daemon, clock: Clock) -> Heartbeat:
    path = Paths(config).heartbeat(daemon)
    facts: AcceptorStatus | ScpStatus | ExtractorStatus | None
    try:
        if daemon == "acceptor":
            facts = status_files.ACCEPTOR.read(path)
        else:
            facts = status_files.SCP.read(path) if daemon == "scp" else status_files.EXTRACTOR.read(path)
        if facts is None:
            return Heartbeat(daemon, problem=f"the {daemon} has not written {path} yet: it does not run")
        written = facts.updated if isinstance(facts, ExtractorStatus) else facts.at
        age = (clock.utc() - datetime.fromisoformat(written)).total_seconds()
    except OSError as error:
        return Heartbeat(daemon, problem=f"{path}: {error.strerror}")
    except (DamagedStateError, ValueError, TypeError):  # TypeError: a stamp without a zone
        return Heartbeat(daemon, problem=f"{path} is damaged: the {daemon} writes a new one when it runs")
    # the extractor writes at each turn, and the turns of an idle one are poll_interval apart
    limit = max(_STALE_SECONDS, 2 * config.poll_interval if daemon == "extractor" else 0.0)
    problem = ""
    if age > limit:
        problem = f"the heartbeat of the {daemon} is stale ({span(age)} old): it hangs or was stopped"
    elif isinstance(facts, ScpStatus) and not facts.alive:
        problem = "the scp does not answer its own C-ECHO"
    return Heartbeat(daemon, max(0.0, round(age, 1)), facts, problem, is_stale=age > limit)


def _servers(config: Config, sources: ReportSources) -> tuple[OrthancState, ...]:
    """Ask both Orthancs at once; each has `patience` seconds."""
    nodes, patience = config.known_nodes, sources.patience
    try:
        login = credentials.own(config.credentials_file)
    except ConfigError as error:
        return tuple(OrthancState(node.name, node.aet, problem=str(error), unasked=True) for node in nodes)
    # a server that has not answered in time keeps this state
    states = {
        node.name: OrthancState(
            node.name,
            node.aet,
            problem=f"{node.name} does not answer on {node.url} within {patience:g} s{_elsewhere(node)}",
            log=units.log_of(config, node.name),
            hangs=patience,
        )
        for node in nodes
    }

    def ask(node: OrthancNode) -> None:
        found = _server(node, sources.orthanc(node, login), sources.clock)
        states[node.name] = replace(found, log=units.log_of(config, node.name))

    # daemon threads and not a pool: a hung Orthanc must not delay the end of the program
    threads = [threading.Thread(target=ask, args=(node,), daemon=True) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patience)
    return tuple(states[node.name] for node in nodes)


def _with_associations(config: Config, sources: ReportSources, server: OrthancState) -> OrthancState:
    if server.name != "storage" or not config.has("storage"):
        return server
    count = sources.connected(config.storage.dicom_port)
    return replace(server, associations=count, limit=connections.dicom_threads(config, "storage"))


def _elsewhere(node: OrthancNode) -> str:
    """Return an addition for an Orthanc on another machine: it may be down, or the link to it."""
    return "" if node.host == HERE else f"; it runs on {node.host}, ddwd-tls@link leads there"


def _server(node: OrthancNode, orthanc: ServerStatus, clock: Clock) -> OrthancState:
    began = clock.monotonic()
    try:
        system = orthanc.system()
        seconds = clock.monotonic() - began
        statistics = orthanc.statistics()
    except DdwdError as error:
        return OrthancState(node.name, node.aet, problem=f"{error}{_elsewhere(node)}")
    # the plugin's file, and null for the embedded SQLite
    plugin = str(system.get("DatabaseBackendPlugin") or "SQLite")
    return OrthancState(
        name=node.name,
        aet=str(system.get("DicomAet", node.aet)),
        version=str(system.get("Version", "")),
        database="PostgreSQL" if "PostgreSQL" in plugin else plugin,
        studies=int(statistics.get("CountStudies", 0)),
        instances=int(statistics.get("CountInstances", 0)),
        bytes=int(statistics.get("TotalDiskSize", 0)),
        milliseconds=round(seconds * 1000, 1),
    )


def _watched(config: Config, extractor: Heartbeat) -> tuple[VolumeState, ...]:
    """Return every volume that the extractor watches, with the hours until it is full; none if the extractor does not run."""
    volumes = []
    for row in () if extractor.problem else extractor.extractor.disk:
        problem = ""
        if stopped := " and ".join(_STOPPED[purpose] for purpose in row.stops if purpose in _STOPPED):
            problem = f"{row.path}: only {size(row.free)} free; {stopped} until there is more"
        if row.read_only:
            places = " and ".join(row.read_only)
            problem = (
                f"{places} cannot be written, its volume is read-only; nothing is retrieved until it can"
            )
        use = ", ".join(dict.fromkeys(_use(config, place) for place in row.paths or (row.path,)))
        volumes.append(
            VolumeState(
                use, row.path, row.free, row.total, row.level, row.hours_left, problem, bool(row.read_only)
            )
        )
    return tuple(volumes)


def _use(config: Config, place: str) -> str:
    if place == str(config.output_dir):
        return "output"
    return "data" if place.startswith(f"{config.data_dir}/") else "database"


def _volumes(config: Config) -> tuple[VolumeState, ...]:
    """Return the space for the output and for the portal's own data; one row if both are the same volume."""
    if not config.has("extractor"):
        return (_volume(config, "data", config.data_dir),)
    output, data = _volume(config, "output", config.output_dir), _volume(config, "data", config.data_dir)
    if output.total and data.total and config.output_dir.stat().st_dev == config.data_dir.stat().st_dev:
        return (_volume(config, "output, data", config.output_dir),)
    return (output, data)


def _volume(config: Config, use: str, path: Path) -> VolumeState:
    try:
        space = disk_space.space_of(path)
    except OSError as error:
        return VolumeState(use, str(path), problem=f"{path}: {error.strerror}")
    level = disk_space.level_of(space, config.disk.reserve)
    problem = ""
    if level >= disk_space.SpaceLevel.NO_RETRIEVE:
        problem = f"{path}: only {size(space.free)} free; the portal stops taking images before it is full"
    return VolumeState(use, str(path), space.free, space.total, disk_space.level_name(level), problem=problem)


def _quarantined(folder: Path) -> tuple[int | None, int]:
    """Count the images in quarantine, None if this user may not read them, and the decisions about two patients that wait there."""
    try:
        next(iter(folder.iterdir()), None)
    except FileNotFoundError:
        return 0, 0
    except OSError:
        return None, 0
    quarantine = Quarantine(folder, SystemClock(), Audit())
    return quarantine.count(), quarantine.count_two_patients()


def destination_states(config: Config) -> tuple[status_files.DestinationStatus, ...]:
    """Return the state of each configured destination; empty if ddwd-courier has not written any."""
    configured = {destination.name for destination in config.destinations}
    status = status_files.COURIER.read_or_none(Paths(config).courier_status) or status_files.CourierStatus()
    return tuple(row for row in status.destinations if row.name in configured)


def _failed_hooks(path: Path) -> int:
    """Return the number of failed hooks that ddwd-hooks reports; 0 if it does not run."""
    status = status_files.HOOKS.read_or_none(path) or status_files.HooksStatus()
    return sum(bool(notice.failures) for notice in status.waiting)


def _aside(config: Config) -> dict[str, int]:
    """Count conflicts that no extractor collects, since none runs on this machine; without folders that this user may not read."""
    if config.has("extractor"):
        return {}
    found = {}
    for node in config.own_nodes:
        folder = Paths(config).conflicts(node.name)
        with suppress(OSError):
            if count := sum(path.suffix == ".dcm" for path in folder.iterdir()):
                found[str(folder)] = count
    return found
