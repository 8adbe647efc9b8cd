"""Where the extractor learns which studies to look at: the change feeds, the sweep, orphaned files.

Objects that the Orthancs' plugin put aside are collected here too, once a turn.
"""

from __future__ import annotations

from contextlib import suppress
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


class Sources:
    """Adds studies to the work queue; decides nothing about them."""

    def __init__(
        self,
        peers: Peers,
        feeds: ChangeFeeds,
        sweep: Sweep,
        orphans: OrphanSweeper,
        conflicts: Conflicts,
        sharing: Sharing,
        queue: WorkQueue,
    ) -> None:
        self.peers = peers
        self.feeds = feeds
        self._sweep = sweep
        self._orphans = orphans
        self._conflicts = conflicts
        self._sharing = sharing
        self._queue = queue
        self._next_orphans = float("-inf")

    def look(self) -> bool:
        """Add the studies that moved, and those that the sweep suspects; return whether there are more changes to read."""
        self._collect_conflicts()
        has_more = self.feeds.look()
        if self.peers.take_change():
            self._sweep.hasten()
            self._next_orphans = float("-inf")
        if self.peers.all_answer:
            self._go_on_with_the_sweep()
        return has_more

    def look_at(self, study: OrthancId | None) -> None:
        """Compare this study soon, or all of them, at the operator's request."""
        if study is not None:
            self._queue.add(study)
        else:
            self._sweep.everything()
            self._next_orphans = float("-inf")

    def next_due(self) -> float:
        """Return the seconds until the change feeds are read, or the sweep goes on."""
        interval = self.feeds.poll_interval
        return min(interval, self._sweep.wait()) if self.peers.all_answer else interval

    def commit(self, *, force: bool = False) -> None:
        """Make the turn durable."""
        self.feeds.commit(force=force)
        with suppress(StorageFullError, PeerDownError):
            # kept in memory and written when there is room again; a restart would only compare again
            self._sharing.commit()

    def swept(self) -> SweepStatus:
        """Return how far the sweep is: studies compared in this round, its beginning, and the end of the last round over restarts."""
        return SweepStatus(self._sweep.compared, self._sweep.began_at, self._sharing.swept_at)

    def _collect_conflicts(self) -> None:
        """Objects that the plugin put aside go to quarantine, unless they differ from the stored ones in encoding only."""
        with suppress(DdwdError, OSError):
            # a peer is away or the disk is full: the objects lie there durably, and wait for the next turn
            if self._conflicts.waiting():
                self._conflicts.collect()

    def _go_on_with_the_sweep(self) -> None:
        now = self._queue.now()
        if now >= self._next_orphans:
            self._next_orphans = now + _ORPHANS_SECONDS
            self._sweep_orphans()
        suspects, ended = self._sweep.step()
        for study in suspects:
            self._queue.add(study)
        if ended:
            self._sharing.sweep_ended()

    def _sweep_orphans(self) -> None:
        in_flight = self._sharing.open
        uids = {study.listing.study_uid for study in in_flight.values() if study.listing is not None}
        with suppress(DdwdError, OSError):  # a peer is away or the disk is full: at the next sweep
            for study in self._orphans.sweep(in_flight.keys(), uids):
                with suppress(HeldElsewhereError):  # at the next sweep
                    self._sharing.claim(study)
