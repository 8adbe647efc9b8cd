"""The sources of studies to work on: the change feeds of both Orthancs, the sweep, orphaned files.

Objects that the Orthancs' plugin put aside are collected here too, once a turn.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.core.errors import DdwdError, HeldElsewhereError, PeerDownError, PeerRefusedError, StorageFullError
from ddwd.extractor.change_feed import ChangeFeed
from ddwd.store.status_files import SweepStatus

if TYPE_CHECKING:
    from ddwd.config.schema import Config
    from ddwd.core.clock import Clock
    from ddwd.core.model import OrthancId
    from ddwd.extractor.lost_images import LostRegister
    from ddwd.extractor.orphans import Conflicts, OrphanSweeper
    from ddwd.extractor.peers import Peers
    from ddwd.extractor.sharing import Sharing
    from ddwd.extractor.sweep import Sweep
    from ddwd.extractor.work_queue import WorkQueue

_ORPHANS_SECONDS = 300.0
_CURSOR_SECONDS = 5.0


@dataclass
class Sources:
    """Adds studies to the work queue; makes no decision about them. The ledger keeps how far each change feed was read."""

    peers: Peers
    sweep: Sweep
    orphans: OrphanSweeper
    conflicts: Conflicts
    sharing: Sharing
    queue: WorkQueue
    config: Config
    clock: Clock
    lost: LostRegister
    _feeds: list[ChangeFeed] = field(default_factory=list)
    _cursors_at: float = 0.0
    _next_orphans: float = float("-inf")

    def __post_init__(self) -> None:
        """Begin at the ledger's cursors."""
        self.rewind()

    def rewind(self) -> None:
        """Read the change feeds again from the ledger's cursors."""
        cursors = self.sharing.ledger.state.cursors
        self._feeds = [
            ChangeFeed(node, cursors.get(node.name, 0), self.clock, self.config.stable_age)
            for node in self.peers.nodes
        ]

    def look(self) -> bool:
        """Add the studies that changed, and those that the sweep suspects; return whether there are more changes to read."""
        with suppress(DdwdError, OSError):
            # a peer is away or the disk is full: the objects lie there durably, and wait for the next turn
            self.conflicts.collect()
        has_more = [self._read(feed) for feed in self._feeds]
        if self.peers.take_change():
            self.sweep.hasten()
            self._next_orphans = float("-inf")
        if self.peers.all_answer:
            self._continue_sweep()
        return any(has_more)

    def _read(self, feed: ChangeFeed) -> bool:
        try:
            touched = feed.look()
        except (PeerDownError, PeerRefusedError) as error:
            self.peers.is_away(feed.node.name, str(error))
            return False
        self.peers.answers(feed.node.name)
        self.queue.add_moved(touched.studies)
        if touched.grew:
            self.queue.hasten()
        return touched.more

    def compare(self, study: OrthancId | None) -> None:
        """Compare this study soon, or all of them if it is None, at the operator's request."""
        if study is not None:
            self.queue.add(study)
        else:
            self.sweep.everything()
            self._next_orphans = float("-inf")

    def next_due(self) -> float:
        """Return the seconds until the change feeds are read, or the sweep continues."""
        sweep = self.sweep.wait() if self.peers.all_answer else float("inf")
        return min(self.config.poll_interval, sweep)

    def commit(self, *, force: bool = False) -> None:
        """Make the turn durable."""
        now = self.clock.monotonic()
        # the cursors move only past studies that are in the ledger by now
        if not self.queue.has_added and (force or now - self._cursors_at >= _CURSOR_SECONDS):
            self._cursors_at = now
            self._note_cursors()
        with suppress(StorageFullError, PeerDownError):
            # it stays in memory and is written when there is room again; a restart would only compare again
            self.sharing.ledger.commit()

    def _note_cursors(self) -> None:
        ledger = self.sharing.ledger
        for feed in self._feeds:
            if ledger.state.cursors.get(feed.node.name, 0) != feed.cursor:
                ledger.append("cursor", node=feed.node.name, seq=feed.cursor)

    def swept(self) -> SweepStatus:
        """Return how far the sweep is: studies compared in this round, its beginning, and the end of the last round over restarts."""
        return SweepStatus(self.sweep.compared, self.sweep.began_at, self.sharing.ledger.state.swept)

    def _continue_sweep(self) -> None:
        now = self.clock.monotonic()
        if now >= self._next_orphans:
            self._next_orphans = now + _ORPHANS_SECONDS
            self._sweep_orphans()
        self.sweep.compare_soon(self.lost.due())
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
