"""`ddwd status`: is the portal well, on one screen. Reads the units, both Orthancs, the heartbeats and the disks; writes nothing.

Two steps: `collect` asks everything, each source in bounded time and none able to stop the others, into one frozen Report;
`render` and `as_json` show the same Report. Studies are named by StudyInstanceUID only, never by patient.
"""

from __future__ import annotations

import json
import textwrap
import threading
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from ddwd import __version__, room
from ddwd.appliance import credentials
from ddwd.audit import Audit
from ddwd.cli import units
from ddwd.cli.units import Unit
from ddwd.clock import SystemClock, stamp
from ddwd.errors import ConfigError, DdwdError
from ddwd.lifecycle import Stage
from ddwd.orthanc_api import Orthanc
from ddwd.paths import Paths
from ddwd.pipeline.quarantine import Quarantine

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ddwd.appliance.credentials import Credentials
    from ddwd.cli.units import Systemctl
    from ddwd.clock import Clock
    from ddwd.config import Config, OrthancNode
    from ddwd.paths import Daemon

_STALE_SECONDS = 10.0
_PATIENCE_SECONDS = 10.0
_WIDTH = 80
_SHOWN = 5
"""Studies shown in each list of the screen; the JSON has them all."""
_STOPPED = {
    "retrieve": "nothing is retrieved",
    "forward": "nothing is forwarded",
    "receive": "nothing is accepted",
}
_LEVELS = {
    "warn": "gets short of room",
    "no-retrieve": "short of room for retrieving",
    "no-forward": "short of room for forwarding",
    "refuse": "no room but the reserve",
}
_LONG_HOURS = 24 * 60
"""A volume that lasts longer than two months is not worth a word."""
_STAMPS = {"scp": "at", "extractor": "updated"}
_EPILOG = """exit status:
  0   all is well: every unit is active, both Orthancs answer, both heartbeats are
      fresh, no study waits after a failure, and there is room on the disks
  1   something is wrong; it is named at the end (in JSON: "wrong")
  64  wrong usage
  78  the configuration cannot be used
Images in quarantine wait for you, and are counted, but are not an error."""


class OrthancView(Protocol):
    """What the status asks of an Orthanc; raises PeerDownError or PeerRefusedError."""

    def system(self) -> dict[str, Any]:
        """Answer `/system`."""

    def statistics(self) -> dict[str, Any]:
        """Answer `/statistics`."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the facts come from; `patience` is the seconds an Orthanc has to answer."""

    systemctl: Systemctl
    orthanc: Callable[[OrthancNode, Credentials], OrthancView]
    clock: Clock
    patience: float = _PATIENCE_SECONDS


@dataclass(frozen=True, slots=True)
class Server:
    """One Orthanc: what it answered in how many milliseconds, or in `problem` why there is no answer."""

    name: str
    aet: str
    version: str = ""
    database: str = ""
    studies: int = 0
    instances: int = 0
    milliseconds: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Heart:
    """One daemon's heartbeat: its age in seconds, None without one; what it holds; what is wrong with it."""

    daemon: str
    age: float | None
    facts: dict[str, Any]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Volume:
    """Room on one volume, in bytes; `level` as room.Level, in lower case; `hours_left` is None while it does not fill up."""

    use: str
    path: str
    free: int = 0
    total: int = 0
    level: str = ""
    hours_left: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything `ddwd status` shows; `quarantine` is None where the reader may not look."""

    at: str
    units: tuple[Unit, ...]
    servers: tuple[Server, ...]
    hearts: tuple[Heart, ...]
    volumes: tuple[Volume, ...]
    counts: dict[str, int]
    in_flight: tuple[dict[str, Any], ...]
    recent: tuple[dict[str, Any], ...]
    quarantine: int | None

    @property
    def wrong(self) -> tuple[str, ...]:
        """One line for each thing that is not as it should be."""
        return tuple(_all_wrong(self))


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb and its arguments."""
    parser = subparsers.add_parser(
        "status",
        help="is the portal well: units, Orthancs, studies, disks",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the same as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config, out: TextIO) -> int:
    """Collect and show; the exit status."""
    report = collect(config, Ports(units.systemctl, _orthanc, SystemClock()))
    out.write(as_json(report) if args.json else render(report))
    return 1 if report.wrong else 0


def _orthanc(node: OrthancNode, login: Credentials) -> Orthanc:
    return Orthanc(node.name, node.url, *login.login(node.name))


# --- collecting -------------------------------------------------------------------------------------------------------


def collect(config: Config, ports: Ports) -> Report:
    """Ask every source; none of them failing keeps the others from being shown."""
    paths = Paths(config)
    scp, extractor = (_heart(config, daemon, ports.clock) for daemon in _daemons())
    return Report(
        at=stamp(ports.clock.utc()),
        # `ddwd try` alone has the embedded database, and no unit is its own
        units=units.ask(ports.systemctl) if config.database.engine == "postgresql" else (),
        servers=_servers(config, ports),
        hearts=(scp, extractor),
        volumes=_watched(config, extractor) or _volumes(config),
        counts=dict(extractor.facts.get("counts", {})),
        in_flight=_rows(extractor, "study_uid", "state", "reason", "instances", "on_disk"),
        # of its fields the folder is left out: its name begins with the PatientID
        recent=_rows(
            extractor, "study_uid", "state", "instances", "revision", "published_at", "seconds", of="recent"
        ),
        quarantine=_quarantined(paths.quarantine),
    )


def _daemons() -> tuple[Daemon, Daemon]:
    return "scp", "extractor"


def _heart(config: Config, daemon: Daemon, clock: Clock) -> Heart:
    """Read a heartbeat and judge its age."""
    path = Paths(config).heartbeat(daemon)
    try:
        facts = json.loads(path.read_bytes())
        age = (clock.utc() - datetime.fromisoformat(facts[_STAMPS[daemon]])).total_seconds()
    except FileNotFoundError:
        return Heart(daemon, None, {}, f"the {daemon} has not written {path} yet: it does not run")
    except OSError as error:
        return Heart(daemon, None, {}, f"{path}: {error.strerror}")
    except (ValueError, KeyError, TypeError):
        return Heart(daemon, None, {}, f"{path} is damaged: the {daemon} will write it anew when it runs")
    # the extractor writes at each turn, and an idle one takes its turns POLL_INTERVAL apart
    limit = max(_STALE_SECONDS, 2 * config.poll_interval if daemon == "extractor" else 0.0)
    return Heart(daemon, max(0.0, round(age, 1)), facts, _heart_problem(daemon, age, limit, facts))


def _heart_problem(daemon: Daemon, age: float, limit: float, facts: dict[str, Any]) -> str:
    if age > limit:
        return f"the heartbeat of the {daemon} is stale ({_span(age)} old): it hangs or was stopped"
    if daemon == "scp" and not facts.get("alive", True):
        return "the scp does not answer its own C-ECHO"
    return ""


def _rows(heart: Heart, *names: str, of: str = "in_flight") -> tuple[dict[str, Any], ...]:
    return tuple({name: row.get(name) for name in names} for row in heart.facts.get(of, ()))


def _servers(config: Config, ports: Ports) -> tuple[Server, ...]:
    """Ask both Orthancs at once; one that hangs has `patience` seconds."""
    nodes = (config.gateway, config.storage)
    try:
        login = credentials.read(config.credentials_file)
    except ConfigError as error:
        return tuple(Server(node.name, node.aet, problem=str(error)) for node in nodes)
    found: dict[str, Server] = {}

    def ask(node: OrthancNode) -> None:
        found[node.name] = _server(node, ports.orthanc(node, login), ports.clock)

    # daemon threads and not a pool: a hung Orthanc must not hold up the end of the program
    threads = [threading.Thread(target=ask, args=(node,), daemon=True) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ports.patience)
    return tuple(found.get(node.name) or _silent(node, ports.patience) for node in nodes)


def _silent(node: OrthancNode, patience: float) -> Server:
    problem = f"{node.name} does not answer on {node.url} (nothing within {patience:g} s)"
    return Server(node.name, node.aet, problem=problem)


def _server(node: OrthancNode, orthanc: OrthancView, clock: Clock) -> Server:
    began = clock.monotonic()
    try:
        system = orthanc.system()
        seconds = clock.monotonic() - began
        statistics = orthanc.statistics()
    except DdwdError as error:
        return Server(node.name, node.aet, problem=str(error))
    return Server(
        name=node.name,
        aet=str(system.get("DicomAet", node.aet)),
        version=str(system.get("Version", "")),
        database=_database(system.get("DatabaseBackendPlugin")),
        studies=int(statistics.get("CountStudies", 0)),
        instances=int(statistics.get("CountInstances", 0)),
        milliseconds=round(seconds * 1000, 1),
    )


def _database(plugin: object) -> str:
    """Name of the index: Orthanc gives the plugin's file, and null for its embedded SQLite."""
    if plugin is None:
        return "SQLite"
    return "PostgreSQL" if "PostgreSQL" in str(plugin) else str(plugin)


def _watched(config: Config, extractor: Heart) -> tuple[Volume, ...]:
    """Every volume as the extractor watches it, with the hours it has left; nothing where the extractor does not run."""
    rows = () if extractor.problem else extractor.facts.get("disk", ())
    return tuple(_watched_volume(config, row) for row in rows)


def _watched_volume(config: Config, row: dict[str, Any]) -> Volume:
    path, free = str(row["path"]), int(row["free"])
    stopped = [_STOPPED[purpose] for purpose in row.get("stops", ()) if purpose in _STOPPED]
    problem = (
        f"{path}: only {_size(free)} free; {' and '.join(stopped)} until there is more" if stopped else ""
    )
    uses = dict.fromkeys(_use(config, place) for place in row.get("paths", [path]))
    hours = row.get("hours_left")
    return Volume(", ".join(uses), path, free, int(row["total"]), str(row["level"]), hours, problem)


def _use(config: Config, place: str) -> str:
    if place == str(config.output_dir):
        return "output"
    return "data" if place.startswith(f"{config.data_dir}/") else "database"


def _volumes(config: Config) -> tuple[Volume, ...]:
    """Room for the output and for the portal's own data; one line where both are the same volume."""
    output, data = (
        _volume(config, use, path) for use, path in (("output", config.output_dir), ("data", config.data_dir))
    )
    if output.total and data.total and config.output_dir.stat().st_dev == config.data_dir.stat().st_dev:
        return (_volume(config, "output, data", config.output_dir),)
    return (output, data)


def _volume(config: Config, use: str, path: Path) -> Volume:
    try:
        space = room.space_of(path)
    except OSError as error:
        return Volume(use, str(path), problem=f"{path}: {error.strerror}")
    level = room.level_of(space, config.disk.reserve)
    problem = ""
    if level >= room.Level.NO_RETRIEVE:
        problem = f"{path}: only {_size(space.free)} free; the portal stops taking images before it is full"
    return Volume(use, str(path), space.free, space.total, room.word(level), problem=problem)


def _quarantined(folder: Path) -> int | None:
    """Objects in quarantine; None where this user may not look."""
    try:
        next(iter(folder.iterdir()), None)
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    return Quarantine(folder, SystemClock(), Audit()).count()


def _all_wrong(report: Report) -> Iterator[str]:
    for unit in report.units:
        if not unit.is_well:
            yield f"{unit.name} is {unit.active}; see: journalctl -u {unit.name} -n 50"
    # without credentials both servers have the same problem, which is said once
    yield from dict.fromkeys(server.problem for server in report.servers if server.problem)
    yield from (heart.problem for heart in report.hearts if heart.problem)
    yield from (volume.problem for volume in report.volumes if volume.problem)
    yield from _not_reached(report)
    if waiting := report.counts.get(Stage.WAITING.value, 0):
        yield f"{_many(waiting, 'study waits', 'studies wait')} after a failure, and will be tried again"


def _not_reached(report: Report) -> Iterator[str]:
    """The peers that the extractor cannot reach although they answered us."""
    extractor = report.hearts[-1]
    answering = {server.name for server in report.servers if not server.problem}
    if not extractor.problem:
        for name, state in extractor.facts.get("peers", {}).items():
            if name in answering and state != "ok":
                yield f"for the extractor: {state}"


# --- showing ----------------------------------------------------------------------------------------------------------


def as_json(report: Report) -> str:
    """The whole Report as one JSON object, with `well` and `wrong` in front."""
    body = {"well": not report.wrong, "wrong": report.wrong, "version": __version__, **asdict(report)}
    for heart in body["hearts"]:
        for shown_elsewhere in ("in_flight", "recent", "counts"):
            heart["facts"].pop(shown_elsewhere, None)
    return json.dumps(body) + "\n"


def render(report: Report) -> str:
    """One screen of plain text, 80 columns."""
    parts = [
        _headline(report),
        _unit_lines(report),
        _server_lines(report),
        _heart_lines(report),
        _flight_lines(report),
        _recent_lines(report),
        _room_lines(report),
        _wrong_lines(report),
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def _headline(report: Report) -> list[str]:
    wrong = len(report.wrong)
    verdict = "all is well" if not wrong else f"{_many(wrong, 'thing is', 'things are')} wrong"
    return [f"D-DW-D Portal {__version__} at {report.at}: {verdict}"]


def _unit_lines(report: Report) -> list[str]:
    if not report.units:
        return ["units: not under systemd here, see the heartbeats"]
    return ["units", *(_unit_line(unit) for unit in report.units)]


def _unit_line(unit: Unit) -> str:
    state = f"{unit.active} ({unit.sub})" if unit.sub else unit.active
    said = [_many(unit.restarts, "restart", "restarts")] if unit.restarts else []
    said += [unit.text] if unit.text else []
    return _cut(f"  {unit.name:<15} {state:<18} {'; '.join(said)}")


def _server_lines(report: Report) -> list[str]:
    lines = ["orthanc   AE title         version  database     studies  instances   answered"]
    for one in report.servers:
        if one.problem:
            lines.append(f"  {one.name:<7} {one.aet:<16} no answer, see below")
            continue
        lines.append(
            f"  {one.name:<7} {one.aet:<16} {one.version:<8} {one.database:<10} {one.studies:>9,} "
            f"{one.instances:>10,} {one.milliseconds:>7.0f} ms"
        )
    return lines


def _heart_lines(report: Report) -> list[str]:
    return ["heartbeats", *(_heart_line(heart) for heart in report.hearts)]


def _heart_line(heart: Heart) -> str:
    if heart.age is None:
        return f"  {heart.daemon:<9} none"
    stale = "STALE, " if "stale" in heart.problem else ""
    return _cut(f"  {heart.daemon:<9} {stale}{_span(heart.age)} old; {_said(heart)}")


def _said(heart: Heart) -> str:
    facts = heart.facts
    if heart.daemon == "scp":
        received = f"{facts.get('received', 0):,} received ({_size(facts.get('received_bytes', 0))})"
        return f"{received}, {facts.get('refused', 0):,} refused, last {_time(facts.get('last_received'))}"
    totals = facts.get("totals", {})
    published = _many(totals.get("studies", 0), "study", "studies")
    fetched = _many(totals.get("instances", 0), "image", "images")
    return f"{published} published, {fetched} fetched, {totals.get('forwarded', 0):,} sent again"


def _flight_lines(report: Report) -> list[str]:
    stages = ", ".join(f"{count} {stage}" for stage, count in sorted(report.counts.items()))
    lines = [f"studies in flight: {stages or 'none'}"]
    # those that wait after a failure first: they are what one looks for
    rows = sorted(report.in_flight, key=lambda row: row["state"] != Stage.WAITING.value)
    for row in rows[:_SHOWN]:
        lines.append(f"  {row['study_uid'] or '(not listed yet)'}")
        lines.append(
            _cut(f"    {row['on_disk']}/{row['instances']} on disk, {row['state']}: {row['reason']}")
        )
    return lines + _more(len(rows))


def _recent_lines(report: Report) -> list[str]:
    if not report.recent:
        return ["last studies: none since the extractor started"]
    lines = ["last studies        images seconds  StudyInstanceUID"]
    for row in report.recent[:_SHOWN]:
        facts = f"  {_time(row['published_at']):<17} {row['instances']:>6} {row['seconds']:>7.1f}"
        lines += _beside(facts, str(row["study_uid"]))
    return lines + _more(len(report.recent))


def _beside(left: str, uid: str) -> list[str]:
    """Put the UID on the same line, or whole on the next: one that is cut cannot be copied."""
    line = f"{left}  {uid}"
    return [line] if len(line) <= _WIDTH else [left, f"    {uid}"]


def _more(count: int) -> list[str]:
    return [f"  and {count - _SHOWN} more, see --json"] if count > _SHOWN else []


def _room_lines(report: Report) -> list[str]:
    lines = ["disk"]
    for one in report.volumes:
        free = f"{_size(one.free)} free of {_size(one.total)}" if one.total else "see below"
        lines += _beside(f"  {one.use:<12} {free:<24}", one.path)
        if said := _outlook(one):
            lines.append(_cut(f"    {said}"))
    waiting = "not readable by this user" if report.quarantine is None else f"{report.quarantine:,}"
    return [*lines, f"quarantine: {waiting}"]


def _outlook(volume: Volume) -> str:
    """How little there is and how long it will last, where either deserves a word."""
    words = [] if volume.level in ("", "ok") else [_LEVELS.get(volume.level, volume.level)]
    if volume.hours_left is not None and volume.hours_left < _LONG_HOURS:
        words.append(f"full in {_span(volume.hours_left * 3600)} if it goes on as in the last hour")
    return "; ".join(words)


def _wrong_lines(report: Report) -> list[str]:
    if not report.wrong:
        return []
    lines = ["wrong"]
    for line in report.wrong:
        lines += textwrap.wrap(
            line,
            _WIDTH,
            initial_indent="  - ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _cut(line: str) -> str:
    return line.rstrip() if len(line) <= _WIDTH else line[: _WIDTH - 3].rstrip() + "..."


def _time(moment: object) -> str:
    """Shorten a stamp to `2026-01-31 23:59Z`."""
    return f"{moment[:10]} {moment[11:16]}Z" if isinstance(moment, str) else "never"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004 - what the SI prefixes mean
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _many(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"
