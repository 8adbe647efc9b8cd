"""`ddwd studies`: every study that the portal knows, newest first, with filters; totals by day and modality. Writes nothing."""

import csv
import io
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, TextIO, TypedDict

from ddwd.cli.command import Argument, Command, VerbResult, count, flag, show
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.answers import Key, sometimes
from ddwd.core.clock import SystemClock
from ddwd.core.printable import many
from ddwd.status import study_list
from ddwd.status.formatting import plain, second, size, terminal_width
from ddwd.status.study_list import IN_FLIGHT, DayTotals, StudyList, is_in_flight
from ddwd.store.status_files import EXTRACTOR, ExtractorStatus
from ddwd.store.study_index import STATES, IndexedStudy

_LIMIT = 50
_GAP = "  "
_COLUMNS = {
    "published": 23,
    "patient": 14,
    "accession": 12,
    "modality": 8,
    "sender": 16,
    "images": 7,
    "size": 9,
    "to disk": 8,
    "state": 13,
    "description": 30,
    "folder": 0,
}
"""Column -> its width; 0 for the last one, which is as long as it is. In the order in which they are shown."""
_MOST_WANTED = (
    "published",
    "patient",
    "modality",
    "images",
    "state",
    "accession",
    "sender",
    "to disk",
    "size",
    "description",
)
"""As many of them are shown as the terminal has room for."""
_NUMBERS = frozenset({"images", "size", "to disk"})


class _Row(TypedDict):
    at: str
    study: str
    study_uid: str
    patient_id: str
    accession: str
    study_date: str
    modality: str
    description: str
    sender: str
    route: str
    images: int
    on_disk: int
    set_aside: int
    bytes: int
    revision: int
    first_at: str
    seconds: float | None
    state: str
    folder: str


_FIELDS = tuple(_Row.__annotations__)
_NAMES = {"sender": "aet"}
"""Field for programs -> that of IndexedStudy, where they differ."""


def _run(args: Namespace, config: Config, out: TextIO) -> int:
    filters = {name: value for name in study_list.FILTERS if (value := getattr(args, name)) is not None}
    now = SystemClock().utc()
    filters |= {
        name: study_list.moment_of(filters[name], now) for name in ("since", "until") if name in filters
    }
    paths = Paths(config)
    if args.stats:
        days, made = study_list.totals(paths.studies, filters)
        data = {"made": made, "days": [asdict(one) for one in days]}
        if args.csv:
            return _write_csv([asdict(one) for one in days], tuple(DayTotals.__dataclass_fields__), out)
        return show(VerbResult(data, [*_totals(days), *_unmade(made)]), args, out)
    status = EXTRACTOR.read_or_none(paths.heartbeat("extractor")) or ExtractorStatus()
    limit = args.limit if args.limit is not None or args.json or args.csv else _LIMIT
    found = study_list.find(paths.studies, status.in_flight, filters, limit or None)
    rows = found.studies if args.show_patients else tuple(map(study_list.masked, found.studies))
    if args.csv:
        return _write_csv(map(_fields, rows), _FIELDS, out)
    data = {"total": found.total, "made": found.made, "studies": [_fields(one) for one in rows]}
    return show(VerbResult(data, _lines(found, rows, out)), args, out)


def _fields(one: IndexedStudy) -> dict[str, Any]:
    """Return a study for programs; the time to disk of a study in flight is not known."""
    data = {name: getattr(one, _NAMES.get(name, name)) for name in _FIELDS}
    return data | {"seconds": None} if is_in_flight(one) else data


def _write_csv(rows: Any, fields: Sequence[str], out: TextIO) -> int:
    text = io.StringIO()
    writer = csv.DictWriter(text, fields)
    writer.writeheader()
    # a spreadsheet would run a value that begins like a formula
    writer.writerows(
        {
            name: f"'{value}"
            if str(value).startswith(("=", "+", "-", "@")) and isinstance(value, str)
            else value
            for name, value in row.items()
        }
        for row in rows
    )
    out.write(text.getvalue())
    return 0


def _lines(found: StudyList, rows: Sequence[IndexedStudy], out: TextIO) -> Iterator[str]:
    if rows:
        shown = _shown_columns(terminal_width(out))
        yield _line({name: name for name in shown}, shown)
        for one in rows:
            yield _line(_cells(one), shown)
    if not found.total:
        yield "no study matches"
    elif len(rows) < found.total:
        yield f"{len(rows):,} of {many(found.total, 'study', 'studies')}, the newest; all of them: --limit 0"
    else:
        yield many(found.total, "study", "studies")
    yield from _unmade(found.made)


def _unmade(made: float) -> Iterator[str]:
    if made < 1.0:
        yield f"the index of studies is being made from the custody records, {made:.0%} of it is there; older studies may be missing"


def _shown_columns(width: int) -> list[str]:
    """Return the columns that fit, in their order; the folder where all others do."""
    chosen: list[str] = []
    for name in _MOST_WANTED:
        if sum(_COLUMNS[one] + len(_GAP) for one in [*chosen, name]) > width + len(_GAP):
            break
        chosen.append(name)
    if len(chosen) == len(_MOST_WANTED):
        chosen.append("folder")
    return [name for name in _COLUMNS if name in chosen]


def _cells(one: IndexedStudy) -> dict[str, str]:
    return {
        "published": second(one.at),
        "patient": one.patient_id,
        "accession": one.accession,
        "modality": one.modality.replace("\\", ","),
        "sender": one.aet,
        "images": f"{one.images:,}",
        "size": size(one.bytes) if one.bytes else "",
        "to disk": f"{one.seconds:.1f} s" if one.seconds and not is_in_flight(one) else "",
        "state": one.state,
        "description": one.description,
        "folder": one.folder,
    }


def _line(cells: dict[str, str], shown: Sequence[str]) -> str:
    return _GAP.join(
        _fitted(plain(cells[name]), _COLUMNS[name], right=name in _NUMBERS) for name in shown
    ).rstrip()


def _fitted(text: str, width: int, *, right: bool) -> str:
    if not width:
        return text
    short = text if len(text) <= width else text[: width - 1] + "\u2026"
    return short.rjust(width) if right else short.ljust(width)


def _totals(days: Sequence[DayTotals]) -> Iterator[str]:
    yield f"{'day':<12}{'modality':<12}{'studies':>9}{'images':>11}{'size':>11}{'to disk':>11}"
    for one in days:
        seconds = f"{one.seconds:.1f} s" if one.seconds else ""
        name = plain(one.modality.replace("\\", ",")) or "unknown"
        yield f"{one.day:<12}{name:<12}{one.studies:>9,}{one.images:>11,}{size(one.bytes):>11}{seconds:>11}".rstrip()
    yield f"{many(sum(one.studies for one in days), 'study', 'studies')} in all; to disk: the median"


COMMAND = Command(
    "studies",
    "list the studies, newest first, or their totals",
    _run,
    (
        Argument("--patient", metavar="ID", help="of this PatientID"),
        Argument("--accession", metavar="NUMBER", help="of this accession number"),
        Argument("--uid", metavar="UID", help="of this StudyInstanceUID"),
        Argument("--modality", metavar="NAME", help="with a series of this modality"),
        Argument("--description", metavar="TEXT", help="with this text in the StudyDescription, in any case"),
        Argument("--sender", metavar="AE", help="from this calling AE title"),
        Argument("--route", metavar="NAME", help="of this route"),
        Argument("--state", choices=(IN_FLIGHT, *STATES), help=f"{', '.join((IN_FLIGHT, *STATES))}"),
        Argument(
            "--since",
            metavar="TIME",
            help="2026-01-31, '2026-01-31 18:00', or how long ago: 30min, 2h, 3d, 1w",
        ),
        Argument("--until", metavar="TIME", help="before this time, in the same form"),
        Argument(
            "--limit",
            type=count,
            metavar="N",
            help=f"the newest N, 0 for all (default: {_LIMIT}; with --json and --csv all)",
        ),
        flag("--show-patients", "show PatientIDs and folders in full"),
        flag("--stats", "show totals by day and modality instead"),
        flag("--csv", "print the result as CSV, with times in UTC"),
    ),
    about="""The time is that of the last publication, in flight that of the newest image. "to disk" is the time from the newest image to
publication. A state is: complete (all images on disk), set-aside (some are in quarantine), removed (retention removed some or
all), not-extracted (its route leaves it on storage), damaged (its custody record), or the stage of a study in flight. The more
columns a terminal has, the more is shown; --json and --csv have all.

It reads an index that the extractor makes from the custody records, and that is made anew when it is lost. Whether an image is on
disk as recorded, ddwd verify says.""",
    answer=(
        Key("made", float, "how much of the archive the list has, from 0 to 1: it is made after a loss"),
        sometimes("total", int, "how many studies match, listed or not"),
        sometimes("studies", list[_Row], "the studies, newest first"),
        sometimes("days", list[DayTotals], "with --stats: the sums by day and modality"),
    ),
    exits={
        0: "listed, also if no study matches",
        65: "there is no index yet, or this user may not read it: it is for root and group ddwd",
    },
)
