"""When is one image given up on: pure counting, used by the cycle.

An image that fails is tried again and again, with growing pauses. It is put in quarantine only after a bounded number of tries
that failed while the way was proved open (a sound image passed the same hop at the same moment), so that an outage never
sends images to quarantine, and one bad image never keeps its study back.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ddwd.core.model import OrthancId


class Blame:
    """Counts the tries of each image of one study at one hop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tries: Counter[OrthancId] = Counter()

    def count(self, failed: Iterable[OrthancId]) -> list[OrthancId]:
        """One more try failed for each of these while the way was open; those that have used up their tries."""
        spent = []
        for instance in failed:
            self._tries[instance] += 1
            if self._tries[instance] >= self._limit:
                spent.append(instance)
        return spent

    def tries(self, instance: OrthancId) -> int:
        """How often it failed."""
        return self._tries[instance]

    def clear(self) -> None:
        """Begin anew: the operator asked for it."""
        self._tries.clear()
