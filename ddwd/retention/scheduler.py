"""When retention works, and in which order: once an hour, when room is short, and when it is asked. Part of the cycle, slow by intent.

A round is a generator: it gives one piece of work after the other to another thread, and what it does itself in between (the record) runs in
the cycle's. The order for each study: prove, write into its record what is about to go, remove it, tell. So nothing ever lacks that no
record explains, and a round that was cut off anywhere is done again from what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from ddwd.core import disk_space
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock, stamp
from ddwd.core.errors import DdwdError, HeldElsewhereError, StateError, StorageFullError
from ddwd.retention import round_report as accounts
from ddwd.retention.candidates import Survey
from ddwd.retention.disk_pressure import Shortage
from ddwd.retention.remove import Removed
from ddwd.retention.round_report import Account
from ddwd.retention.rules import Terms
from ddwd.store.statefile import encode

if TYPE_CHECKING:
    from collections.abc import Collection
    from concurrent.futures import Executor, Future
    from pathlib import Path

    from ddwd.config.loader import Config
    from ddwd.config.paths import Paths
    from ddwd.config.retention import Place
    from ddwd.core.disk_space import Space
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.client import OrthancPort
    from ddwd.retention.eligibility import Examiner, Finding
    from ddwd.retention.remove import Remover
    from ddwd.store.claims import Claims
    from ddwd.store.custody import CustodyPort, Record
    from ddwd.store.status_files import RoundReport

_ROUND_SECONDS = 3600.0
_SHORT_SECONDS = 300.0
"""Between two rounds while a place is short of room."""
_REST = 9.0
"""How many times as long as a piece took nothing is done while studies are in flight; once as long otherwise, or where room is short."""
_FRESH_SECONDS = 60.0
"""How old a proof may be when its images go; usually it is some milliseconds old."""
_LEAP = timedelta(seconds=60)
"""By how much the wall clock may part from the monotonic one between two turns; after that nothing is removed for an hour."""

IN_FLIGHT = "images of it are on their way"
CHANGED = "it changed while it was looked at"
STALE = "too long a time went by since it was proved"
LEAPT = "the machine's clock leapt: nothing is removed for an hour"

_Piece = Callable[[], Any]
_Steps = Generator[_Piece, Any, None]


@dataclass(frozen=True)
class Tools:
    """Everything that retention acts on; `measure` tells the room on the volume of a path."""

    paths: Paths
    nodes: tuple[OrthancPort, OrthancPort]
    custody: CustodyPort
    claims: Claims
    examiner: Examiner
    remover: Remover
    audit: Audit
    clock: Clock
    executor: Executor
    measure: Callable[[Path], Space] = disk_space.space_of


class RetentionScheduler:
    """Rounds over the places, for as long as `step` is called."""

    def __init__(self, config: Config, tools: Tools) -> None:
        self._policy, self._routes = config.retention, {one.name: one for one in config.routes}
        self._places = config.retention.places(config.routes)
        self._tools = tools
        self._shortage = Shortage(config, tools.paths, tools.measure)
        self._in_flight: Collection[OrthancId] = ()
        self._round: _Steps | None = None
        self._piece: _Piece | None = None
        self._work: Future[tuple[Any, float]] | None = None
        self._holds: OrthancId | None = None
        self._asked = self._hurries = False
        # not at once: after a boot the clock may still have to be set
        self._due, self._short_due = self._now() + _ROUND_SECONDS, self._now() + _SHORT_SECONDS
        self._trusted_from = float("-inf")
        self._offset = self._wall_offset()
        self._account = Account()
        self._last: RoundReport | None = None
        with suppress(StateError):
            self._last = accounts.read(tools.paths.retention)

    @property
    def is_used(self) -> bool:
        """Whether anything may ever be removed."""
        return bool(self._places)

    def ask(self) -> None:
        """The operator asks: a round now, without a rest."""
        self._asked = self.is_used

    def holds(self, study: OrthancId) -> bool:
        """Whether images of the study are just being removed: nobody else may touch it meanwhile."""
        return study == self._holds

    def wait(self) -> float:
        """Seconds until it wants to go on; infinite while a piece is worked at, whose end wakes the loop."""
        if not self.is_used:
            return float("inf")
        if self._work is not None:
            return 0.0 if self._work.done() else float("inf")
        due = self._now() if self._asked or self._holds else self._due
        return max(0.0, max(due, self._trusted_from) - self._now())

    def step(self, in_flight: Collection[OrthancId]) -> None:
        """Take in what was found, and have the next piece worked at where it is time; `in_flight` are left alone.

        Only to be called while both Orthancs answer, by the one thread that writes the records.
        """
        if not self.is_used:
            return
        self._in_flight = in_flight
        self._watch_clock()
        if self._work is not None and self._work.done():
            self._collect()
        if self._work is not None:
            return
        if self._round is None and self._is_time():
            self._begin()
        if self._piece is not None and (self._asked or self._holds or self._now() >= self._due):
            self._work, self._piece = self._tools.executor.submit(self._timed, self._piece), None

    def state(self) -> dict[str, Any]:
        """The last round and the one at work, for the status file; nothing where nothing may ever be removed."""
        if not self.is_used:
            return {}
        now = self._account.report() if self._round is not None else None
        return {"last": encode(self._last), "now": encode(now)}

    # --- when ---------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._tools.clock.monotonic()

    def _is_time(self) -> bool:
        now = self._now()
        if now < self._trusted_from:
            return False
        if self._asked or now >= self._due:
            return True
        if now < self._short_due:
            return False
        self._short_due = now + _SHORT_SECONDS
        return any(map(self._shortage.at, self._places))

    def _wall_offset(self) -> timedelta:
        return timedelta(seconds=self._tools.clock.utc().timestamp() - self._now())

    def _watch_clock(self) -> None:
        """A clock that leaps makes everything look old: it must have gone on for an hour before its word counts again."""
        offset = self._wall_offset()
        if abs(offset - self._offset) > _LEAP:
            self._trusted_from = self._now() + _ROUND_SECONDS
        self._offset = offset

    def _assert_time(self) -> None:
        if self._now() < self._trusted_from:
            raise StateError(LEAPT)

    # --- one piece after the other ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._account = Account(began_at=stamp(self._tools.clock.utc()))
        self._round = self._steps()
        self._due = self._now()
        self._advance(next)

    def _timed(self, piece: _Piece) -> tuple[Any, float]:
        began = self._now()
        return piece(), self._now() - began

    def _collect(self) -> None:
        work, self._work = self._work, None
        if work is None or self._round is None:
            return
        try:
            found, seconds = work.result()
        except Exception as error:  # noqa: BLE001 - whatever happens to retention, images must flow
            failure = error  # the name of the other one ends with its block
            self._advance(lambda steps: steps.throw(failure))
            return
        rests = _REST if self._in_flight and not self._hurries else 1.0
        self._due = self._now() + rests * seconds
        self._advance(lambda steps: steps.send(found))

    def _advance(self, go_on: Callable[[_Steps], _Piece]) -> None:
        """Have the round do what it does itself, up to its next piece of work."""
        if self._round is None:
            return
        try:
            self._piece = go_on(self._round)
        except StopIteration:
            self._end("")
        except Exception as error:  # noqa: BLE001 - as above
            self._end(str(error) if isinstance(error, DdwdError) else type(error).__name__)

    def _end(self, problem: str) -> None:
        self._round = self._piece = self._holds = None
        self._asked = False
        self._account.ended_at, self._account.problem = stamp(self._tools.clock.utc()), problem
        now = self._now()
        self._short_due = now + _SHORT_SECONDS
        self._due = now + (_SHORT_SECONDS if problem else _ROUND_SECONDS)
        self._last = self._account.report()
        try:
            accounts.write(self._tools.paths.retention, self._account)
        except (StorageFullError, OSError):
            return  # what was removed stands in the records; the next round is told of again

    # --- a round ------------------------------------------------------------------------------------------------------

    def _steps(self) -> _Steps:
        for place in self._places:
            looked_at: set[OrthancId] = set()
            for for_room in (False, True):
                yield from self._clear(place, looked_at, for_room=for_room)

    def _clear(self, place: Place, looked_at: set[OrthancId], *, for_room: bool) -> _Steps:
        """Remove what may go from a place, the oldest first: all whose days are over, or until there is room."""
        tools, is_whole = self._tools, False
        while not is_whole and (not for_room or self._shortage.at(place)):
            self._assert_time()
            self._hurries = self._shortage.at(place)
            terms = Terms(place, self._policy, self._routes, tools.clock.utc(), for_room)
            survey = Survey(terms, tools.nodes, tools.custody, tools.paths, looked_at.__contains__)
            while (yield survey.go_on):
                pass
            is_whole = survey.is_whole
            for study in survey.found:
                if for_room and not self._shortage.at(place):
                    return
                looked_at.add(study)
                yield from self._one(study, terms)

    def _one(self, study: OrthancId, terms: Terms) -> _Steps:
        """Prove, record, remove, tell."""
        if study in self._in_flight:
            return
        finding: Finding | None = yield partial(self._tools.examiner.look, study, terms)
        if finding is None:
            return
        tally = self._account.places[terms.place]
        if reason := finding.reason or (IN_FLIGHT if study in self._in_flight else ""):
            tally.stays(finding, reason)
            return
        self._assert_time()
        try:
            self._tools.claims.take(study)
        except HeldElsewhereError:
            tally.stays(finding, IN_FLIGHT)
            return
        try:
            gone = yield from self._remove_claimed(finding, terms)
        finally:
            self._holds = None
            if study not in self._in_flight:  # it may have been opened meanwhile
                self._tools.claims.done(study)
        if gone.images:
            tally.removed(gone)
            self._tell(finding, gone)
        if gone.problem:
            tally.stays(finding, gone.problem)

    def _remove_claimed(self, finding: Finding, terms: Terms) -> Generator[_Piece, Any, Removed]:
        if reason := self._intend(finding):
            return Removed(problem=reason)
        self._holds = finding.study
        gone: Removed = yield partial(self._remove, finding, terms, self._now())
        return gone

    def _remove(self, finding: Finding, terms: Terms, proved_at: float) -> Removed:
        """In the other thread: look at the lists once more, at the last moment, then remove."""
        if self._now() - proved_at > _FRESH_SECONDS:  # an Orthanc was away meanwhile
            return Removed(problem=STALE)
        if reason := self._tools.examiner.look_again(finding, terms):
            return Removed(problem=reason)
        return self._tools.remover.remove(finding)

    def _intend(self, finding: Finding) -> str:
        """Write into the record what is about to go; why not, where the study is no longer what was looked at."""
        custody = self._tools.custody
        try:
            record = custody.read(finding.study)
        except StateError:
            record = None
        if record is None or record != finding.record:
            return CHANGED
        custody.write(without(record, finding.place, finding.images, stamp(self._tools.clock.utc())))
        return ""

    def _tell(self, finding: Finding, gone: Removed) -> None:
        self._tools.audit.record(
            Event.RETIRED,
            f"{gone.images} images were removed from {WHERE[finding.place]} by retention",
            study_uid=finding.study_uid,
            study=finding.study,
            place=finding.place,
            instances=gone.images,
            bytes=gone.bytes,
        )


WHERE: dict[Place, str] = {"gateway": "the gateway", "storage": "storage", "output": "the output"}
"""What people read."""


def without(record: Record, place: Place, images: Collection[OrthancId], at: str) -> Record:
    """The record of a study of which these images are removed from that place.

    Once storage has none, a copy that the gateway takes again has nothing to be held against on the way: it is compared anew.
    """
    kept = dict(record.images)
    for one in kept.keys() & images:
        if place == "output":
            kept[one] = replace(kept[one], removed=at)
        elif place == "storage":
            kept[one] = replace(kept[one], at_gateway=False)
    history = [
        *record.history,
        {"revision": record.revision, "at": at, "added": 0, "retired": place, "images": len(images)},
    ]
    return replace(record, images=kept, history=history, retired=record.retired | {place: at})
