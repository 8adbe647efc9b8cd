"""The `/changes` of one Orthanc: which studies changed since the last look.

A change is a hint. Rows of concurrent transactions may appear out of order, so a window before the cursor is read again
regularly; the cursor moves only to rows that were seen, never to the last row by the server's count. A database that was reset or
restored (its counter is before the cursor) is read from the beginning.

An image that joins a known series names its study only by the study's StableStudy row, and an Orthanc that is restarted, or loses its
database, before the study is stable never writes that row. So each new instance is remembered until that row is overdue, and its study
is queried then: two or three requests a study, however many images it has.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ddwd.core.clock import Clock
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import Change, OrthancPort

_PAGE = 1000
_PAGES_A_LOOK = 2
"""Limits one look to about a second: a restored database is read from its beginning while studies in flight continue."""
_OVERLAP = 500
_AGAIN_SECONDS = 2.0
"""How often the window is read again, unless half of it is new: at each look it would cost Orthanc more than all else together."""
_OVERDUE_SECONDS = 5.0
"""After the time in which a study gets stable: its StableStudy row is not awaited any longer."""
_QUERIED_A_LOOK = 10
"""Limits the studies that one look queries: about 50 ms."""
_REMEMBERED = 20_000
"""The most instances that wait for that; the sweep finds the studies of a longer history."""


@dataclass(frozen=True, slots=True)
class Touched:
    """The result of one look: studies that changed, whether instances arrived, whether there is more to read."""

    studies: frozenset[OrthancId]
    grew: bool
    more: bool


@dataclass
class ChangeFeed:
    """The `/changes` of one Orthanc from a cursor on.

    `stable_age`: the seconds without a new image after which the Orthanc writes a study's StableStudy row.
    """

    node: OrthancPort
    cursor: int
    clock: Clock
    stable_age: float
    _again_at: float = float("-inf")
    _again_from: int = 0
    _seen: set[int] = field(default_factory=set)
    _found: set[OrthancId] = field(default_factory=set)
    """Studies to return; kept when the Orthanc goes away in the middle of a look."""
    _new_instances: OrderedDict[OrthancId, float] = field(default_factory=OrderedDict)
    """Instances and when their row was read, oldest first."""

    def look(self) -> Touched:
        """Read the new changes. Raises PeerDownError and PeerRefusedError; call it again then."""
        since, done, grew = self._begin(), False, False
        for _ in range(_PAGES_A_LOOK):
            page = self.node.changes(since, _PAGE)
            if self._was_reset(page.last):
                self.cursor = self._again_from = 0
                self._seen.clear()
                return Touched(frozenset(), grew=False, more=True)
            fresh = [row for row in page.changes if row.seq not in self._seen]
            new_instances = [row.orthanc_id for row in fresh if row.kind == "NewInstance"]
            self._remember(new_instances)
            grew = grew or bool(new_instances)
            self._found.update(self._studies(fresh))
            self._advance(page.changes)
            done = page.done or not page.changes
            if done:
                break
            since = page.changes[-1].seq
        self._find_overdue()
        found, self._found = frozenset(self._found), set()
        return Touched(found, grew, more=not done)

    def _begin(self) -> int:
        """Return the sequence number to read from: the cursor, or a window before it."""
        now = self.clock.monotonic()
        if now - self._again_at < _AGAIN_SECONDS and self.cursor - self._again_from < _OVERLAP // 2:
            return self.cursor
        self._again_at, self._again_from = now, self.cursor
        return max(0, self.cursor - _OVERLAP)

    def _was_reset(self, last: int) -> bool:
        """Whether the server's counter went back; rows are deleted with their study, even the newest, but that leaves the counter."""
        return last < self.cursor and self.node.last_seq() < self.cursor

    def _studies(self, rows: Iterable[Change]) -> set[OrthancId]:
        found: set[OrthancId] = set()
        for row in rows:
            if row.level == "Study":
                found.add(row.orthanc_id)
            elif row.kind == "NewSeries" and (study := self.node.study_of("Series", row.orthanc_id)):
                found.add(study)
        return found

    def _remember(self, instances: Iterable[OrthancId]) -> None:
        now = self.clock.monotonic()
        for one in instances:
            self._new_instances[one] = now
        while len(self._new_instances) > _REMEMBERED:
            self._new_instances.popitem(last=False)

    def _find_overdue(self) -> None:
        """Find the studies of new instances whose StableStudy row is overdue: it was written by now, or never will be."""
        read_before = self.clock.monotonic() - (self.stable_age + _OVERDUE_SECONDS)
        for _ in range(_QUERIED_A_LOOK):
            instance, read_at = next(iter(self._new_instances.items()), (None, 0.0))
            if instance is None or read_at > read_before:
                return
            study = self.node.study_of("Instance", instance)
            if study is not None:
                # all that the study has now is compared when its turn comes
                for one in self.node.instances([study]).get(study, ()):
                    self._new_instances.pop(one, None)
                self._found.add(study)
            self._new_instances.pop(instance, None)

    def _advance(self, rows: tuple[Change, ...]) -> None:
        self._seen.update(row.seq for row in rows)
        self.cursor = max([self.cursor, *(row.seq for row in rows)])
        if len(self._seen) > 4 * _OVERLAP:
            self._seen = {seq for seq in self._seen if seq > self.cursor - _OVERLAP}
