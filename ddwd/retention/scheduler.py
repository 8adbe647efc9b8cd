"""Schedule retention: a round every hour, when free space is short, and at the operator's request. Slow on purpose.

A round is a generator that yields pieces of work. Another thread runs each piece; the code between two pieces, which writes the
records, runs in the thread of the extractor's loop. The order for each study: verify, write the removal into its custody record,
remove, report. Every missing file is therefore explained by a record, and an interrupted round can be repeated. A dry run makes the
same checks and removes no file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock, stamp
from ddwd.core.errors import DdwdError, HeldElsewhereError, StateError, StorageFullError
from ddwd.retention import round_report
from ddwd.retention.candidates import Shortage, Survey
from ddwd.retention.eligibility import Examiner, owed
from ddwd.retention.remove import Removed
from ddwd.retention.rules import Terms
from ddwd.store.custody import report_change
from ddwd.store.status_files import EXTRACTOR, ExtractorStatus, RetentionRound, RetentionStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from concurrent.futures import Executor, Future
    from datetime import datetime
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.config.retention import Place
    from ddwd.config.schema import Config
    from ddwd.core.disk_space import Space
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort
    from ddwd.retention.eligibility import Eligibility
    from ddwd.retention.remove import Remover
    from ddwd.store.claims import Claims
    from ddwd.store.custody import Custody, Record

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


@dataclass
class RetentionScheduler:
    """Run rounds over all places; each call of `step` starts or continues one."""

    config: Config
    claims: Claims
    examiner: Examiner
    remover: Remover
    shortage: Shortage
    audit: Audit
    clock: Clock
    executor: Executor

    def __post_init__(self) -> None:
        self._routes = {route.name: route for route in self.config.routes}
        self._places = self.config.retention.places(self.config.routes)
        self._paths, self._custody = self.examiner.paths, self.examiner.custody
        self._in_flight: Collection[OrthancId] = ()
        self._round: _Steps | None = None
        self._piece: _Piece | None = None
        self._work: Future[tuple[Any, float]] | None = None
        self._removing: OrthancId | None = None
        self._requested = self._hurries = False
        # not at once: after a boot the clock may not be set yet
        self._due, self._short_due = self._now() + _ROUND_SECONDS, self._now() + _SHORT_SECONDS
        self._trusted_from = float("-inf")
        self._offset = self._wall_offset()
        self._began_at, self._tallies = "", round_report.tallies()
        self._last: RetentionRound | None = None
        with suppress(StateError):
            self._last = round_report.read(self._paths.retention)

    def ask(self) -> None:
        """Start a round at once, without rests, at the operator's request; no effect if the settings allow no removal."""
        self._requested = bool(self._places)

    def holds(self, study: OrthancId) -> bool:
        """Return whether images of the study are being removed now; no other part of the extractor may work on it meanwhile."""
        return study == self._removing

    def wait(self) -> float:
        """Return the seconds until the next step is due; infinity while a worker is busy, whose end wakes the loop."""
        if not self._places:
            return float("inf")
        if self._work is not None:
            return 0.0 if self._work.done() else float("inf")
        due = self._now() if self._requested or self._removing else self._due
        return max(0.0, max(due, self._trusted_from) - self._now())

    def step(self, in_flight: Collection[OrthancId]) -> None:
        """Collect the result of the last piece, and start the next one if it is due; studies `in_flight` are not touched.

        Call only while both Orthancs answer, and only from the thread that writes the records.
        """
        if not self._places:
            return
        self._in_flight = in_flight
        self._watch_clock()
        if self._work is not None and self._work.done():
            self._collect()
        if self._work is not None:
            return
        if self._round is None and self._is_time():
            self._began_at, self._tallies = stamp(self.clock.utc()), round_report.tallies()
            self._round = self._steps()
            self._due = self._now()
            self._advance(next)
        if self._piece is not None and (self._requested or self._removing or self._now() >= self._due):
            self._work, self._piece = self.executor.submit(self._timed, self._piece), None

    def state(self) -> RetentionStatus | None:
        """Return the last round and the current one, for the status file; None if the settings allow no removal."""
        if not self._places:
            return None
        return RetentionStatus(self._last, self._report() if self._round is not None else None)

    def _report(self, ended_at: str = "", problem: str = "") -> RetentionRound:
        places = {place: tally.report() for place, tally in self._tallies.items()}
        return RetentionRound(self._began_at, ended_at, problem, places)

    # --- when ---------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self.clock.monotonic()

    def _is_time(self) -> bool:
        now = self._now()
        if now < self._trusted_from:
            return False
        if self._requested or now >= self._due:
            return True
        if now < self._short_due:
            return False
        self._short_due = now + _SHORT_SECONDS
        return any(map(self.shortage.at, self._places))

    def _wall_offset(self) -> timedelta:
        return timedelta(seconds=self.clock.utc().timestamp() - self._now())

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
        self._round = self._piece = self._removing = None
        self._requested = False
        now = self._now()
        self._short_due = now + _SHORT_SECONDS
        self._due = now + (_SHORT_SECONDS if problem else _ROUND_SECONDS)
        self._last = self._report(stamp(self.clock.utc()), problem)
        # if it fails, the records hold what was removed; the next round writes a new report
        with suppress(StorageFullError, OSError):
            round_report.write(self._paths.retention, self._last)

    # --- a round ------------------------------------------------------------------------------------------------------

    def _steps(self) -> _Steps:
        for place in self._places:
            examined: set[OrthancId] = set()
            for for_room in (False, True):
                yield from self._clear(place, examined, for_room=for_room)

    def _clear(self, place: Place, examined: set[OrthancId], *, for_room: bool) -> _Steps:
        """Remove studies from a place, the oldest first: all whose days are over, or with `for_room` until there is space."""
        is_whole = False
        while not is_whole and (not for_room or self.shortage.at(place)):
            self._assert_time()
            self._hurries = self.shortage.at(place)
            terms = Terms(place, self.config.retention, self._routes, self.clock.utc(), for_room)
            survey = Survey(terms, self.examiner.nodes, self._custody, self._paths, examined)
            while (yield survey.go_on):
                pass
            is_whole = survey.is_whole
            for study in survey.found:
                if for_room and not self.shortage.at(place):
                    return
                examined.add(study)
                yield from self._process(study, terms)

    def _process(self, study: OrthancId, terms: Terms) -> _Steps:
        """Verify, record, remove and report one study."""
        if study in self._in_flight:
            return
        finding: Eligibility | None = yield partial(self.examiner.look, study, terms)
        if finding is None:
            return
        tally = self._tallies[terms.place]
        if reason := finding.reason or (IN_FLIGHT if study in self._in_flight else ""):
            tally.stays(finding, reason)
            return
        self._assert_time()
        try:
            self.claims.take(study)
        except HeldElsewhereError:
            tally.stays(finding, IN_FLIGHT)
            return
        try:
            gone = Removed(problem=self._record_removal(finding))
            if not gone.problem:
                self._removing = study
                gone = yield partial(self._remove, finding, terms, self._now())
        finally:
            self._removing = None
            if study not in self._in_flight:  # it may have been opened meanwhile
                self.claims.done(study)
        if gone.images:
            tally.removed(gone)
            self.audit.record(
                Event.RETIRED,
                f"{gone.images} images were removed from {round_report.WHERE[finding.place]} by retention",
                study_uid=finding.study_uid,
                study=study,
                place=finding.place,
                instances=gone.images,
                bytes=gone.bytes,
            )
        if gone.problem:
            tally.stays(finding, gone.problem)

    def _remove(self, finding: Eligibility, terms: Terms, proved_at: float) -> Removed:
        """Compare the lists once more, then remove. Runs in the worker thread."""
        if self._now() - proved_at > _FRESH_SECONDS:  # an Orthanc was away meanwhile
            return Removed(problem=STALE)
        if reason := self.examiner.look_again(finding, terms):
            return Removed(problem=reason)
        return self.remover.remove(finding)

    def _record_removal(self, finding: Eligibility) -> str:
        """Write the coming removal into the custody record; return why not, if the record has changed since it was examined."""
        try:
            record = self._custody.read(finding.study)
        except StateError:
            record = None
        if record is None or record != finding.record:
            return CHANGED
        record = without(record, finding.place, finding.images, stamp(self.clock.utc()))
        digest = self._custody.write(record)
        where = round_report.WHERE[finding.place]
        why = f"retention removes {len(finding.images)} images from {where}"
        report_change(self.audit, record, digest, why)
        return ""


def without(record: Record, place: Place, images: Collection[OrthancId], at: str) -> Record:
    """Return the record with these images marked as removed from that place.

    Once storage has no copy, an image that the gateway receives again cannot be compared with storage: `at_gateway` is reset, so
    that the extractor compares it again.
    """
    entries = dict(record.images)
    for image in entries.keys() & images:
        if place == "output":
            entries[image] = replace(entries[image], removed=at)
        elif place == "storage":
            entries[image] = replace(entries[image], at_gateway=False)
    event = {"revision": record.revision, "at": at, "added": 0, "retired": place, "images": len(images)}
    history = [*record.history, event]
    return replace(record, images=entries, history=history, retired=record.retired | {place: at})


@dataclass
class DryRun:
    """One pass over all places with every check of a round: `ddwd retention --dry-run`. Removes no file."""

    config: Config
    paths: Paths
    nodes: tuple[OrthancPort, OrthancPort]
    custody: Custody
    now: datetime
    measure: Callable[[Path], Space]

    def __post_init__(self) -> None:
        self._shortage = Shortage(self.config, self.paths, self.measure)
        self._routes = {route.name: route for route in self.config.routes}
        self._leaving: set[OrthancId] = set()
        self._examiner = Examiner(self.nodes, self.paths, self.custody, owed(self.paths), self._leaving)

    def findings(self, expect: Callable[[int], None], advance: Callable[[], None]) -> Iterator[Eligibility]:
        """Yield what would be removed and what would be kept, place by place, the oldest first. Raises PeerDownError, PeerRefusedError.

        Calls `expect` with the number of studies that it is about to examine, and `advance` after each.
        """
        self._expect, self._advance = expect, advance
        status = EXTRACTOR.read_or_none(self.paths.heartbeat("extractor")) or ExtractorStatus()
        for place in self.config.retention.places(self.config.routes):
            examined = {row.study for row in status.in_flight}
            for for_room in (False, True):
                terms = Terms(place, self.config.retention, self._routes, self.now, for_room)
                yield from self._examine(terms, examined)

    def _examine(self, terms: Terms, examined: set[OrthancId]) -> Iterator[Eligibility]:
        place, for_room, is_whole = terms.place, terms.for_room, False
        while not is_whole and (not for_room or self._shortage.at(place)):
            survey = Survey(terms, self.nodes, self.custody, self.paths, examined)
            while survey.go_on():
                pass
            is_whole = survey.is_whole
            self._expect(len(survey.found))
            for study in survey.found:
                if for_room and not self._shortage.at(place):
                    return
                examined.add(study)
                if finding := self._examiner.look(study, terms):
                    self._shortage.frees(place, finding.bytes)
                    if place == "gateway" and finding.images:
                        self._leaving.add(study)
                    yield finding
                self._advance()
