"""Render the parts of a DashboardModel as rich Text for a given width. Pure functions; the screen and `--once` show the same.

Colour only repeats what a word states, so that a terminal without colour shows the same information.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from ddwd import __version__
from ddwd.core.printable import many
from ddwd.core.problem import Severity, verdict, worst
from ddwd.status.dashboard import Patient
from ddwd.status.flow import Light
from ddwd.status.formatting import clock, plain, scaled, second, size, span, time
from ddwd.status.senders import remedy, what
from ddwd.store.status_files import FinishedStudy, InFlightStudy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ddwd.core.model import OrthancId
    from ddwd.core.problem import Problem
    from ddwd.status.dashboard import DashboardModel
    from ddwd.status.flow import HopRate
    from ddwd.store.status_files import SenderStatus

COLOURS = {Light.OK: "green", Light.SLOW: "yellow", Light.WAITING: "yellow", Light.BROKEN: "bold red"}
_STYLES = {None: "green", Severity.NOTE: "green", Severity.WARN: "bold yellow", Severity.BROKEN: "bold red"}
_STAGES = {"waiting": "yellow", "ready": "green", "published": "green"}
_SPARKS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_FULL, _EMPTY = "\u2587", "\u2581"
_BAR = 4
_ARROW = " \u25b6"
_MOST_TROUBLE = 6
_REMEDY_SHARE = 0.7
"""A longer remedy is cut with its cause."""
_NARROW = 100
_BRIEF = 10
_TAIL = 10


class Column(NamedTuple):
    """One column of a table of studies: its heading, and its width on a narrow and on a wide screen."""

    title: str
    narrow: int
    wide: int

    def width(self, screen: int) -> int:
        """Return the width in characters on a screen of that width."""
        return self.narrow if screen < _NARROW else self.wide


_ORIGIN = Column("patient", 9, 12), Column("accession", 12, 16), Column("from", 9, 16)
FLIGHT = (
    *_ORIGIN,
    Column("stage", 11, 11),
    Column("ORTHANC1", 10, 11),
    Column("ORTHANC2", 10, 11),
    Column("disk", 10, 11),
    Column("age", 7, 8),
)
FINISHED = (
    *_ORIGIN,
    Column("at", 9, 9),
    Column("images", 8, 8),
    Column("size", 10, 10),
    Column("to disk", 9, 9),
    Column("rev", 5, 5),
)

SENDERS = (
    Column("AE title", 17, 20),
    Column("address", 16, 18),
    Column("open", 5, 8),
    Column("images", 9, 14),
    Column("refused", 8, 10),
    Column("last seen", 25, 26),
)


@dataclass(frozen=True, slots=True)
class PatientMasking:
    """Looks up the patient of a study, and masks patient IDs unless `unmasked` is set."""

    of: Callable[[OrthancId], Patient] = lambda _study: Patient()
    unmasked: bool = False

    def origin(self, row: InFlightStudy | FinishedStudy) -> list[str]:
        """Return patient ID (without one, the end of the StudyInstanceUID), accession number, and calling AE title."""
        patient = self.of(row.study) if row.study else Patient()
        shown = patient.patient_id if self.unmasked else patient.masked
        return [shown or f"\u2026{row.study_uid[1 - _TAIL :]}", patient.accession, row.aet]


def head(board: DashboardModel, width: int) -> Text:
    """Return the first line: name, version, verdict, and time."""
    problems = board.problems
    text = Text(f"D-DW-D Portal {__version__}  ", style="bold")
    text.append(f"\u25cf {verdict(problems)}", style=_STYLES[worst(problems)])
    if board.report.paused:
        text.append("  PAUSED", style="bold yellow")
    text.append(clock(board.report.at).rjust(width - text.cell_len))
    return text


def problem_lines(board: DashboardModel, width: int) -> Text:
    """Return the problems, one per line; empty if there are none."""
    found = board.problems
    shown = [Text(_problem_line(one, width), style=_STYLES[one.severity]) for one in found[:_MOST_TROUBLE]]
    if more := len(found[_MOST_TROUBLE:]):
        shown.append(Text(_short(f"  and {more} more, see: ddwd status", width), style="red"))
    return Text("\n").join(shown)


def _problem_line(one: Problem, width: int) -> str:
    """Return a problem in a line of that width: where it is too long, the cause is cut and the remedy stays, if it leaves room."""
    line, do = f"! {plain(one.line)}", f"; do: {plain(one.remedy)}" if one.remedy else ""
    if len(line) <= width or len(do) > width * _REMEDY_SHARE:
        return _short(line, width)
    return _short(line.removesuffix(do), width - len(do)) + do


def flow(board: DashboardModel, width: int) -> Text:
    """Return the hops side by side: name, light, rates, the last minutes, waiting images."""
    cell = width // len(board.hops)
    columns = [_hop_cells(hop, board, cell) for hop in board.hops]
    return Text("\n").join(Text("").join(row) for row in zip(*columns, strict=True))


def _hop_cells(hop: HopRate, board: DashboardModel, cell: int) -> list[Text]:
    arrow = "" if hop is board.hops[-1] else _ARROW
    name = plain(hop.title)[: cell - len(arrow) - 1]
    title = Text(name, style="bold") + Text(arrow.rjust(cell - len(name)), style="dim")
    spark = Text(_spark(hop, cell - 2).ljust(cell), style="cyan")
    if hop.name == "modality":
        lines = "sends by DIMSE", _last_image(board), ""
        state, rates, backlog = (_fitted(line, cell) for line in lines)
    else:
        rate = hop.images_per_second
        state = Text(f"\u25cf {hop.light.value}".ljust(cell), style=COLOURS[hop.light])
        rates = _fitted(f"{rate:.{0 if rate >= _BRIEF else 1}f}/s {_brief(hop.bytes_per_second)}/s", cell)
        waiting = f"{hop.backlog:,} wait" if hop.backlog else "none wait"
        backlog = _fitted("" if hop.name == "gateway" else waiting, cell)
    return [title, state, rates, spark, backlog, _fitted(_associations(hop, cell - 1), cell)]


def _associations(hop: HopRate, width: int) -> str:
    """Return the open associations and their limit, in the longest words that fit; empty where they are not known."""
    if not hop.limit:
        return ""
    count, limit = f"{hop.associations:,}", f"{hop.limit:,}"
    forms = f"{count} of {limit} associations", f"{count} of {limit} assoc.", f"{count}/{limit} assoc."
    return next((form for form in forms if len(form) <= width), f"{count}/{limit}")


def _brief(amount: float) -> str:
    """As `size`, in at most five characters."""
    number, unit = scaled(amount)
    number = round(number, 1)
    return f"{number:.0f}{unit}" if unit == "B" or number >= _BRIEF else f"{number:.1f}{unit}"


def _last_image(board: DashboardModel) -> str:
    newest = max((row.newest_at for row in board.report.in_flight), default="")
    return f"last {span(_seconds(newest, board.report.at))} ago" if newest else ""


def _spark(hop: HopRate, cells: int) -> str:
    if not any(hop.history) or cells < 1:
        return ""
    each = -(-len(hop.history) // cells)  # values that share a character, so that all minutes have room
    values = [max(hop.history[start : start + each]) for start in range(0, len(hop.history), each)]
    top = max(values)
    return "".join(_SPARKS[min(8, round(8 * value / top) or (value > 0))] for value in values)


def flight_row(row: InFlightStudy, masking: PatientMasking, now: str, width: int) -> list[Text]:
    """Return the cells of one study in flight, each as wide as its column."""
    bars = [_bar(count, row.instances) for count in (row.on_gateway, row.on_storage, row.on_disk)]
    age = span(_seconds(row.opened_at or now, now))
    cells = [*masking.origin(row), row.state, *bars, age]
    return _cells(cells, FLIGHT, width, {3: _STAGES.get(row.state, "")})


def finished_row(row: FinishedStudy, masking: PatientMasking, width: int) -> list[Text]:
    """Return the cells of one study that was just published."""
    cells = [
        *masking.origin(row),
        clock(row.published_at),
        f"{row.added or row.instances:,}",
        size(row.bytes),
        f"{row.seconds:.1f} s",
        str(row.revision),
    ]
    return _cells(cells, FINISHED, width, {6: "green"})


def sender_row(row: SenderStatus, width: int) -> list[Text]:
    """Return the cells of one sender; `refused` are the refusals of the last hour."""
    cells = [
        row.aet or "none",
        row.address,
        str(row.open),
        f"{row.images:,}",
        f"{row.recent:,}",
        second(row.seen),
    ]
    return _cells(cells, SENDERS, width, {4: "bold red"} if row.recent else {})


def sender_reasons(row: SenderStatus) -> list[str]:
    """Return the refusals of the last hour of one sender: how often, what and why, when last, and what to do."""
    if not row.reasons:
        return ["none of its images or associations was refused in the last hour"]
    return [f"{what(one)}; last {time(one.last)}: {remedy(one)}" for one in row.reasons]


def _cells(cells: list[str], columns: tuple[Column, ...], width: int, styles: dict[int, str]) -> list[Text]:
    texts = [_fitted(plain(cell), column.width(width)) for cell, column in zip(cells, columns, strict=True)]
    for number, style in styles.items():
        texts[number].style = style
    return texts


def _bar(count: int | None, total: int) -> str:
    """Return `count` of `total` as a small bar, which is full only if none is missing."""
    done = min(count or 0, total)
    blocks = _BAR if total and done == total else min(_BAR - 1, _BAR * done // total) if total else 0
    return f"{_FULL * blocks}{_EMPTY * (_BAR - blocks)} {count or 0}"


def foot(board: DashboardModel, width: int) -> Text:
    """Return disk space, retention, today's totals, quarantine and self test, in one line, or more on a narrow screen."""
    lines = [""]
    for part in _foot_parts(board):
        joined = f"{lines[-1]}  \u00b7  {part}" if lines[-1] else part
        if len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(part[:width])
    return Text("\n".join(lines))


def _foot_parts(board: DashboardModel) -> Iterator[str]:
    report = board.report
    for volume in report.volumes:
        left = f", full in {span(volume.hours_left * 3600)}" if volume.hours_left is not None else ""
        yield f"disk ({volume.main_use}) {size(volume.free)} free{left}"
    if report.retention is not None and (last := report.retention.last) is not None:
        freed = sum(tally.bytes for tally in last.places.values())
        yield f"retention freed {size(freed)} {span(_seconds(last.ended_at, report.at))} ago"
    if today := board.today:
        yield f"today {many(today.studies, 'study', 'studies')}, {many(today.images, 'image', 'images')}"
    yield "quarantine not readable" if report.quarantine is None else f"quarantine {report.quarantine:,}"
    if test := report.self_test:
        yield f"self test {'ok' if test.ok else 'FAILED'} {span(_seconds(test.at, report.at))} ago"
    if not board.may_ask:
        yield "read only: requests need group ddwd"


def page(board: DashboardModel, masking: PatientMasking, width: int) -> Text:
    """Return the whole dashboard as text, for `--once`."""
    report = board.report
    parts = [head(board, width)]
    if board.problems:
        parts.append(problem_lines(board, width))
    parts.append(flow(board, width))
    flight = [flight_row(row, masking, report.at, width) for row in report.in_flight]
    finished = [finished_row(row, masking, width) for row in report.recent]
    for title, columns, rows in (("in flight", FLIGHT, flight), ("just finished", FINISHED, finished)):
        parts.append(Text(f"{title}: {len(rows)}", style="bold"))
        if rows:
            headings = "".join(column.title.ljust(column.width(width)) for column in columns)
            parts += [Text(headings, style="dim"), *map(Text("").join, rows)]
    parts.append(foot(board, width))
    return Text("\n").join(parts)


def _fitted(text: str, cell: int) -> Text:
    return Text(_short(text, cell - 1).ljust(cell))


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(0, length - 1)] + "\u2026"


def _seconds(begin: str, end: str) -> float:
    """Return the seconds between two stamps; 0 if one is missing."""
    try:
        return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds())
    except ValueError:
        return 0.0
