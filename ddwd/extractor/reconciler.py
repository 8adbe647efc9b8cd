"""Bring one study one step further: observe, decide, act. May be interrupted anywhere and called again.

Observing and publishing happen in the calling thread; C-MOVE, verification and copies by REST, which take long, run in a worker. A peer that does
not answer makes a study wait; it never fails an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from ddwd.core.clock import stamp
from ddwd.core.errors import DdwdError, Failure, failure_of
from ddwd.core.retry import LONGEST_SECONDS, retry_delay
from ddwd.extractor.decision import Blocker, Decision, Observation, Stage, decide
from ddwd.extractor.study import Copied

if TYPE_CHECKING:
    from collections.abc import Collection

    from ddwd.config.schema import Config
    from ddwd.core.clock import Clock
    from ddwd.extractor.flow_control import FlowControl
    from ddwd.extractor.observer import Observer
    from ddwd.extractor.orphans import OrphanSweeper
    from ddwd.extractor.steps.forward import ForwardStep
    from ddwd.extractor.steps.publish import PublishStep
    from ddwd.extractor.steps.repair import SetAside
    from ddwd.extractor.steps.retrieve import Retriever
    from ddwd.extractor.study import Retrieved, StudyState
    from ddwd.extractor.study_events import StudyEvents
    from ddwd.store.status_files import FinishedStudy

LOOK_SECONDS = 0.3
"""A study in flight is observed this often."""
_QUICK_SECONDS = 0.1
"""A study that grew is observed again this soon, or after `_LOOK_SHARE` times what observing it costs: its last image is seen at once."""
_LOOK_SHARE = 8.0
_HELD_SECONDS = 30.0
"""A study that no route takes is observed this often."""


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
    """The result of one reconciliation; `after` and `no_sooner` in seconds: see WorkQueue.schedule."""

    outcome: Outcome = Outcome.REQUEUE
    after: float = 0.0
    no_sooner: float = 0.0
    forwarded: int = 0
    retrieved: int = 0
    bytes: int = 0
    published: FinishedStudy | None = None


@dataclass
class Steps:
    """What the reconciler does with a study."""

    forward: ForwardStep
    retrieve: Retriever
    publish: PublishStep
    set_aside: SetAside


@dataclass
class StudyReconciler:
    """Stores no study between calls: all that is known of one is in its state."""

    config: Config
    observer: Observer
    steps: Steps
    orphans: OrphanSweeper
    flow: FlowControl
    events: StudyEvents
    clock: Clock
    is_stopping: bool = False
    """Set before a stop: work that was cut off is not reported as failed."""

    def reconcile(self, study: StudyState, in_flight: Collection[StudyState]) -> Result:
        """Bring the study one step further; no worker may be busy with it. Peers and disks that fail make it wait.

        `in_flight` are all studies in flight: one may have the same StudyInstanceUID.
        """
        result = Result()
        try:
            if study.work is not None and not self.collect(study, result):
                return result
            began = self.clock.monotonic()
            seen = self.observer.observe(study)
            result.no_sooner = max(_QUICK_SECONDS, _LOOK_SHARE * (self.clock.monotonic() - began))
            if seen is None:
                self._give_up(study)
                self.steps.publish.confirm(study)
                result.outcome = Outcome.DONE
            else:
                self._act(study, seen, in_flight, result)
        except (DdwdError, OSError) as error:
            self._fail(study, failure_of(error), result)
        return result

    def _fail(self, study: StudyState, why: Failure, result: Result) -> None:
        study.failures += 1
        study.report(Stage.RETRYING if study.failures == 1 else Stage.WAITING, why)
        if study.failures == 1 and not self.is_stopping:
            self.events.failed(study, why)
        result.outcome = Outcome.REQUEUE
        result.after, result.no_sooner = retry_delay(study.failures), LOOK_SECONDS

    # --- decide and act -----------------------------------------------------------------------------------------------

    def _act(
        self, study: StudyState, seen: Observation, in_flight: Collection[StudyState], result: Result
    ) -> None:
        decision = self._decide(study, seen)
        study.report(*_told(study, decision))
        self.events.observed(study, seen, decision)
        result.after = self._next_look(study)
        if study.stage is Stage.HELD:
            result.no_sooner = result.after  # only other settings move it on: images of other studies do not
        if decision.forward and self.flow.may_forward:
            self._forward(study, decision, result)
        if study.work is not None:
            result.outcome = Outcome.WORKING
        elif decision.retrieve and self.flow.may_retrieve:
            self._retrieve(study, decision, result)
        elif decision.publish:
            self.observer.note_ways(study)
            result.published = self.steps.publish.publish(study, in_flight)
            result.outcome = Outcome.DONE
        elif decision.forward or decision.retrieve:
            self._report_blocked(study, decision, result)

    def _report_blocked(self, study: StudyState, decision: Decision, result: Result) -> None:
        if decision.retrieve and self.flow.is_paused:
            study.report(decision.stage, Failure(self.flow.pause_reason), Blocker.PAUSE)
            result.outcome = Outcome.RELEASE
        elif shortage := self.flow.shortage:
            study.report(decision.stage, Failure(shortage), Blocker.DISK)

    def _decide(self, study: StudyState, seen: Observation) -> Decision:
        first = self.config.forward.grace
        grace = retry_delay(study.resends + 1, first, longest=max(first, LONGEST_SECONDS))
        return decide(seen, study.route, stable_age=self.config.stable_age, grace=grace)

    def _next_look(self, study: StudyState) -> float:
        """Return the seconds until the next look: at the very moment at which the study may have become complete."""
        if study.stage is Stage.HELD:
            return _HELD_SECONDS
        quiet_in = study.grew_at + self.config.stable_age - self.clock.monotonic()
        return min(LOOK_SECONDS, max(0.0, quiet_in)) if study.stage is Stage.ARRIVING else LOOK_SECONDS

    def _forward(self, study: StudyState, decision: Decision, result: Result) -> None:
        sent = self.steps.forward.send(study, decision.forward)
        if sent is None:
            result.after = 0.0
        else:
            result.forwarded = sent

    def _retrieve(self, study: StudyState, decision: Decision, result: Result) -> None:
        if study.listing is None:
            return
        self.events.retrieving(study)
        study.work = self.steps.retrieve.start(study.listing, decision.retrieve, study.control)
        result.outcome = Outcome.WORKING

    def collect(self, study: StudyState, result: Result) -> bool:
        """Take over what a worker did; return False if the study has to wait. Raises StorageFullError and OSError."""
        work, study.work = study.work, None
        if work is None or work.cancelled():
            return True
        try:
            done = work.result()
        except Exception as error:  # noqa: BLE001 - whatever fails in one study, the others must continue
            self._fail(study, failure_of(error), result)
            return False
        if isinstance(done, Copied):
            result.forwarded = len(done.taken)
            self.steps.forward.collect(study, done)
            return True
        return self._collect_retrieved(study, done, result)

    def _collect_retrieved(self, study: StudyState, retrieved: Retrieved, result: Result) -> bool:
        study.verified.update({image.orthanc_id: image for image in retrieved.verified})
        study.timeline.note("disk", study.verified.keys(), stamp(self.clock.utc()))
        result.retrieved = len(retrieved.verified)
        result.bytes = sum(image.size for image in retrieved.verified)
        if not retrieved.failed:
            study.failures = 0
            return True
        self._fail(study, next(iter(retrieved.failed.values())), result)
        if not self.flow.has_room:
            return False
        # one that arrived after it was blamed is no longer among the failed
        blamed = {one: why.reason for one, why in retrieved.failed.items() if one in retrieved.blamed}
        return self.steps.set_aside.count(study, study.retrieve_attempts, blamed)

    def _give_up(self, study: StudyState) -> None:
        """Both Orthancs deleted the study: images of it that were not published go to quarantine."""
        if study.listing is not None and study.is_changed:
            reason = "the study was deleted on both Orthancs before it was published"
            files = self.orphans.vanished(study.listing, reason)
            self.events.vanished(study, reason, files)


def _told(study: StudyState, decision: Decision) -> tuple[Stage, Failure, Blocker]:
    """Return what is reported of a study: its stage, why, and whether storage refuses its images."""
    if decision.stage is not Stage.FORWARDING or study.refusal is None:
        return decision.stage, Failure(decision.reason), Blocker.NONE
    why = Failure(f"{decision.reason}; {study.refusal.reason}", study.refusal.status)
    return decision.stage, why, Blocker.REFUSED
