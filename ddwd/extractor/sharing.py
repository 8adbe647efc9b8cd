"""Studies in flight and their claims. A lone extractor owns every study; extractors that share a database take an exclusive claim per study.

The ledger names each study in flight, so that a restart takes it up again. Each study in flight is either scheduled in the work
queue or held by a worker, whose end schedules it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core.errors import Failure, HeldElsewhereError, PeerDownError
from ddwd.extractor.decision import Stage
from ddwd.extractor.study import AttemptCounter, StudyState

if TYPE_CHECKING:
    from ddwd.core.model import OrthancId
    from ddwd.extractor.comparison import Comparison
    from ddwd.extractor.flow_control import FlowControl
    from ddwd.extractor.peers import Peers
    from ddwd.extractor.router import Router
    from ddwd.extractor.work_queue import WorkQueue
    from ddwd.store.backends import Stores

_AT_ONCE = 6
"""Studies that one of several extractors retrieves at once; the next one may as well be another's."""


class Sharing:
    """The only writer of the ledger's "opened", "closed" and "lost" events."""

    def __init__(
        self,
        stores: Stores,
        comparison: Comparison,
        router: Router,
        peers: Peers,
        flow: FlowControl,
        queue: WorkQueue,
        attempts: int,
    ) -> None:
        """`attempts` is how often one image is tried before it is set aside."""
        self._claims = stores.claims
        self._ledger = stores.ledger
        self._comparison = comparison
        self._router = router
        self._peers = peers
        self._flow = flow
        self._queue = queue
        self._attempts = attempts
        self.open: dict[OrthancId, StudyState] = {}
        self._reconnected = False
        for study in stores.ledger.state.open:
            self._open(study)

    @property
    def are_shared(self) -> bool:
        """Whether other extractors share the ledger."""
        return self._claims.are_shared

    @property
    def may_open(self) -> bool:
        """Whether one more study may be taken up; a lone extractor always may. What may not be retrieved here is left to others."""
        if not self.are_shared:
            return True
        if not self._flow.may_retrieve:
            return False
        return sum(one.work is not None or one.listing is None for one in self.open.values()) < _AT_ONCE

    def sync_claims(self) -> list[OrthancId] | None:
        """Check the shared ledger; adopt studies that other extractors abandoned.

        Returns the studies in flight that the operator of another extractor asks to retry, or None while the ledger does not
        answer: without it no extractor may work.
        """
        if not self.are_shared:
            return []
        try:
            self._reconnected |= self._claims.connect()
            work = self._claims.shared_work()
            for study in work.freed:
                self._queue.add(study)
            for study in work.abandoned:
                if self.may_open:
                    self._adopt(study)
        except PeerDownError as error:
            self._wait_for_the_ledger(str(error))
            return None
        self._peers.answers("ledger")
        return work.requested

    def take_reconnection(self) -> bool:
        """Return whether the connection to the shared ledger is new since the last call: its cursors are to be read again."""
        reconnected, self._reconnected = self._reconnected, False
        return reconnected

    def _adopt(self, study: OrthancId) -> None:
        try:
            self.claim(study)
        except HeldElsewhereError:
            return  # another extractor was faster

    def _wait_for_the_ledger(self, reason: str) -> None:
        self._peers.is_away("ledger", reason)
        for study in self.open.values():
            study.report(Stage.WAITING, Failure(reason))

    def claim_if_needed(self, study: OrthancId) -> bool:
        """Take up a study that needs work; return whether it was taken up.

        Raises HeldElsewhereError, PeerDownError, PeerRefusedError and NewerStateError.
        """
        if study in self.open or not self._comparison.needs_work(study):
            return False
        self.claim(study)
        return True

    def claim(self, study: OrthancId) -> StudyState:
        """Return the study in flight, taking it up if it is not. Raises HeldElsewhereError and PeerDownError."""
        if study not in self.open:
            self._claims.take(study)
            self._ledger.append("opened", study=study)
            self._open(study)
        return self.open[study]

    def _open(self, study: OrthancId) -> None:
        now = self._queue.now()
        attempts = AttemptCounter(self._attempts), AttemptCounter(self._attempts)
        state = StudyState(study, self._comparison.read_record(study), now, now, *attempts)
        state.opened, state.route = now, self._router.at_first()
        self.open[study] = state
        self._queue.schedule(study, priority=state.priority)

    def holds(self, study: StudyState) -> bool:
        """Return whether the claim still stands."""
        return self._claims.holds(study.study_id)

    def done(self, study: StudyState) -> None:
        """Close a study that needs nothing more."""
        self._forget(study, "closed")
        self._claims.done(study.study_id)

    def lost(self, study: StudyState) -> None:
        """Drop a study whose claim ended with the connection, and compare it again: another extractor may have it by now."""
        self._forget(study, "lost")
        self._queue.add(study.study_id)

    def release(self, study: StudyState) -> None:
        """Leave a study to other extractors. Raises PeerDownError."""
        self._claims.release(study.study_id)
        self._forget(study, "lost")

    def _forget(self, study: StudyState, event: str) -> None:
        self._ledger.append(event, study=study.study_id)
        del self.open[study.study_id]
        self._queue.forget(study.study_id)

    @property
    def swept_at(self) -> str:
        """UTC stamp of the end of the last whole round of the sweep."""
        return self._ledger.state.swept

    def sweep_ended(self) -> None:
        """Note that a whole round of the sweep has ended."""
        self._ledger.append("swept")

    def commit(self) -> None:
        """Make the ledger durable. Raises StorageFullError and PeerDownError."""
        self._ledger.commit()

    def ask_owner(self, study: OrthancId) -> None:
        """Have the extractor that holds the study retry it. Raises PeerDownError."""
        self._claims.request_retry(study)

    def next_due(self) -> float:
        """Return the seconds until the claims of others are looked at again."""
        return self._claims.next_due()

    def opened_at(self, study: OrthancId) -> str:
        """Return the UTC stamp of when the study was opened, over restarts."""
        return self._ledger.state.open.get(study, "")
