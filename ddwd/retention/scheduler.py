"""Schedule retention: a round every hour, when free space is short, and at the operator's request. Slow on purpose.

A round is a generator that yields pieces of work. Another thread runs each piece; the code between two pieces, which writes the
records, runs in the thread of the extractor's loop. The order for each study: verify, write the removal into its custody record,
remove, report. Every missing file is therefore explained by a record, and an interrupted round can be repeated.
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
from ddwd.retention import round_report
from ddwd.retention.candidates import Survey
from ddwd.retention.disk_pressure import Shortage
from ddwd.retention.remove import Removed
from ddwd.retention.round_report import RoundReport
from ddwd.retention.rules import Terms
from ddwd.store.status_files import RetentionStatus

if TYPE_CHECKING:
    from collections.abc import Collection
    from concurrent.futures import Executor, Future
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.config.retention import Place
    from ddwd.config.schema import Config
    from ddwd.core.disk_space import Space
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort
    from ddwd.retention.eligibility import Eligibility, Examiner
    from ddwd.retention.remove import Remover
    from ddwd.store.claims import Claims
    from ddwd.store.custody import Custody, Record
    from ddwd.store.status_files import RetentionRound

_ROUND_SECONDS = 3600.0
_SHORT_SECONDS = 300.0
"""Between two rounds while a place is short of space."""
_REST = 9.0
"""While studies are in flight, retention rests this many times as long as the last piece took; otherwise, or if space is short, once as long."""
_FRESH_SECONDS = 60.0
"""How old a verification may be at the removal; usually it is some milliseconds old."""
_LEAP = timedelta(seconds=60)
"""How far the wall clock may move against the monotonic one between two steps; if it moves further, no image is removed for an hour."""

IN_FLIGHT = "images of it are in flight"
CHANGED = "it changed while it was examined"
STALE = "its verification is too old"
LEAPT = "the machine's clock jumped: no image is removed for an hour"

_Piece = Callable[[], Any]
_Steps = Generator[_Piece, Any, None]


@dataclass(frozen=True)
class Tools:
    """Everything that retention works with; `measure` returns the free space of the volume of a path."""

    paths: Paths
    nodes: tuple[OrthancPort, OrthancPort]
    custody: Custody
    claims: Claims
    examiner: Examiner
    remover: Remover
    audit: Audit
    clock: Clock
    executor: Executor
    measure: Callable[[Path], Space] = disk_space.space_of


class RetentionScheduler:
    """Run rounds over all places; each call of `step` starts or continues one."""

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
        # not at once: after a boot the clock may not be set yet
        self._due, self._short_due = self._now() + _ROUND_SECONDS, self._now() + _SHORT_SECONDS
        self._trusted_from = float("-inf")
        self._offset = self._wall_offset()
        self._report = RoundReport()
        self._last: RetentionRound | None = None
        with suppress(StateError):
            self._last = round_report.read(tools.paths.retention)

    @property
    def is_used(self) -> bool:
        """Whether the settings allow any removal."""
        return bool(self._places)

    def ask(self) -> None:
        """Start a round at once, without rests, at the operator's request."""
        self._asked = self.is_used

    def holds(self, study: OrthancId) -> bool:
        """Return whether images of the study are being removed now; no other part of the extractor may work on it meanwhile."""
        return study == self._holds

    def wait(self) -> float:
        """Return the seconds until the next step is due; infinity while a worker is busy, whose end wakes the loop."""
        if not self.is_used:
            return float("inf")
        if self._work is not None:
            return 0.0 if self._work.done() else float("inf")
        due = self._now() if self._asked or self._holds else self._due
        return max(0.0, max(due, self._trusted_from) - self._now())

    def step(self, in_flight: Collection[OrthancId]) -> None:
        """Collect the result of the last piece, and start the next one if it is due; studies `in_flight` are not touched.

        Call only while both Orthancs answer, and only from the thread that writes the records.
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

    def state(self) -> RetentionStatus | None:
        """Return the last round and the current one, for the status file; None if the settings allow no removal."""
        if not self.is_used:
            return None
        now = self._report.report() if self._round is not None else None
        return RetentionStatus(self._last, now)

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
        """Suspend retention for an hour after a jump of the wall clock, which may make every study look old."""
        offset = self._wall_offset()
        if abs(offset - self._offset) > _LEAP:
            self._trusted_from = self._now() + _ROUND_SECONDS
        self._offset = offset

    def _assert_time(self) -> None:
        if self._now() < self._trusted_from:
            raise StateError(LEAPT)

    # --- one piece after the other ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._report = RoundReport(began_at=stamp(self._tools.clock.utc()))
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
        except Exception as error:  # noqa: BLE001 - a failure of retention must not stop the flow of images
            failure = error  # Python deletes `error` at the end of this block
            self._advance(lambda steps: steps.throw(failure))
            return
        rests = _REST if self._in_flight and not self._hurries else 1.0
        self._due = self._now() + rests * seconds
        self._advance(lambda steps: steps.send(found))

    def _advance(self, go_on: Callable[[_Steps], _Piece]) -> None:
        """Run the generator up to its next piece of work."""
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
        self._report.ended_at, self._report.problem = stamp(self._tools.clock.utc()), problem
        now = self._now()
        self._short_due = now + _SHORT_SECONDS
        self._due = now + (_SHORT_SECONDS if problem else _ROUND_SECONDS)
        self._last = self._report.report()
        try:
            round_report.write(self._tools.paths.retention, self._report)
        except (StorageFullError, OSError):
            return  # the records hold what was removed; the next round writes a new report

    # --- a round ------------------------------------------------------------------------------------------------------

    def _steps(self) -> _Steps:
        for place in self._places:
            looked_at: set[OrthancId] = set()
            for for_room in (False, True):
                yield from self._clear(place, looked_at, for_room=for_room)

    def _clear(self, place: Place, looked_at: set[OrthancId], *, for_room: bool) -> _Steps:
        """Remove studies from a place, the oldest first: all whose days are over, or with `for_room` until there is space."""
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
        """Verify, record, remove and report one study."""
        if study in self._in_flight:
            return
        finding: Eligibility | None = yield partial(self._tools.examiner.look, study, terms)
        if finding is None:
            return
        tally = self._report.places[terms.place]
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
            self._report_removed(finding, gone)
        if gone.problem:
            tally.stays(finding, gone.problem)

    def _remove_claimed(self, finding: Eligibility, terms: Terms) -> Generator[_Piece, Any, Removed]:
        if reason := self._record_removal(finding):
            return Removed(problem=reason)
        self._holds = finding.study
        gone: Removed = yield partial(self._remove, finding, terms, self._now())
        return gone

    def _remove(self, finding: Eligibility, terms: Terms, proved_at: float) -> Removed:
        """Compare the lists once more, then remove. Runs in the worker thread."""
        if self._now() - proved_at > _FRESH_SECONDS:  # an Orthanc was away meanwhile
            return Removed(problem=STALE)
        if reason := self._tools.examiner.look_again(finding, terms):
            return Removed(problem=reason)
        return self._tools.remover.remove(finding)

    def _record_removal(self, finding: Eligibility) -> str:
        """Write the coming removal into the custody record; return why not, if the record has changed since it was examined."""
        custody = self._tools.custody
        try:
            record = custody.read(finding.study)
        except StateError:
            record = None
        if record is None or record != finding.record:
            return CHANGED
        custody.write(without(record, finding.place, finding.images, stamp(self._tools.clock.utc())))
        return ""

    def _report_removed(self, finding: Eligibility, gone: Removed) -> None:
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
"""Name of each place in messages to people."""


def without(record: Record, place: Place, images: Collection[OrthancId], at: str) -> Record:
    """Return the record with these images marked as removed from that place.

    Once storage has no copy, an image that the gateway receives again cannot be compared with storage: `at_gateway` is reset, so
    that the extractor compares it again.
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
