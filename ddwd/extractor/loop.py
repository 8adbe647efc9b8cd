"""One turn of the extractor: find studies that changed, reconcile those that are due, make it durable. The only caller of the reconciler."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.core import watchdog
from ddwd.core.errors import HeldElsewhereError, PeerDownError, PeerRefusedError
from ddwd.extractor.reconciler import LOOK_SECONDS, Outcome, Result

if TYPE_CHECKING:
    from ddwd.core.model import OrthancId
    from ddwd.extractor.flow_control import FlowControl
    from ddwd.extractor.indexing import Indexing
    from ddwd.extractor.operator_commands import OperatorCommands
    from ddwd.extractor.reconciler import StudyReconciler
    from ddwd.extractor.sharing import Sharing
    from ddwd.extractor.sources import Sources
    from ddwd.extractor.study import StudyState
    from ddwd.extractor.work_queue import WorkQueue
    from ddwd.retention.scheduler import RetentionScheduler
    from ddwd.store.status_files import FinishedStudy

_COMPARED_A_TURN = 40
"""Studies compared in one turn, about 4 ms each: the watchdog is answered in between."""
_COMPARE_SECONDS = 0.1
"""The longest time for that while studies are in flight, which must not wait for all others that changed."""
RECENT = 20
"""Studies that were published last, for the views."""


@dataclass
class TurnReport:
    """What one turn did; `more` is True if the next turn should begin at once."""

    published: list[FinishedStudy] = field(default_factory=list)
    opened: int = 0
    retrieved: int = 0
    bytes: int = 0
    forwarded: int = 0
    more: bool = False

    def add(self, result: Result) -> None:
        """Add the result of one reconciliation."""
        self.forwarded += result.forwarded
        self.retrieved += result.retrieved
        self.bytes += result.bytes
        if result.published is not None:
            self.published.append(result.published)


@dataclass
class ExtractorLoop:
    """Call `run`, then wait for `next_due` seconds or until something happens."""

    sharing: Sharing
    queue: WorkQueue
    sources: Sources
    commands: OperatorCommands
    reconciler: StudyReconciler
    retention: RetentionScheduler
    flow: FlowControl
    indexing: Indexing
    recent: list[FinishedStudy] = field(default_factory=list)

    def run(self) -> TurnReport:
        """Take one turn. Raises StateError if the extractor's own state is damaged; everything else is waited out."""
        report = TurnReport()
        self.flow.look()
        requested = self.sharing.sync_claims()
        if requested is None:
            return report
        if self.sharing.take_reconnection():
            self.sources.rewind()
        for study in requested:
            self.commands.retry_for_another(study)
        self.commands.take()
        report.more = self.sources.look()
        self._compare(report)
        for study in self.queue.due():
            watchdog.alive()
            self._reconcile(study, report)
        if self.sources.peers.all_answer:
            self.retention.step(self.sharing.open.keys())
        self.sources.commit()
        self.indexing.step(is_busy=bool(self.sharing.open))
        self.recent = [*reversed(report.published), *self.recent][:RECENT]
        return report

    def next_due(self) -> float:
        """Return the seconds until a study, the sweep, retention or the claims of others are due."""
        due = [self.queue.next_due(), self.sources.next_due(), self.sharing.claims.next_due()]
        if self.sources.peers.all_answer:
            due.append(self.retention.wait())
        return max(0.0, min(due))

    def drain(self) -> None:
        """Before a stop: collect the work that is finished and make it durable; work that was cut off is no failure."""
        self.reconciler.is_stopping = True
        for study in self.sharing.open.values():
            if study.work is not None and study.work.done():
                self.reconciler.collect(study, Result())
        self.sources.commit(force=True)

    def _compare(self, report: TurnReport) -> None:
        """Take up the studies that were added and need work, so many that studies in flight do not wait for them."""
        began = self.queue.now()
        for _ in range(_COMPARED_A_TURN):
            study = self.queue.next_added() if self.sharing.may_open else None
            if study is None:
                return
            watchdog.alive()
            try:
                report.opened += self.sharing.claim_if_needed(study)
            except HeldElsewhereError:
                continue  # the claims report when it is free
            except (PeerDownError, PeerRefusedError):
                self.queue.add(study)
                return
            if self.sharing.open and self.queue.now() - began >= _COMPARE_SECONDS:
                break
        report.more = report.more or self.queue.has_added

    def _reconcile(self, study_id: OrthancId, report: TurnReport) -> None:
        study = self.sharing.open.get(study_id)
        if study is None or study.is_working:
            return
        if self.retention.holds(study_id):
            self.queue.schedule(study_id, LOOK_SECONDS, priority=study.priority)
            return
        if not self.sharing.claims.holds(study_id):
            self.sharing.lost(study)
            return
        result = self.reconciler.reconcile(study, self.sharing.open.values())
        report.add(result)
        self._requeue(study, result)

    def _requeue(self, study: StudyState, result: Result) -> None:
        study_id, priority = study.study_id, study.priority
        match result.outcome:
            case Outcome.DONE:
                self.sharing.done(study)
                return
            case Outcome.WORKING if study.work is not None:
                study.work.add_done_callback(lambda _work: self.queue.work_ended(study_id, priority))
                return
            case Outcome.RELEASE if self.sharing.claims.are_shared:
                with suppress(PeerDownError):
                    self.sharing.release(study)
                    return
                result.after = LOOK_SECONDS
        self.queue.schedule(study_id, result.after, no_sooner=result.no_sooner, priority=priority)
