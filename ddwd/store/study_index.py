"""The index of all studies in SQLite: for `ddwd studies`, the search and what was published last. Derived from the custody records.

It is never the truth, and no promise rests on it: a missing, damaged or older index is made anew from the records, in the background.
The extractor alone writes it. Readers take a copy, under a lock of flock(2): so they open nothing by a path (safe_folder), and need no
right to write.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

from ddwd.core import safe_folder, watchdog
from ddwd.core.clock import sleep
from ddwd.core.errors import DdwdError, LinkedError, StateError
from ddwd.core.model import OrthancId

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ddwd.core.clock import Clock
    from ddwd.store.custody import Custody, Record

log = logging.getLogger("ddwd.store")

STATES = ("complete", "set-aside", "removed", "not-extracted", "damaged")
"""States of a published study: all images on disk, some in quarantine, some or all removed by retention, left on storage by its
route, its record damaged."""
_SCHEMA = 1
"""Stored as `user_version`; an index of another one is made anew."""
_PIECE_SECONDS = 0.2
_PASS_SECONDS = 600.0
"""From one comparison of the index with all records to the next: of a record that another extractor wrote, for example."""
_BREATH_SECONDS, _BUSY_BREATH_SECONDS = 0.1, 1.0
"""Between two pieces of work: while no study is in flight, and while one is."""
_NONE_YET = "there is no index of studies yet: ddwd-extractor makes it from the custody records when it runs; see: ddwd status"
_LOCK_SECONDS, _LOCK_PAUSE = 2.0, 0.02


@dataclass(frozen=True, slots=True)
class IndexedStudy:
    """One study. `mark` is the number of the record that the row was made of, `seconds` the time from the newest image to publication.

    `at` is the UTC stamp of the publication. `images` counts all images of the record, `on_disk` those that retention did not remove.
    """

    study: OrthancId
    mark: int = 0
    study_uid: str = ""
    patient_id: str = ""
    accession: str = ""
    study_date: str = ""
    modality: str = ""
    description: str = ""
    aet: str = ""
    route: str = ""
    folder: str = ""
    images: int = 0
    on_disk: int = 0
    set_aside: int = 0
    bytes: int = 0
    added: int = 0
    revision: int = 0
    first_at: str = ""
    at: str = ""
    seconds: float = 0.0
    state: str = "damaged"


_TYPES = {"str": "text", "OrthancId": "text", "int": "integer", "float": "real"}
_COLUMNS = tuple(one.name for one in fields(IndexedStudy))
_TABLE = ", ".join(f"{one.name} {_TYPES[str(one.type)]} not null" for one in fields(IndexedStudy))
_CREATE = (
    f"create table studies ({_TABLE}, primary key (study)) without rowid",
    "create index by_time on studies (at)",
    "create table made (share real not null)",
    "insert into made values (0.0)",
    f"pragma user_version = {_SCHEMA}",
)
_PUT = f"insert or replace into studies values ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_SELECT = f"select {', '.join(_COLUMNS)} from studies"  # noqa: S608 - names of this module


def row_of(record: Record, mark: int) -> IndexedStudy:
    """Return the row of a custody record."""
    latest = record.history[-1] if record.history else {}
    first = record.history[0] if record.history else {}
    on_disk = [image for image in record.images.values() if not image.removed]
    return IndexedStudy(
        study=record.study,
        mark=mark,
        study_uid=record.study_uid,
        patient_id=record.patient_id,
        accession=record.accession,
        study_date=record.tags.get("StudyDate", ""),
        modality=record.tags.get("Modality", ""),
        description=record.tags.get("StudyDescription", ""),
        aet=str(latest.get("aet", "")),
        route=record.route,
        folder=record.folder,
        images=len(record.images),
        on_disk=len(on_disk),
        set_aside=len(record.set_aside),
        bytes=sum(image.size for image in record.images.values()),
        added=int(latest.get("added", 0)),
        revision=record.revision,
        first_at=str(first.get("at", record.published_at)),
        at=record.published_at,
        seconds=float(latest.get("seconds", 0.0)),
        state=_state(record, len(on_disk)),
    )


def _state(record: Record, on_disk: int) -> str:
    if on_disk < len(record.images):
        return "removed"
    if record.set_aside:
        return "set-aside"
    return "complete" if record.images else "not-extracted"


class StudyIndex:
    """Writes the index. `note` may be called in any thread, the rest in one at a time."""

    def __init__(self, path: Path, custody: Custody, clock: Clock) -> None:
        self._path = path
        self._custody = custody
        self._clock = clock
        self._changed: set[OrthancId] = set()
        self._guard = threading.Lock()
        self._shards: list[str] = []
        """Those that this pass over all records has not compared yet."""
        self._differing: dict[OrthancId, int | None] = {}
        """Study of the shard at hand -> the number of its record, None if it has none."""
        self._next_pass = float("-inf")
        self._next_piece = float("-inf")
        self._problem = ""

    def note(self, study: OrthancId) -> None:
        """Take up a study whose record was just written or removed."""
        with self._guard:
            self._changed.add(study)

    def is_due(self, *, is_busy: bool) -> bool:
        """Return whether `work` has something to do; `is_busy` while studies are in flight, which must not wait for it."""
        now = self._clock.monotonic()
        breath = _BUSY_BREATH_SECONDS if is_busy else _BREATH_SECONDS
        has_work = bool(self._changed or self._differing or self._shards) or now >= self._next_pass
        return has_work and now >= self._next_piece + breath

    def work(self) -> None:
        """Bring the index some way up to date; an error is logged once, and the next call makes the index anew if it is damaged."""
        try:
            with self._opened() as database:
                self._work(database)
            self._problem = ""
        except (sqlite3.Error, OSError, DdwdError) as error:
            self._begin_anew(self._clock.monotonic() + _BUSY_BREATH_SECONDS)
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                self._path.unlink(missing_ok=True)
            if str(error) != self._problem:
                log.warning("the index of studies: %s; it is made anew from the custody records", error)
            self._problem = str(error)
        finally:
            self._next_piece = self._clock.monotonic()

    def _begin_anew(self, at: float) -> None:
        """Compare all records from the first one on, at that moment (Clock.monotonic)."""
        self._shards, self._differing, self._next_pass = [], {}, at

    def _work(self, database: sqlite3.Connection) -> None:
        began = self._clock.monotonic()
        with self._guard:
            changed, self._changed = self._changed, set()
        for study in changed:
            self._take(database, study, self._custody.mark(study))
        shards = self._custody.shards()
        if began >= self._next_pass and not (self._shards or self._differing):
            self._shards, self._next_pass = list(shards), began + _PASS_SECONDS
        while (self._shards or self._differing) and self._clock.monotonic() - began < _PIECE_SECONDS:
            if self._differing:
                self._take(database, *self._differing.popitem())
            else:
                self._differing = self._differences(database, self._shards.pop())
            if not self._differing:
                share = 1.0 - len(self._shards) / len(shards)
                database.execute("update made set share = max(share, ?)", (share,))

    def _differences(self, database: sqlite3.Connection, shard: str) -> dict[OrthancId, int | None]:
        """Return the studies of a shard whose row is not of their present record."""
        marks = self._custody.marks(shard)
        rows = database.execute(
            "select study, mark from studies where study >= ? and study < ?", (shard, f"{shard}~")
        )
        known = dict(rows.fetchall())
        gone: dict[OrthancId, int | None] = dict.fromkeys(known.keys() - marks.keys())
        return gone | {study: mark for study, mark in marks.items() if known.get(study) != mark}

    def _take(self, database: sqlite3.Connection, study: OrthancId, mark: int | None) -> None:
        """Make the row of a study anew; of a damaged record all that is known is that it is there."""
        watchdog.alive()
        if mark is None:
            database.execute("delete from studies where study = ?", (study,))
            return
        try:
            record = self._custody.read(study)
            row = row_of(record, mark) if record else None
        except (StateError, ValueError):
            row = IndexedStudy(study, mark)
        if row is not None:
            put(database, row)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the index for one transaction, in which no reader copies it."""
        # closed after the database: to close any descriptor of the file would end SQLite's own locks (fcntl(2))
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640))
        with safe_folder.opened(self._path) as file:
            _lock(file.fileno(), fcntl.LOCK_EX)
            with closing(sqlite3.connect(self._path, isolation_level=None)) as database:
                database.execute("pragma synchronous = normal")
                database.execute("begin immediate")
                if _version(database) != _SCHEMA:
                    _make(database)
                    self._begin_anew(float("-inf"))
                yield database
                database.execute("commit")

    def latest(self, count: int) -> list[IndexedStudy]:
        """Return the studies published last, newest first; none of an index that cannot be read."""
        try:
            with closing(opened(self._path)) as database:
                return studies(database, "order by at desc limit ?", count)
        except (DdwdError, OSError, sqlite3.Error):
            return []


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("pragma user_version").fetchone()[0])


def _make(database: sqlite3.Connection) -> None:
    for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
        database.execute(f'drop table "{table}"')
    for statement in _CREATE:
        database.execute(statement)


def _lock(descriptor: int, kind: int) -> None:
    """Take the lock; another process has it for a moment only. Raises StateError."""
    for _ in range(round(_LOCK_SECONDS / _LOCK_PAUSE)):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            sleep(_LOCK_PAUSE)
        else:
            return
    msg = "the index of studies is in use by another process; try again"
    raise StateError(msg)


def opened(path: Path) -> sqlite3.Connection:
    """Return a copy of the index in memory. Raises StateError where there is none, or this user may not read it."""
    try:
        content = _content(path)
    except FileNotFoundError as error:
        raise StateError(_NONE_YET) from error
    except (OSError, LinkedError) as error:
        raise StateError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    database = sqlite3.connect(":memory:")
    try:
        # a damaged file must not make SQLite run what is in its schema
        database.execute("pragma trusted_schema = off")
        database.deserialize(
            content or bytes(1)
        )  # which is no database either, and does not end in a MemoryError
        version = _version(database)
    except sqlite3.Error as error:
        database.close()
        raise StateError(f"{path} is damaged ({error}); ddwd-extractor makes it anew when it runs") from error
    if version != _SCHEMA:
        database.close()
        raise StateError(_NONE_YET)
    return database


def _content(path: Path) -> bytes:
    with safe_folder.opened(path) as file:
        _lock(file.fileno(), fcntl.LOCK_SH)
        if _is_interrupted(path):
            msg = "the writing of the index of studies was interrupted: ddwd-extractor mends it when it runs"
            raise StateError(msg)
        return file.read()


def _is_interrupted(path: Path) -> bool:
    """Return whether SQLite has left its journal, by which the next writer undoes what was written in part."""
    try:
        safe_folder.opened(path.with_name(f"{path.name}-journal")).close()
    except FileNotFoundError:
        return False
    return True


def share_made(database: sqlite3.Connection) -> float:
    """Return how much of the archive was compared with the index at least once, from 0 to 1."""
    return float(database.execute("select share from made").fetchone()[0])


def put(database: sqlite3.Connection, row: IndexedStudy) -> None:
    """Write a row, in place of the study's former one."""
    database.execute(_PUT, astuple(row))


def studies(database: sqlite3.Connection, where: str, *values: object) -> list[IndexedStudy]:
    """Return the studies of a condition, an order and a limit in SQL, with a value for each `?`."""
    return [IndexedStudy(*row) for row in database.execute(f"{_SELECT} {where}", values)]
