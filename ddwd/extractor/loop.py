"""One turn of the extractor: learn what moved, reconcile what is due, make it durable. The only caller of the reconciler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core import watchdog
from ddwd.core.errors import HeldElsewhereError, PeerDownError, PeerRefusedError
from ddwd.extractor.reconciler import LOOK_SECONDS, Outcome, Result
from ddwd.extractor.turn_report import TurnReport

if TYPE_CHECKING:
    from ddwd.core.model import OrthancId
    from ddwd.extractor.flow_control import FlowControl
    from ddwd.extractor.operator_commands import OperatorCommands
    from ddwd.extractor.reconciler import StudyReconciler
    from ddwd.extractor.sharing import Sharing
    from ddwd.extractor.sources import Sources
    from ddwd.extractor.steps.publish import Published
    from ddwd.extractor.study import StudyState
    from ddwd.extractor.work_queue import WorkQueue
    from ddwd.retention.scheduler import RetentionScheduler

_COMPARED_A_TURN = 40
"""Studies compared in one turn, about 4 ms each: the watchdog is answered in between."""
_COMPARE_SECONDS = 0.1
"""The longest time for that while studies are in flight, which must not wait for all others that moved."""
_RECENT = 20


class ExtractorLoop:
    """Call `run`, then wait for `next_due` seconds or until something happens."""

    def __init__(
        self,
        sharing: Sharing,
        queue: WorkQueue,
        sources: Sources,
        commands: OperatorCommands,
        reconciler: StudyReconciler,
        retention: RetentionScheduler,
        flow: FlowControl,
    ) -> None:
        self._sharing = sharing
        self._queue = queue
        self._sources = sources
        self._commands = commands
        self._reconciler = reconciler
        self._retention = retention
        self._flow = flow
        self.recent: list[Published] = []

    def run(self) -> TurnReport:
        """Take one turn. Raises StateError if the extractor's own state is damaged; everything else is waited out."""
        report = TurnReport()
        self._flow.look()
        asked = self._sharing.sync_claims()
        if asked is None:
            return report
        if self._sharing.take_reconnection():
            self._sources.feeds.rewind()
        for study in asked:
            self._commands.retry(study)
        self._commands.take()
        report.more = self._sources.look()
        self._compare(report)
        for study in self._queue.due():
            watchdog.alive()
            self._reconcile(study, report)
        if self._sources.peers.all_answer:
            self._retention.step(self._sharing.open.keys())
        self._sources.commit()
        self.recent = [*reversed(report.published), *self.recent][:_RECENT]
        return report

    def next_due(self) -> float:
        """Return the seconds until a study, the sweep, retention or the claims of others are due."""
        due = [self._queue.next_due(), self._sources.next_due(), self._sharing.next_due()]
        if self._sources.peers.all_answer:
            due.append(self._retention.wait())
        return max(0.0, min(due))

    def drain(self) -> None:
        """Before a stop: take in the work that is finished and make it durable; work that was cut off is no failure."""
        self._reconciler.is_stopping = True
        for study in self._sharing.open.values():
            if study.work is not None and study.work.done():
                self._reconciler.collect(study, Result())
        self._sources.commit(force=True)

    def _compare(self, report: TurnReport) -> None:
        """Take up the studies that were added and need work, so many that studies in flight do not wait for them."""
        began = self._queue.now()
        for _ in range(_COMPARED_A_TURN):
            study = self._queue.next_added() if self._sharing.may_open else None
            if study is None:
                return
            watchdog.alive()
            try:
                report.opened += self._sharing.claim_if_needed(study)
            except HeldElsewhereError:
                continue  # the claims report when it is free
            except (PeerDownError, PeerRefusedError):
                self._queue.add(study)
                return
            if self._sharing.open and self._queue.now() - began >= _COMPARE_SECONDS:
                break
        report.more = report.more or self._queue.has_added

    def _reconcile(self, study_id: OrthancId, report: TurnReport) -> None:
        study = self._sharing.open.get(study_id)
        if study is None or study.is_working:
            return
        if self._retention.holds(study_id):
            self._queue.schedule(study_id, LOOK_SECONDS, priority=study.priority)
            return
        if not self._sharing.holds(study):
            self._sharing.lost(study)
            return
        result = self._reconciler.reconcile(study, self._sharing.open.values())
        report.add(result)
        self._requeue(study, result)

    def _requeue(self, study: StudyState, result: Result) -> None:
        study_id, priority = study.study_id, study.priority
        match result.outcome:
            case Outcome.DONE:
                self._sharing.done(study)
                return
            case Outcome.WORKING if study.work is not None:
                study.work.add_done_callback(lambda _work: self._queue.work_ended(study_id, priority))
                return
            case Outcome.RELEASE if self._sharing.are_shared:
                try:
                    self._sharing.release(study)
                except PeerDownError:
                    result.after = LOOK_SECONDS
                else:
                    return
        self._queue.schedule(study_id, result.after, no_sooner=result.no_sooner, priority=priority)
