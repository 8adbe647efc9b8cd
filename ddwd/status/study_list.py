"""The studies that the portal knows, for `ddwd studies`: by the index of studies, and those in flight by the extractor's status file."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING

from ddwd.core.clock import stamp
from ddwd.core.errors import InvalidValueError
from ddwd.status.formatting import masked_id, without_patient
from ddwd.store import study_index
from ddwd.store.study_index import IndexedStudy

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ddwd.store.status_files import InFlightStudy

_AGO = re.compile(r"(\d+)\s*(min|h|d|w)")
_UNITS = {
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_FLYING = -1
"""`mark` of a study in flight, which has no record of its present state."""
IN_FLIGHT = "in-flight"
"""What to ask for all studies in flight by; the state of each is its stage."""
FILTERS = {
    "patient": "patient_id = trim(?)",
    "accession": "accession = ?",
    "uid": "study_uid = ?",
    "modality": "'\\' || upper(modality) || '\\' like '%\\' || upper(?) || '\\%'",
    "description": "instr(lower(description), lower(?)) > 0",
    "sender": "aet = ?",
    "route": "route = ?",
    "state": f"? in (state, iif(mark = {_FLYING}, '{IN_FLIGHT}', state))",
    "since": "at >= ?",
    "until": "at < ?",
}
"""Filter -> its condition in SQL."""


@dataclass(frozen=True, slots=True)
class StudyList:
    """The studies found, newest first, of `total` that match; `made` is how much of the archive is in the index, from 0 to 1."""

    studies: tuple[IndexedStudy, ...]
    total: int
    made: float


@dataclass(frozen=True, slots=True)
class DayTotals:
    """The studies of one day and modality; `seconds` is the median time from the newest image to publication."""

    day: str
    modality: str
    studies: int
    images: int
    bytes: int
    seconds: float


def moment_of(text: str, now: datetime) -> str:
    """Return the UTC stamp of a local date and time (`2026-01-31`, `2026-01-31 18:00`), or of so long ago (`30min`, `2h`, `3d`, `1w`).

    Raises InvalidValueError.
    """
    try:
        if found := _AGO.fullmatch(text.strip()):
            return stamp(now - int(found[1]) * _UNITS[found[2]])
        return stamp(datetime.fromisoformat(text.strip()).astimezone(UTC))
    except (ValueError, OverflowError) as error:
        msg = f"{text!r} is no time: write 2026-01-31, '2026-01-31 18:00', or how long ago: 30min, 2h, 3d, 1w"
        raise InvalidValueError(msg) from error


def find(
    path: Path, in_flight: Iterable[InFlightStudy], filters: Mapping[str, str], limit: int | None = None
) -> StudyList:
    """Return the studies that match all filters (see FILTERS). Raises StateError."""
    with closing(_with(path, in_flight)) as database:
        where, values = _condition(filters), list(filters.values())
        count = database.execute(f"select count(*) from studies where {where}", values).fetchone()[0]  # noqa: S608
        most = -1 if limit is None else limit
        rows = study_index.studies(database, f"where {where} order by at desc limit ?", *values, most)
        return StudyList(tuple(rows), int(count), study_index.share_made(database))


def totals(path: Path, filters: Mapping[str, str]) -> tuple[list[DayTotals], float]:
    """Return the published studies by local day, newest first, and modality; and how much of the archive is in the index."""
    with closing(study_index.opened(path)) as database:
        rows = database.execute(
            "select date(at, 'localtime') as day, modality, count(*), sum(images), sum(bytes),"  # noqa: S608
            f" group_concat(seconds, ' ') from studies where {_condition(filters)} group by day, modality"
            " order by day desc, modality",
            list(filters.values()),
        ).fetchall()
        made = study_index.share_made(database)
    days = [
        DayTotals(day, modality, studies, images, size, round(median(map(float, seconds.split())), 3))
        for day, modality, studies, images, size, seconds in rows
    ]
    return days, made


def _condition(filters: Mapping[str, str]) -> str:
    return " and ".join(FILTERS[name] for name in filters) or "true"


def _with(path: Path, in_flight: Iterable[InFlightStudy]) -> sqlite3.Connection:
    """Return a copy of the index with the studies in flight as they are now."""
    database = study_index.opened(path)
    for one in in_flight:
        rows = study_index.studies(database, "where study = ?", one.study)
        before = rows[0] if rows else IndexedStudy(one.study)
        study_index.put(
            database,
            replace(
                before,
                mark=_FLYING,
                study_uid=one.study_uid or before.study_uid,
                aet=one.aet or before.aet,
                route=one.route or before.route,
                images=one.instances,
                on_disk=one.on_disk,
                set_aside=one.set_aside,
                first_at=before.first_at or one.opened_at,
                at=one.newest_at or one.opened_at,
                seconds=0.0,
                state=one.state,
            ),
        )
    return database


def is_in_flight(one: IndexedStudy) -> bool:
    """Return whether a study of the list is in flight: it was not published yet, or has new images."""
    return one.mark == _FLYING


def masked(one: IndexedStudy) -> IndexedStudy:
    """Return the study with the last characters of its PatientID alone, in its folder too."""
    shown = masked_id(one.patient_id)
    return replace(one, patient_id=shown, folder=without_patient(one.folder, one.patient_id, shown))
