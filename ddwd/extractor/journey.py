"""When the images of a study in flight were first seen at each hop, and what of that was told. Memory only: part of an OpenStudy.

Times are stamps in UTC as the extractor saw them, not as the Orthancs wrote them; after a restart they begin anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection

    from ddwd.core.audit import Event
    from ddwd.core.model import OrthancId

Hop = Literal["gateway", "storage", "disk"]


class Journey:
    """First and last moment of every hop, counted over the images that were not published before."""

    def __init__(self, before: Collection[OrthancId]) -> None:
        self._before = frozenset(before)
        self._seen: dict[Hop, frozenset[OrthancId]] = {}
        self._told: dict[Event, int] = {}
        self.hops: dict[Hop, list[str]] = {}
        self.aet = ""
        self.sender_asked = False
        self.newest_at = ""

    def note(self, hop: Hop, images: Collection[OrthancId], at: str) -> None:
        """These are at that hop now."""
        seen = self._seen.get(hop, self._before)
        fresh = frozenset(images) - seen
        if not fresh:
            return
        self._seen[hop] = seen | fresh
        self.hops.setdefault(hop, [at, at])[1] = at
        if hop != "disk":
            self.newest_at = at

    def count(self, hop: Hop) -> int:
        """Images seen at that hop that were not published before."""
        return len(self._seen.get(hop, self._before)) - len(self._before)

    def was_told(self, event: Event) -> bool:
        """Whether this event was told at all."""
        return event in self._told

    def untold(self, event: Event, count: int) -> int:
        """How many more there are than when this event was last told; they count as told from now on."""
        more = count - self._told.get(event, 0)
        if more > 0:
            self._told[event] = count
        return max(0, more)
