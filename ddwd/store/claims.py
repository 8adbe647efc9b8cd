"""Which studies this extractor may work at. LocalClaims, at all; of several that share a database, one at a time has a study.

A claim is a session's advisory lock in PostgreSQL: it ends with the process that holds it, or with its host (see database.py), and no
clock decides about it. What is claimed stands in a table too, so that the others know what somebody began and nobody finished.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf
from typing import TYPE_CHECKING, Protocol

from ddwd.core.errors import HeldElsewhereError, PeerDownError
from ddwd.core.model import OrthancId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ddwd.core.clock import Clock
    from ddwd.store.postgres import Database

_LOOK_SECONDS = 2.0
"""Between two looks at what others left."""


@dataclass(frozen=True, slots=True)
class Left:
    """Studies that were begun and are nobody's; that could not be claimed and are free by now; that another's operator wants anew."""

    begun: list[OrthancId] = field(default_factory=list)
    free: list[OrthancId] = field(default_factory=list)
    asked: list[OrthancId] = field(default_factory=list)


class Claims(Protocol):
    """What the cycle asks."""

    @property
    def are_shared(self) -> bool:
        """Whether there are others."""

    def look(self) -> bool:
        """Make sure of the connection; True where it is a new one, to which no claim of before belongs. Raises PeerDownError, StateError."""

    def take(self, study: OrthancId) -> None:
        """Claim the study, unless it is claimed here. Raises HeldElsewhereError and PeerDownError."""

    def holds(self, study: OrthancId) -> bool:
        """Whether the claim was not lost since."""

    def make_sure(self, study: OrthancId) -> None:
        """Ask the server that the claim stands, before what others will see. Raises PeerDownError."""

    def drop(self, study: OrthancId) -> None:
        """The study is done with."""

    def leave(self, study: OrthancId) -> None:
        """The study is not done with, and for another one now. Raises PeerDownError."""

    def ask(self, study: OrthancId) -> None:
        """Tell whoever holds the study that the operator wants it begun anew. Raises PeerDownError."""

    def left(self) -> Left:
        """What there is to do because of the others; they are asked now and then. Raises PeerDownError."""

    def wait(self) -> float:
        """Seconds until they are asked again."""


class LocalClaims:
    """The only extractor: every study is its own."""

    are_shared = False

    def look(self) -> bool:
        """See Claims."""
        return False

    def take(self, study: OrthancId) -> None:
        """See Claims."""

    def holds(self, study: OrthancId) -> bool:
        """See Claims."""
        return True

    def make_sure(self, study: OrthancId) -> None:
        """See Claims."""

    def drop(self, study: OrthancId) -> None:
        """See Claims."""

    def leave(self, study: OrthancId) -> None:
        """See Claims."""

    def ask(self, study: OrthancId) -> None:
        """See Claims."""

    def left(self) -> Left:
        """See Claims."""
        return Left()

    def wait(self) -> float:
        """See Claims."""
        return inf


class SharedClaims:
    """One of several extractors; for its main thread alone. `begun` is called in each new session."""

    are_shared = True

    def __init__(self, database: Database, name: str, clock: Clock, begun: Callable[[], None]) -> None:
        self._database = database
        self._name = name
        self._clock = clock
        self._begun = begun
        self._term = 0
        self._held: set[OrthancId] = set()
        self._elsewhere: set[OrthancId] = set()
        self._next_look = float("-inf")

    def look(self) -> bool:
        """See Claims."""
        self._database.open(make=True)
        self._database.rows("select 1")
        if self._term == self._database.term:
            return False
        self._held.clear()
        self._begun()
        self._term = self._database.term
        self._next_look = float("-inf")
        return True

    def take(self, study: OrthancId) -> None:
        """See Claims."""
        if self.holds(study):
            return
        [(taken,)] = self._database.rows("select pg_try_advisory_lock(%s)", [_key(study)])
        if not taken:
            self._elsewhere.add(study)
            raise HeldElsewhereError(f"another extractor works at study {study}")
        self._elsewhere.discard(study)
        self._database.rows(
            "insert into open_study (study, key, extractor) values (%s, %s, %s)"
            " on conflict (study) do update set extractor = excluded.extractor, since = now()",
            [study, _key(study), self._name],
        )
        self._held.add(study)

    def holds(self, study: OrthancId) -> bool:
        """See Claims."""
        return self._term == self._database.term and self._database.is_open and study in self._held

    def make_sure(self, study: OrthancId) -> None:
        """See Claims."""
        if not self.holds(study):
            raise PeerDownError("the connection to the shared ledger was lost, and with it the study")
        self._database.rows("select 1")

    def drop(self, study: OrthancId) -> None:
        """See Claims. Where the server is away, the claim has ended with the connection, and somebody finds nothing left to do."""
        if not self.holds(study):
            return
        self._held.discard(study)
        try:
            self._database.rows("delete from wish where study = %s", [study])
            self._database.rows("delete from open_study where study = %s", [study])
            self._database.rows("select pg_advisory_unlock(%s)", [_key(study)])
        except PeerDownError:
            return

    def leave(self, study: OrthancId) -> None:
        """See Claims."""
        if self.holds(study):
            self._held.discard(study)
            self._database.rows("select pg_advisory_unlock(%s)", [_key(study)])

    def ask(self, study: OrthancId) -> None:
        """See Claims."""
        self._database.rows("insert into wish (study) values (%s) on conflict do nothing", [study])

    def left(self) -> Left:
        """See Claims."""
        if self._clock.monotonic() < self._next_look:
            return Left()
        self._next_look = self._clock.monotonic() + _LOOK_SECONDS
        begun = [
            (OrthancId(study), key) for study, key in self._database.rows("select study, key from open_study")
        ]
        mine = self._held
        asked = {study: key for study, key in begun if study not in mine}
        asked |= {study: _key(study) for study in self._elsewhere}
        free = self._free(asked.items()) if asked else set()
        self._elsewhere -= free
        names = {study for study, _key in begun}
        return Left(sorted(free & names), sorted(free - names), self._asked())

    def wait(self) -> float:
        """See Claims."""
        return max(0.0, self._next_look - self._clock.monotonic())

    def _asked(self) -> list[OrthancId]:
        wanted = self._database.rows(
            "delete from wish where study = any(%s::text[]) returning study", [sorted(self._held)]
        )
        return [OrthancId(study) for (study,) in wanted]

    def _free(self, asked: Iterable[tuple[OrthancId, int]]) -> set[OrthancId]:
        """Those that no session holds: a lock on 64 bits stands in pg_locks as two halves (PostgreSQL, system views)."""
        studies, keys = zip(*asked, strict=True)
        found = self._database.rows(
            "select study from unnest(%s::text[], %s::bigint[]) as asked (study, key) where not exists ("
            " select from pg_locks where locktype = 'advisory' and objsubid = 1"
            " and database = (select oid from pg_database where datname = current_database())"
            " and (classid::bigint << 32 | objid::bigint) = asked.key)",
            [list(studies), list(keys)],
        )
        return {OrthancId(study) for (study,) in found}


def _key(study: OrthancId) -> int:
    """The 64 bits that a study is locked by; two studies that shared them would only wait for each other."""
    return int.from_bytes(blake2b(study.encode("ascii"), digest_size=8).digest(), "big", signed=True)
