"""The sources of studies to work on: the change feeds, the sweep, orphaned files.

Objects that the Orthancs' plugin put aside are collected here too, once a turn.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.core.errors import DdwdError, HeldElsewhereError, PeerDownError, StorageFullError
from ddwd.store.status_files import SweepStatus

if TYPE_CHECKING:
    from ddwd.core.model import OrthancId
    from ddwd.extractor.change_feed import ChangeFeeds
    from ddwd.extractor.conflicts import Conflicts
    from ddwd.extractor.orphans import OrphanSweeper
    from ddwd.extractor.peers import Peers
    from ddwd.extractor.sharing import Sharing
    from ddwd.extractor.sweep import Sweep
    from ddwd.extractor.work_queue import WorkQueue

_ORPHANS_SECONDS = 300.0


@dataclass
class Sources:
    """Adds studies to the work queue; decides nothing about them."""

    peers: Peers
    feeds: ChangeFeeds
    sweep: Sweep
    orphans: OrphanSweeper
    conflicts: Conflicts
    sharing: Sharing
    queue: WorkQueue
    _next_orphans: float = float("-inf")

    def look(self) -> bool:
        """Add the studies that moved, and those that the sweep suspects; return whether there are more changes to read."""
        with suppress(DdwdError, OSError):
            # a peer is away or the disk is full: the objects lie there durably, and wait for the next turn
            self.conflicts.collect()
        has_more = self.feeds.look()
        if self.peers.take_change():
            self.sweep.hasten()
            self._next_orphans = float("-inf")
        if self.peers.all_answer:
            self._continue_sweep()
        return has_more

    def compare(self, study: OrthancId | None) -> None:
        """Compare this study soon, or all of them if it is None, at the operator's request."""
        if study is not None:
            self.queue.add(study)
        else:
            self.sweep.everything()
            self._next_orphans = float("-inf")

    def next_due(self) -> float:
        """Return the seconds until the change feeds are read, or the sweep goes on."""
        interval = self.feeds.poll_interval
        return min(interval, self.sweep.wait()) if self.peers.all_answer else interval

    def commit(self, *, force: bool = False) -> None:
        """Make the turn durable."""
        self.feeds.commit(force=force)
        with suppress(StorageFullError, PeerDownError):
            # kept in memory and written when there is room again; a restart would only compare again
            self.sharing.ledger.commit()

    def swept(self) -> SweepStatus:
        """Return how far the sweep is: studies compared in this round, its beginning, and the end of the last round over restarts."""
        return SweepStatus(self.sweep.compared, self.sweep.began_at, self.sharing.ledger.state.swept)

    def _continue_sweep(self) -> None:
        now = self.queue.now()
        if now >= self._next_orphans:
            self._next_orphans = now + _ORPHANS_SECONDS
            self._sweep_orphans()
        suspects, ended = self.sweep.step()
        for study in suspects:
            self.queue.add(study)
        if ended:
            self.sharing.ledger.append("swept")

    def _sweep_orphans(self) -> None:
        in_flight = self.sharing.open
        uids = {study.listing.study_uid for study in in_flight.values() if study.listing is not None}
        with suppress(DdwdError, OSError):  # a peer is away or the disk is full: at the next sweep
            for study in self.orphans.sweep(in_flight.keys(), uids):
                with suppress(HeldElsewhereError):  # at the next sweep
                    self.sharing.claim(study)
