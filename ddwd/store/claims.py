"""A lone extractor owns every study; extractors that share a database take an exclusive claim per study.

A claim is an advisory lock of a PostgreSQL session: it ends with the process that holds it, or with its host (see postgres.py), and
depends on no clock. The table `open_study` lists the claimed studies too, so that other extractors find those that were abandoned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf

from ddwd.core.clock import Clock
from ddwd.core.errors import HeldElsewhereError, PeerDownError
from ddwd.core.model import OrthancId
from ddwd.store.postgres import PostgresSession

_QUERY_SECONDS = 2.0  # between two queries for studies that other extractors left


@dataclass(frozen=True, slots=True)
class SharedWork:
    """What other extractors leave to this one.

    `abandoned`: studies in flight without a claim. `freed`: studies that could not be claimed earlier and now can. `requested`:
    studies in flight here that the operator of another extractor asks to retry.
    """

    abandoned: list[OrthancId] = field(default_factory=list)
    freed: list[OrthancId] = field(default_factory=list)
    requested: list[OrthancId] = field(default_factory=list)


class Claims:
    """The claims of one extractor: a lone one, which owns every study and needs no claim. SharedClaims has those of several."""

    are_shared = False

    def connect(self) -> bool:
        """Connect unless connected; return True for a new session, in which earlier claims are void. Raises PeerDownError, StateError."""
        return False

    def take(self, study: OrthancId) -> None:
        """Claim the study, if this extractor has not yet. Raises HeldElsewhereError and PeerDownError."""

    def holds(self, study: OrthancId) -> bool:
        """Return whether the claim is valid, as far as this process can see."""
        return True

    def confirm(self, study: OrthancId) -> None:
        """Ask the server whether the claim is valid, before an effect that other extractors see. Raises PeerDownError."""

    def done(self, study: OrthancId) -> None:
        """Give up the claim of a finished study."""

    def release(self, study: OrthancId) -> None:
        """Leave an unfinished study to other extractors. Raises PeerDownError."""

    def request_retry(self, study: OrthancId) -> None:
        """Ask the extractor that has claimed the study to retry it. Raises PeerDownError."""

    def shared_work(self) -> SharedWork:
        """Return what other extractors leave to this one; the database is queried at intervals. Raises PeerDownError."""
        return SharedWork()

    def next_due(self) -> float:
        """Return the seconds until the next such query."""
        return inf


class SharedClaims(Claims):
    """The claims of one of several extractors, for its main thread only. `on_session` is called in each new session."""

    are_shared = True

    def __init__(
        self, database: PostgresSession, name: str, clock: Clock, on_session: Callable[[], None]
    ) -> None:
        self._database = database
        self._name = name
        self._clock = clock
        self._on_session = on_session
        self._term = 0
        self._held: set[OrthancId] = set()
        self._claimed_elsewhere: set[OrthancId] = set()
        self._next_query = -inf

    def connect(self) -> bool:
        self._database.open(make=True)
        self._database.rows("select 1")
        if self._term == self._database.term:
            return False
        self._held.clear()
        self._on_session()
        self._term = self._database.term
        self._next_query = -inf
        return True

    def take(self, study: OrthancId) -> None:
        if self.holds(study):
            return
        [(taken,)] = self._database.rows("select pg_try_advisory_lock(%s)", [_key(study)])
        if not taken:
            self._claimed_elsewhere.add(study)
            raise HeldElsewhereError(f"another extractor has claimed study {study}")
        self._claimed_elsewhere.discard(study)
        self._database.rows(
            "insert into open_study (study, key, extractor) values (%s, %s, %s)"
            " on conflict (study) do update set extractor = excluded.extractor, since = now()",
            [study, _key(study), self._name],
        )
        self._held.add(study)

    def holds(self, study: OrthancId) -> bool:
        return self._term == self._database.term and self._database.is_open and study in self._held

    def confirm(self, study: OrthancId) -> None:
        if not self.holds(study):
            raise PeerDownError(
                "the connection to the shared ledger was lost, and with it the claim of the study"
            )
        self._database.rows("select 1")

    def done(self, study: OrthancId) -> None:
        # without a server the claim has ended with the connection; the next extractor that takes the study finds it finished
        if not self.holds(study):
            return
        self._held.discard(study)
        with suppress(PeerDownError):
            self._database.rows("delete from wish where study = %s", [study])
            self._database.rows("delete from open_study where study = %s", [study])
            self._database.rows("select pg_advisory_unlock(%s)", [_key(study)])

    def release(self, study: OrthancId) -> None:
        if self.holds(study):
            self._held.discard(study)
            self._database.rows("select pg_advisory_unlock(%s)", [_key(study)])

    def request_retry(self, study: OrthancId) -> None:
        self._database.rows("insert into wish (study) values (%s) on conflict do nothing", [study])

    def shared_work(self) -> SharedWork:
        if self._clock.monotonic() < self._next_query:
            return SharedWork()
        self._next_query = self._clock.monotonic() + _QUERY_SECONDS
        in_flight = {
            OrthancId(study): key for study, key in self._database.rows("select study, key from open_study")
        }
        candidates = {study: key for study, key in in_flight.items() if study not in self._held}
        candidates |= {study: _key(study) for study in self._claimed_elsewhere}
        free = self._without_claim(candidates) if candidates else set()
        self._claimed_elsewhere -= free
        requested = self._database.rows(
            "delete from wish where study = any(%s::text[]) returning study", [sorted(self._held)]
        )
        return SharedWork(
            abandoned=sorted(free & in_flight.keys()),
            freed=sorted(free - in_flight.keys()),
            requested=[OrthancId(study) for (study,) in requested],
        )

    def next_due(self) -> float:
        return max(0.0, self._next_query - self._clock.monotonic())

    def _without_claim(self, candidates: Mapping[OrthancId, int]) -> set[OrthancId]:
        """Return the studies without a lock; pg_locks has the 64 bits of a key in two columns (PostgreSQL, system views)."""
        found = self._database.rows(
            "select study from unnest(%s::text[], %s::bigint[]) as asked (study, key) where not exists ("
            " select from pg_locks where locktype = 'advisory' and objsubid = 1"
            " and database = (select oid from pg_database where datname = current_database())"
            " and (classid::bigint << 32 | objid::bigint) = asked.key)",
            [list(candidates), list(candidates.values())],
        )
        return {OrthancId(study) for (study,) in found}


def _key(study: OrthancId) -> int:
    """Return the 64-bit lock key of a study; two studies with the same key would only wait for each other."""
    return int.from_bytes(blake2b(study.encode("ascii"), digest_size=8).digest(), "big", signed=True)
