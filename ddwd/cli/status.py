"""`ddwd status`: show the Report of status/report.py on one screen, or as JSON. Writes nothing."""

from argparse import Namespace
from typing import Any, TextIO

from ddwd import __version__
from ddwd.cli.command import Argument, Command, Marked, VerbResult, watch, width, wrapped
from ddwd.config.schema import Config
from ddwd.core.answers import Key
from ddwd.core.printable import many
from ddwd.core.problem import PROBLEMS, VERDICT, Problem, as_answer, is_well, verdict, with_all, worst
from ddwd.extractor.decision import Blocker, Stage
from ddwd.status import chain, senders
from ddwd.status import report as view
from ddwd.status.chain import ChainState
from ddwd.status.formatting import plain, second, size, span, time
from ddwd.status.report import Heartbeat, OrthancState, Report, VolumeState
from ddwd.status.units import Unit
from ddwd.store.statefile import encode
from ddwd.store.status_files import (
    DestinationStatus,
    FinishedStudy,
    InFlightStudy,
    LostStatus,
    RetentionStatus,
    SelfTestResult,
    SweepStatus,
)

_SHOWN = 5
"""Studies shown in each list of the screen; the JSON has them all."""
_LEVELS = {
    "warn": "gets short of room",
    "no-retrieve": "short of room for retrieving",
    "no-forward": "short of room for forwarding",
    "refuse": "no room but the reserve",
}
_LONG_HOURS = 24 * 60
"""A volume that lasts longer than two months is not mentioned."""


REPORT = (
    Key("at", str, "when it was read"),
    Key("units", list[Unit], "the portal's units of systemd"),
    Key("servers", list[OrthancState], "both Orthancs"),
    Key(
        "hearts",
        list[Heartbeat],
        "the status files of receiver and extractor: `age` in seconds, `facts` is what it says",
    ),
    Key("volumes", list[VolumeState], "the volumes that the portal writes to"),
    Key("counts", dict[str, int], "studies in flight by state"),
    Key("in_flight", list[InFlightStudy], "the studies in flight"),
    Key("recent", list[FinishedStudy], "the studies that were published last"),
    Key("quarantine", int | None, "images in quarantine; null: not for this user"),
    Key("paused", bool, "whether retrieving is paused"),
    Key("paused_by", str, "who has paused it"),
    Key("paused_at", str, "since when"),
    Key("self_test", SelfTestResult | None, "the last self test"),
    Key(
        "swept",
        SweepStatus | None,
        "how far the comparison of both Orthancs and the disk is; empty: not known",
    ),
    Key("retention", RetentionStatus | None, "the rounds of retention; empty: nothing is ever removed"),
    Key("destinations", list[DestinationStatus], "the other destinations"),
    Key("hooks", int, "studies whose hook failed"),
    Key("acceptor", Heartbeat | None, "the status file of ddwd-acceptor, with the senders"),
    Key("lost", LostStatus | None, "images that were received and are missing; empty: none"),
    Key("two_patients", int, "studies whose StudyInstanceUID is in use under another PatientID too"),
    Key("chain", ChainState | None, "the chain of signed events"),
    Key("database", str, "why PostgreSQL is not reached; empty: it is"),
    Key("aside", dict[str, int], "folder and number of objects in it that wait for an extractor"),
)
"""The fields of status.report.Report."""


def _run(args: Namespace, config: Config, out: TextIO) -> int:
    def look() -> VerbResult:
        report = view.collect(config, view.real_sources())
        return VerbResult(as_json(report), lines(report), 0 if is_well(report.problems) else 1)

    seconds = None if args.watch is None else max(0.5, args.watch)
    return watch(look, seconds, args, out)


def as_json(report: Report) -> dict[str, Any]:
    """Return the whole Report for json.dumps, with the verdict and the problems in front."""
    body: dict[str, Any] = as_answer(report.problems) | {"version": __version__} | encode(report)
    for heart in body["hearts"]:
        for shown_elsewhere in ("in_flight", "recent", "counts", "swept", "retention", "lost"):
            heart["facts"].pop(shown_elsewhere, None)
    return body


def render(report: Report) -> str:
    """Return the report as plain text."""
    return "\n".join(lines(report)) + "\n"


def lines(report: Report) -> list[str]:
    """Return the report as lines, as wide as the terminal."""
    problems = report.problems
    head = f"D-DW-D Portal {__version__} at {second(report.at)}: {verdict(problems)}"
    parts: list[list[str]] = [
        [Marked.of(head, worst(problems) or 0)],
        _unit_lines(report),
        _server_lines(report),
        _heart_lines(report),
        _sender_lines(report),
        _swept_lines(report),
        _flight_lines(report),
        _recent_lines(report),
        _room_lines(report),
        _chain_lines(report),
        _retention_lines(report),
        _destination_lines(report),
        [line for one in problems for line in problem_lines(one)],
    ]
    return [line for part in parts for line in part]


def _unit_lines(report: Report) -> list[str]:
    if not report.units:
        return ["units: not under systemd here, see the heartbeats"]
    return ["units", *map(_unit_line, report.units)]


def _unit_line(unit: Unit) -> str:
    state = f"{unit.active} ({unit.sub})" if unit.sub else unit.active
    notes = [many(unit.restarts, "restart", "restarts")] if unit.restarts else []
    notes += [unit.text] if unit.text else []
    return _cut(f"  {unit.name:<15} {state:<18} {'; '.join(notes)}")


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
        if one.associations is not None:
            lines.append(f"          {one.associations} of {one.limit} associations")
    return lines


def _heart_lines(report: Report) -> list[str]:
    if not report.hearts:
        return ["the extractor runs on another machine, which shows the studies"]
    return ["heartbeats", *map(_heart_line, report.hearts)]


def _heart_line(heart: Heartbeat) -> str:
    if heart.age is None:
        return f"  {heart.daemon:<9} none"
    stale = "STALE, " if heart.is_stale else ""
    return _cut(f"  {heart.daemon:<9} {stale}{span(heart.age)} old; {_totals(heart)}")


def _totals(heart: Heartbeat) -> str:
    if heart.daemon == "scp":
        scp = heart.scp
        received = f"{scp.received:,} received ({size(scp.received_bytes)})"
        of_limit = f"{scp.associations}/{scp.limit} associations, " if scp.limit else ""
        return f"{of_limit}{received}, {scp.refused:,} refused, last {time(scp.last_received)}"
    totals = heart.extractor.totals
    published = many(totals.studies, "study", "studies")
    images = many(totals.instances, "image", "images")
    return f"{published} published, {images} retrieved, {totals.forwarded:,} forwarded again"


def _sender_lines(report: Report) -> list[str]:
    """Show the open associations, and who was refused in the last hour, how often and why."""
    if report.acceptor is None or report.acceptor.age is None:
        return []
    acceptor = report.acceptor.acceptor
    refusals = [(sender, reason) for sender in acceptor.senders for reason in sender.reasons]
    lines = wrapped(f"senders: {senders.summary(acceptor)}", "", 2)
    # what is a problem now comes first
    refusals.sort(key=lambda row: not row[1].standing)
    for sender, reason in refusals[:_SHOWN]:
        lines.append(_cut(f"  {senders.who(sender)}, last {time(reason.last)}"))
        lines += wrapped(senders.what(reason), "    ", 4)
    return lines + _more(len(refusals))


def _swept_lines(report: Report) -> list[str]:
    if report.swept is None:
        return []
    studies = max([server.studies for server in report.servers], default=0)
    ended = report.swept.ended_at
    last = f"all of them last at {time(ended)}" if ended else "not yet all of them"
    return [f"compared  {report.swept.compared:,} of {studies:,} studies; {last}"]


_TROUBLE = frozenset({Stage.WAITING.value, Stage.HELD.value})


def _flight_lines(report: Report) -> list[str]:
    if not report.hearts:
        return []
    stages = ", ".join(f"{count} {stage}" for stage, count in sorted(report.counts.items()))
    lines = [f"studies in flight: {stages or 'none'}"]
    if report.paused:
        by = report.paused_by or "the operator"
        lines.append(
            _cut(f"  retrieving is PAUSED by {by}, {time(report.paused_at)}; go on with: ddwd resume")
        )
    # studies that wait after a failure, are held, or have images that storage refuses, come first: the operator looks for them
    rows = sorted(
        report.in_flight, key=lambda row: row.state not in _TROUBLE and row.blocker != Blocker.REFUSED.value
    )
    for row in rows[:_SHOWN]:
        lines.append(f"  {row.study_uid or '(not listed yet)'}")
        state = f"{row.state} (route {row.route})" if row.route else row.state
        text = f"{row.on_disk}/{row.instances} on disk, {state}: {row.reason}"
        # the words of who refuses an image are at the end
        is_refused = row.blocker == Blocker.REFUSED.value
        lines += wrapped(text, "    ", 4) if is_refused else [_cut(f"    {text}")]
    return lines + _more(len(rows))


def _recent_lines(report: Report) -> list[str]:
    if not report.hearts:
        return []
    if not report.recent:
        return ["last studies: none since the extractor started"]
    lines = ["last studies           images seconds  StudyInstanceUID"]
    for row in report.recent[:_SHOWN]:
        facts = f"  {time(row.published_at):<20} {row.instances:>6} {row.seconds:>7.1f}"
        lines += _beside(facts, row.study_uid)
    return lines + _more(len(report.recent))


def _beside(left: str, uid: str) -> list[str]:
    """Put the UID on the same line, or whole on the next: a UID that is cut cannot be copied."""
    line = f"{left}  {uid}"
    return [line] if len(line) <= width() else [left, f"    {uid}"]


def _chain_lines(report: Report) -> list[str]:
    return [] if report.chain is None else wrapped(f"chain: {chain.text_of(report.chain)}", "", 2)


def _more(count: int) -> list[str]:
    return [f"  and {count - _SHOWN} more, see --json"] if count > _SHOWN else []


def _room_lines(report: Report) -> list[str]:
    lines = ["disk"]
    for one in report.volumes:
        free = f"{size(one.free)} free of {size(one.total)}" if one.total else "see below"
        lines += _beside(f"  {one.use:<12} {free:<24}", one.path)
        if outlook := _outlook(one):
            lines.append(_cut(f"    {outlook}"))
    waiting = "not readable by this user" if report.quarantine is None else f"{report.quarantine:,}"
    return [*lines, f"quarantine: {waiting}"]


def _retention_lines(report: Report) -> list[str]:
    if report.retention is None:
        return []
    last = report.retention.last
    if last is None:
        return ["retention: no round yet"]
    places = last.places.values()
    studies, freed = sum(one.studies for one in places), sum(one.bytes for one in places)
    removed = f"{many(studies, 'study', 'studies')} removed ({size(freed)})"
    lines = [f"retention: {removed} at {time(last.ended_at)}"]
    if stay := sum(kept.studies for one in places for kept in one.kept):
        lines.append(f"  {many(stay, 'study has', 'studies have')} to stay; why: ddwd retention")
    return lines


def _destination_lines(report: Report) -> list[str]:
    if not report.destinations:
        return []
    lines = [
        f"  {row.name:<12} {row.state:<5} {many(row.studies, 'study', 'studies')} "
        f"({many(row.images, 'image', 'images')}) waiting"
        for row in report.destinations
    ]
    return ["destinations", *map(_cut, lines)]


def _outlook(volume: VolumeState) -> str:
    """Return how short of space the volume is and how long that will last; empty if neither matters."""
    words = [] if volume.level in ("", "ok") else [_LEVELS.get(volume.level, volume.level)]
    if volume.hours_left is not None and volume.hours_left < _LONG_HOURS:
        words.append(f"full in {span(volume.hours_left * 3600)} at the rate of the last hour")
    return "; ".join(words)


def problem_lines(one: Problem) -> list[str]:
    """Return a problem for people: what it is and its code, what to do, and what comes of it."""
    head = f"{one.severity.name:<6} "
    since = f", since {time(one.since)}" if one.since else ""
    text = wrapped(f"{plain(one.cause)} [{one.code}{since}]", head, len(head))
    lines: list[str] = [Marked.of(line, one.severity) for line in text]
    if one.remedy:
        lines += wrapped(plain(one.remedy), f"{'do:':>6} ", 7)
    for follows in with_all(one.consequences):
        lines += wrapped(plain(follows.cause), f"{'so:':>6} ", 7)
    return lines


def _cut(line: str) -> str:
    return line.rstrip() if len(line) <= width() else line[: width() - 3].rstrip() + "..."


COMMAND = Command(
    "status",
    "is the portal well: units, Orthancs, studies, disks",
    _run,
    (
        Argument(
            "--watch",
            nargs="?",
            type=float,
            const=2.0,
            metavar="SECONDS",
            help="show it again every so many seconds (2), until Ctrl-C",
        ),
    ),
    about="""The problems are at the end: what is broken first, each with its code (man ddwd-problems), what to do,
and what else comes of it. A warning asks for attention, as images in quarantine do, or a pause by the operator.""",
    answer=(
        VERDICT,
        PROBLEMS,
        Key("version", str, "version of the portal"),
        *REPORT,
    ),
    exits={
        0: "all is well, or there are warnings alone",
        1: "something is broken",
    },
)
