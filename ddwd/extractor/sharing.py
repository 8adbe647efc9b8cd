"""Studies in flight and their claims. A lone extractor owns every study; extractors that share a database take an exclusive claim per study.

The ledger names each study in flight, so that a restart takes it up again. Each study in flight is either scheduled in the work
queue or held by a worker, whose end schedules it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.core.errors import Failure, HeldElsewhereError, PeerDownError
from ddwd.extractor.decision import Stage
from ddwd.extractor.study import StudyState

if TYPE_CHECKING:
    from ddwd.core.model import OrthancId
    from ddwd.extractor.flow_control import FlowControl
    from ddwd.extractor.observer import Observer
    from ddwd.extractor.work_queue import WorkQueue
    from ddwd.store.claims import Claims
    from ddwd.store.ledger import LedgerPort

_AT_ONCE = 6
"""Studies that one of several extractors retrieves at once; the next one may as well be another's."""


@dataclass
class Sharing:
    """The only writer of the ledger's "opened", "closed" and "lost" events."""

    ledger: LedgerPort
    claims: Claims
    observer: Observer
    flow: FlowControl
    queue: WorkQueue
    open: dict[OrthancId, StudyState] = field(default_factory=dict)
    _reconnected: bool = False

    def __post_init__(self) -> None:
        """Take up the studies that were in flight when the extractor stopped."""
        for study in self.ledger.state.open:
            taken = self._open(study)
            taken.may_be_copied = taken.is_unstated = True

    @property
    def may_open(self) -> bool:
        """Whether one more study may be taken up; a lone extractor always may. What may not be retrieved here is left to others."""
        if not self.claims.are_shared:
            return True
        if not self.flow.may_retrieve:
            return False
        busy = (study.work is not None or study.listing is None for study in self.open.values())
        return sum(busy) < _AT_ONCE

    def sync_claims(self) -> list[OrthancId] | None:
        """Check the shared ledger; adopt studies that other extractors abandoned.

        Returns the studies in flight that the operator of another extractor retries, or None while the ledger does not answer:
        without it no extractor may work.
        """
        if not self.claims.are_shared:
            return []
        peers = self.observer.peers
        try:
            self._reconnected |= self.claims.connect()
            work = self.claims.shared_work()
            for study in work.freed:
                self.queue.add(study)
            for study in work.abandoned:
                if self.may_open:
                    with suppress(HeldElsewhereError):  # another extractor was faster
                        self.claim(study)
        except PeerDownError as error:
            peers.is_away("ledger", str(error))
            for waiting in self.open.values():
                waiting.report(Stage.WAITING, Failure(str(error)))
            return None
        peers.answers("ledger")
        return work.requested

    def take_reconnection(self) -> bool:
        """Return whether the connection to the shared ledger is new since the last call: its cursors are to be read again."""
        reconnected, self._reconnected = self._reconnected, False
        return reconnected

    def claim_if_needed(self, study: OrthancId) -> bool:
        """Take up a study that needs work; return whether it was taken up.

        Raises HeldElsewhereError, PeerDownError, PeerRefusedError and NewerStateError.
        """
        if study in self.open or not self.observer.needs_work(study):
            return False
        self.claim(study)
        return True

    def claim(self, study: OrthancId) -> StudyState:
        """Return the study in flight, taking it up if it is not. Raises HeldElsewhereError and PeerDownError."""
        if study not in self.open:
            self.claims.take(study)
            self.ledger.append("opened", study=study)
            # another extractor may have had it before
            taken = self._open(study)
            taken.may_be_copied = taken.is_unstated = self.claims.are_shared
        return self.open[study]

    def _open(self, study: OrthancId) -> StudyState:
        now, record = self.queue.now(), self.observer.read_record(study)
        route = self.observer.router.at_first()
        state = StudyState(study, record, grew_at=now, moved_at=now, opened=now, route=route)
        self.open[study] = state
        self.queue.schedule(study, priority=state.priority)
        return state

    def done(self, study: StudyState) -> None:
        """Close a study that is finished."""
        self._forget(study, "closed")
        self.claims.done(study.study_id)

    def lost(self, study: StudyState) -> None:
        """Drop a study whose claim ended with the connection, and compare it again: another extractor may have it by now."""
        self._forget(study, "lost")
        self.queue.add(study.study_id)

    def release(self, study: StudyState) -> None:
        """Leave a study to other extractors. Raises PeerDownError."""
        self.claims.release(study.study_id)
        self._forget(study, "lost")

    def _forget(self, study: StudyState, event: str) -> None:
        self.ledger.append(event, study=study.study_id)
        del self.open[study.study_id]
        self.queue.forget(study.study_id)
