"""Ledger and custody records of several extractors in the database that they share; ledger.py and custody.py have those of a lone one.

A custody record is written in the session that has the claim of the study (claims.py), so that an extractor that has lost the claim
cannot write it. The state of each extractor (cursors, sweep, pause) is one row per name; its open studies are its claims.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any

from ddwd.core import durable
from ddwd.core.clock import Clock
from ddwd.core.errors import HeldElsewhereError, PeerDownError, StateError
from ddwd.core.model import OrthancId
from ddwd.store.custody import PEEK_BYTES, Custody, Peek, Record, parse_peek
from ddwd.store.ledger import CLOSED, LedgerPort
from ddwd.store.postgres import PostgresSession

_APPENDING = 0x64647764_00000002
"""Advisory lock for appending to the ledger, so that a reader that continues from a number misses no lower one."""
_PAGE = 1000
_MARK = "(extract(epoch from written) * 1000000)::bigint"
_IMPORT_PAGE = 200
_FORGET_SECONDS = 3600.0


class SharedCustody(Custody):
    """The table of records; every method raises PeerDownError.

    `holds` returns whether this `extractor` has claimed a study, without which no record is written. Readers need neither.
    """

    def __init__(
        self,
        database: PostgresSession,
        extractor: str = "",
        holds: Callable[[OrthancId], bool] = lambda _study: False,
    ) -> None:
        self._database = database
        self._extractor = extractor
        self._holds = holds

    def name(self, study: OrthancId) -> str:
        return f"custody record {study} in the shared ledger"

    def has(self, study: OrthancId) -> bool:
        return bool(self._database.rows("select 1 from custody where study = %s", [study]))

    def stored(self, study: OrthancId) -> bytes | None:
        found = self._database.rows("select body from custody where study = %s", [study])
        return str(found[0][0]).encode() if found else None

    def peek(self, study: OrthancId) -> Peek | None:
        found = self._database.rows(
            "select left(body, %s) from custody where study = %s", [PEEK_BYTES, study]
        )
        return parse_peek(str(found[0][0]).encode()) if found else None

    def _store(self, record: Record, content: bytes) -> None:
        """Raises HeldElsewhereError for a study that is not claimed."""
        self._assert_held(record.study)
        self._database.rows(
            "insert into custody (study, revision, body, extractor) values (%s, %s, %s, %s) on conflict (study)"
            " do update set (revision, body, extractor, written) = (excluded.revision, excluded.body, excluded.extractor, now())",
            [record.study, record.revision, content.decode("ascii"), self._extractor],
        )

    def _remove(self, study: OrthancId) -> None:
        """Raises HeldElsewhereError for a study that is not claimed."""
        self._assert_held(study)
        self._database.rows("delete from custody where study = %s", [study])

    def _assert_held(self, study: OrthancId) -> None:
        if not self._holds(study):
            raise HeldElsewhereError(f"study {study} is not claimed by this extractor")

    def studies(self) -> Iterator[OrthancId]:
        last = ""
        while page := self._database.rows(
            "select study from custody where study > %s order by study limit %s", [last, _PAGE]
        ):
            yield from (OrthancId(study) for (study,) in page)
            last = page[-1][0]

    def shards(self) -> Sequence[str]:
        return [""]

    def marks(self, _shard: str) -> dict[OrthancId, int]:
        rows = self._database.rows(f"select study, {_MARK} from custody")  # noqa: S608
        return {OrthancId(study): int(mark) for study, mark in rows}

    def mark(self, study: OrthancId) -> int | None:
        found = self._database.rows(f"select {_MARK} from custody where study = %s", [study])  # noqa: S608
        return int(found[0][0]) if found else None

    def assert_listable(self) -> None:
        try:
            self._database.rows("select 1")
        except PeerDownError as error:
            raise StateError(str(error)) from error


def import_records(folder: Path, database: PostgresSession, extractor: str, clock: Clock) -> None:
    """Copy each readable record of `folder` that the database does not have, then rename the folder.

    Done once, when a machine starts to share a ledger: without its records the extractor would verify every study of the archive
    again. Safe to repeat after an interruption. Raises PeerDownError, and StateError if the files cannot be read.
    """
    if not folder.is_dir():
        return
    try:
        studies = Custody(folder).studies()
        while page := list(islice(studies, _IMPORT_PAGE)):
            _insert_records(Custody(folder), list(_readable(Custody(folder), page)), database, extractor)
        durable.rename(folder, folder.with_name(f"{folder.name}-until-{clock.utc():%Y%m%dT%H%M%SZ}"))
    except OSError as error:
        raise StateError(
            f"{folder}: the records in files cannot be imported into the shared ledger ({error.strerror})"
        ) from error


def _readable(custody: Custody, studies: Iterable[OrthancId]) -> Iterator[Record]:
    """Yield the records that can be read; a study whose record is damaged is verified again."""
    for study in studies:
        with suppress(StateError):
            record = custody.read(study)
            if record is not None:
                yield record


def _insert_records(
    custody: Custody, records: list[Record], database: PostgresSession, extractor: str
) -> None:
    """Insert the records as they are stored: the audit trail states the SHA-256 of each."""
    database.rows(
        "insert into custody (study, revision, body, written, extractor)"
        " select study, revision, body, written::timestamptz, %s"
        " from unnest(%s::text[], %s::integer[], %s::text[], %s::text[]) as taken (study, revision, body, written)"
        " on conflict (study) do nothing",
        [
            extractor,
            [record.study for record in records],
            [record.revision for record in records],
            [(custody.stored(record.study) or b"").decode(errors="replace") for record in records],
            [record.published_at for record in records],
        ],
    )


class SharedLedger(LedgerPort):
    """See LedgerPort; call `load` at the start of each session."""

    def __init__(self, database: PostgresSession, extractor: str, clock: Clock, keep_days: int) -> None:
        super().__init__(clock)
        self._database = database
        self._extractor = extractor
        self._keep_days = keep_days
        self._stored_state = ""
        self._forget_at = -inf

    def load(self) -> None:
        """Read the state of this extractor; a new session has no open studies. Raises PeerDownError."""
        found = {
            name: json.loads(body) for name, body in self._database.rows("select name, body from extractor")
        }
        own = found.get(self._extractor) or {"cursors": _seen_by_all(found.values())}
        self._stored_state = json.dumps(own)
        last = self._database.rows("select study from custody order by written desc limit %s", [CLOSED])
        closed = [study for (study,) in reversed(last)]
        snapshot = {"kind": "snapshot", "cursors": {}, "open": self.state.open, "closed": closed}
        self.state.apply(snapshot | own)

    def _write(self, batch: tuple[dict[str, Any], ...]) -> None:
        state = self.state
        body = json.dumps({"cursors": state.cursors, "swept": state.swept, "paused": state.stored_pause})
        with self._database.transaction():
            self._database.rows("select pg_advisory_xact_lock(%s)", [_APPENDING])
            self._insert(batch)
            if body != self._stored_state:
                self._database.rows(
                    "insert into extractor (name, body) values (%s, %s)"
                    " on conflict (name) do update set body = excluded.body, written = now()",
                    [self._extractor, body],
                )
        self._stored_state = body

    def _insert(self, batch: tuple[dict[str, Any], ...]) -> None:
        names = [_names(record) for record in batch]
        self._database.rows(
            "insert into ledger (extractor, at, kind, study, study_uid, body)"
            " select %s, * from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[])",
            [
                self._extractor,
                [str(record["at"]) for record in batch],
                [str(record["kind"]) for record in batch],
                [study for study, _uid in names],
                [uid for _study, uid in names],
                [json.dumps(record, separators=(",", ":"), ensure_ascii=True) for record in batch],
            ],
        )

    def _tidy(self) -> None:
        now = self._clock.monotonic()
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_SECONDS
            self._database.rows(
                "delete from ledger where written < now() - make_interval(days => %s)", [self._keep_days]
            )


class SharedHistory:
    """Read the records of the shared ledger, each with its number and the extractor that wrote it."""

    def __init__(self, database: PostgresSession) -> None:
        self._database = database

    def events(self, *, study: str = "", since: str = "", limit: int | None = None) -> list[dict[str, Any]]:
        """Return audit events, oldest first: of one study (Orthanc ID or StudyInstanceUID), since a stamp, the latest `limit`."""
        found = self._database.rows(
            "select seq, extractor, body from ledger where kind = 'event'"
            " and (%s = '' or study = %s or study_uid = %s)"
            " and at >= %s order by seq desc limit %s",
            [study, study, study, since, limit],
        )
        return [_record(row) for row in reversed(found)]

    def after(self, seq: int) -> list[dict[str, Any]]:
        """Return the events after the number `seq`, oldest first."""
        found = self._database.rows(
            "select seq, extractor, body from ledger where seq > %s and kind = 'event' order by seq", [seq]
        )
        return [_record(row) for row in found]

    def last(self) -> int:
        """Return the newest number."""
        [(seq,)] = self._database.rows("select coalesce(max(seq), 0) from ledger")
        return int(seq)

    def counts(self) -> dict[str, Any]:
        """Return the numbers of records by kind and extractor, and of custody records, for the support bundle."""
        kinds = self._database.rows(
            "select extractor, kind, count(*) from ledger group by 1, 2 order by 1, 2"
        )
        opened = self._database.rows("select extractor, count(*) from open_study group by 1 order by 1")
        [(records,)] = self._database.rows("select count(*) from custody")
        return {
            "ledger": {"shared": [list(row) for row in kinds], "open": dict(opened)},
            "custody": {"records": records},
        }


def _seen_by_all(others: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return the cursors of a new extractor: the lowest of the others. The sweep compares what lies before."""
    cursors = [one["cursors"] for one in others]
    nodes = {node for one in cursors for node in one}
    return {node: min(one.get(node, 0) for one in cursors) for node in nodes}


def _record(row: tuple[Any, ...]) -> dict[str, Any]:
    seq, extractor, body = row
    return {**json.loads(body), "seq": seq, "extractor": extractor}


def _names(record: dict[str, Any]) -> tuple[str, str]:
    """Return Orthanc ID and StudyInstanceUID of the study of a record."""
    fields = record.get("fields", {})
    study = record.get("study") or fields.get("DDWD_STUDY", "")
    uid = str(fields.get("DDWD_STUDY_UID", ""))
    return str(study), uid.replace("\0", "")  # PostgreSQL stores no NUL in a text
