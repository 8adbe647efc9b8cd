"""One study, brought one step further: observe, decide, act. May be interrupted anywhere and called again.

Observing and publishing happen in the calling thread; C-MOVE and verification, which take long, run in a worker. A peer that is
away makes a study wait, it never fails an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from ddwd.config.routing import HOLD
from ddwd.core.clock import Clock, stamp
from ddwd.core.errors import DdwdError, Failure, failure_of
from ddwd.core.retry import LONGEST_SECONDS, retry_delay
from ddwd.extractor.decision import Blocker, Decision, Observation, Stage, decide, waiting_for_a_rule
from ddwd.extractor.flow_control import PAUSED

if TYPE_CHECKING:
    from collections.abc import Collection

    from ddwd.config.schema import Config
    from ddwd.extractor.flow_control import FlowControl
    from ddwd.extractor.observer import Observer
    from ddwd.extractor.orphans import OrphanSweeper
    from ddwd.extractor.set_aside import SetAside
    from ddwd.extractor.steps.forward import Forwarder
    from ddwd.extractor.steps.publish import Published, PublishStep
    from ddwd.extractor.steps.retrieve import RetrieveStep
    from ddwd.extractor.study import StudyState
    from ddwd.extractor.study_events import StudyEvents

LOOK_SECONDS = 0.3
"""A study in flight is observed this often."""
_QUICK_SECONDS = 0.1
"""One that grew is observed again this soon, or after `_LOOK_SHARE` times what observing it costs: its last image is seen at once."""
_LOOK_SHARE = 8.0
_HELD_SECONDS = 30.0
"""One that no route takes is observed this often."""


class Outcome(Enum):
    """What the loop does with the study next."""

    REQUEUE = auto()
    """Reconcile it again after a while."""
    WORKING = auto()
    """A worker is busy with it and schedules it at its end."""
    DONE = auto()
    RELEASE = auto()
    """Leave it to other extractors."""


@dataclass
class Result:
    """What came of one reconciliation; `after` and `no_sooner` in seconds: see WorkQueue.schedule."""

    outcome: Outcome = Outcome.REQUEUE
    after: float = 0.0
    no_sooner: float = 0.0
    forwarded: int = 0
    retrieved: int = 0
    bytes: int = 0
    published: Published | None = None


@dataclass(frozen=True, slots=True)
class Steps:
    """What the reconciler acts with."""

    forward: Forwarder
    retrieve: RetrieveStep
    publish: PublishStep
    set_aside: SetAside
    orphans: OrphanSweeper


class StudyReconciler:
    """Keeps nothing between calls: all that is known of a study is in its state."""

    def __init__(
        self,
        config: Config,
        observer: Observer,
        steps: Steps,
        flow: FlowControl,
        events: StudyEvents,
        clock: Clock,
    ) -> None:
        self._config = config
        self._observer = observer
        self._steps = steps
        self._flow = flow
        self._events = events
        self._clock = clock
        self.is_stopping = False
        """Set before a stop: work that was cut off is not reported as failed."""

    def reconcile(self, study: StudyState, in_flight: Collection[StudyState]) -> Result:
        """Bring the study one step further; no worker may be busy with it. Peers and disks that fail make it wait.

        `in_flight` are all studies in flight: one may have the same StudyInstanceUID.
        """
        result = Result()
        try:
            if study.work is not None and not self.collect(study, result):
                return result
            began = self._clock.monotonic()
            seen = self._observer.observe(study)
            result.no_sooner = max(_QUICK_SECONDS, _LOOK_SHARE * (self._clock.monotonic() - began))
            if seen is None:
                self._give_up(study)
                result.outcome = Outcome.DONE
            else:
                self._act(study, seen, in_flight, result)
        except (DdwdError, OSError) as error:
            self._fail(study, failure_of(error), result)
        return result

    def _fail(self, study: StudyState, why: Failure, result: Result) -> None:
        study.failures += 1
        study.report(Stage.WAITING, why)
        if study.failures == 1 and not self.is_stopping:
            self._events.failed(study, why)
        result.outcome = Outcome.REQUEUE
        result.after, result.no_sooner = retry_delay(study.failures), LOOK_SECONDS

    # --- decide and act -----------------------------------------------------------------------------------------------

    def _act(
        self, study: StudyState, seen: Observation, in_flight: Collection[StudyState], result: Result
    ) -> None:
        flow, decision = self._flow, self._decide(study, seen)
        study.report(decision.stage, Failure(decision.reason))
        self._events.observed(study, seen, decision)
        result.after = self._next_look(study)
        if study.stage is Stage.HELD:
            result.no_sooner = result.after  # only other settings move it on: images of other studies do not
        if decision.forward and flow.may_forward:
            self._forward(study, decision, result)
        if decision.retrieve and flow.may_retrieve:
            self._retrieve(study, decision, result)
        elif decision.publish:
            result.published = self._steps.publish.publish(study, in_flight)
            result.outcome = Outcome.DONE
        elif decision.forward or decision.retrieve:
            self._report_blocked(study, decision, result)

    def _report_blocked(self, study: StudyState, decision: Decision, result: Result) -> None:
        flow = self._flow
        if decision.retrieve and flow.is_paused:
            study.report(decision.stage, Failure(PAUSED), Blocker.PAUSE)
            result.outcome = Outcome.RELEASE
        elif flow.shortage:
            study.report(decision.stage, Failure(flow.shortage), Blocker.DISK)

    def _decide(self, study: StudyState, seen: Observation) -> Decision:
        route, grace = study.route, self._config.forward.grace
        if route is None or route is HOLD:
            return waiting_for_a_rule(held=route is HOLD)
        return decide(
            seen,
            stable_age=self._config.stable_age,
            grace=retry_delay(study.resends + 1, grace, longest=max(grace, LONGEST_SECONDS)),
            may_forward=route.forward,
            may_extract=route.extract,
        )

    def _next_look(self, study: StudyState) -> float:
        """Return the seconds until the next look: at the very moment at which the study may have become complete."""
        if study.stage is Stage.HELD:
            return _HELD_SECONDS
        quiet_in = study.grew_at + self._config.stable_age - self._clock.monotonic()
        return min(LOOK_SECONDS, max(0.0, quiet_in)) if study.stage is Stage.ARRIVING else LOOK_SECONDS

    def _forward(self, study: StudyState, decision: Decision, result: Result) -> None:
        forwarder = self._steps.forward
        last, study.moved_at = study.moved_at, self._clock.monotonic()
        result.forwarded = forwarder.send(decision.forward, study.priority)
        if not result.forwarded:
            return
        study.resends += 1
        if study.listing:
            self._events.forwarding(study, result.forwarded, forwarder.last_error)
        if self._observer.forwarded_at >= last:  # other images passed meanwhile: these are at fault
            set_aside = self._steps.set_aside.set_aside
            for instance in study.forward_attempts.count(decision.forward):
                set_aside(study, instance, "storage does not take it", study.forward_attempts)
                result.after = 0.0

    def _retrieve(self, study: StudyState, decision: Decision, result: Result) -> None:
        if study.listing is None:
            return
        self._events.retrieving(study)
        study.work = self._steps.retrieve.start(study.listing, decision.retrieve, study.control)
        result.outcome = Outcome.WORKING

    def collect(self, study: StudyState, result: Result) -> bool:
        """Take in what a worker brought; return whether to go on, False if the study has to wait. Raises StorageFullError and OSError."""
        work, study.work = study.work, None
        if work is None or work.cancelled():
            return True
        try:
            fetched = work.result()
        except Exception as error:  # noqa: BLE001 - whatever one study does to us, the others must go on
            self._fail(study, failure_of(error), result)
            return False
        study.verified.update({kept.orthanc_id: kept for kept in fetched.kept})
        study.timeline.note("disk", study.verified.keys(), stamp(self._clock.utc()))
        result.retrieved = len(fetched.kept)
        result.bytes = sum(kept.size for kept in fetched.kept)
        if not fetched.failed:
            study.failures = 0
            return True
        self._fail(study, next(iter(fetched.failed.values())), result)
        spent = study.retrieve_attempts.count(fetched.blamed) if self._flow.has_room else []
        for instance in spent:
            self._steps.set_aside.set_aside(
                study, instance, fetched.failed[instance].reason, study.retrieve_attempts
            )
        return bool(spent)

    def _give_up(self, study: StudyState) -> None:
        """Both Orthancs deleted the study: images of it that were not published go to quarantine."""
        if study.listing is not None and study.is_changed:
            reason = "the study was deleted on both Orthancs before it was published"
            files = self._steps.orphans.vanished(study.listing, reason)
            self._events.vanished(study, reason, files)
