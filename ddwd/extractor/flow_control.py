"""What the disks and the operator allow: whether images may be forwarded, and whether they may be retrieved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core.audit import Audit, Event

if TYPE_CHECKING:
    from ddwd.extractor.disk_guard import DiskGuard
    from ddwd.store.ledger import LedgerPort

PAUSED = "retrieving is paused by the operator; see: ddwd resume"


class FlowControl:
    """Joins the disk guard with the operator's pause, which the ledger keeps over restarts."""

    def __init__(self, guard: DiskGuard, ledger: LedgerPort, audit: Audit) -> None:
        self._guard = guard
        self._ledger = ledger
        self._audit = audit

    def look(self) -> None:
        """Measure the disks, at most once a second."""
        self._guard.look()

    @property
    def is_paused(self) -> bool:
        """Whether the operator has paused retrieving."""
        return self._ledger.state.paused

    @property
    def has_room(self) -> bool:
        """Whether the disks have room for retrieved images."""
        return self._guard.may_retrieve

    @property
    def may_retrieve(self) -> bool:
        """Whether images may be retrieved."""
        return self.has_room and not self.is_paused

    @property
    def may_forward(self) -> bool:
        """Whether images may be forwarded to storage."""
        return self._guard.may_forward

    @property
    def shortage(self) -> str:
        """Which volume is short of room; empty if none stops anything."""
        return self._guard.reason

    def pause(self) -> None:
        """Stop retrieving, at the operator's request."""
        if not self.is_paused:
            self._ledger.append("paused")
            self._audit.record(Event.PAUSED, "the operator has paused retrieving: studies wait on storage")

    def resume(self) -> None:
        """Retrieve again, at the operator's request."""
        if self.is_paused:
            self._ledger.append("resumed")
            self._audit.record(Event.RESUMED, "the operator has resumed retrieving")
