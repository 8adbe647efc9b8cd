"""How many associations there may be, in all and of one address. Safe from several threads."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Associations at once, in all and of one address."""

    total: int = 600
    one_address: int = 300


class AssociationLimits:
    """Counts open associations."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """Return the number of open associations."""
        return self._open.total()

    @property
    def total(self) -> int:
        """Return the limit for all addresses together."""
        return self._limits.total

    def enter(self, address: str) -> str:
        """Count an association of an address; return why it may not be, empty if it may."""
        with self._lock:
            if self._open.total() >= self._limits.total:
                return f"all {self._limits.total} associations are in use"
            if self._open[address] >= self._limits.one_address:
                return f"{self._limits.one_address} associations of this address are open, as many as it may have"
            self._open[address] += 1
            return ""

    def leave(self, address: str) -> None:
        """Count the end of an association that `enter` has counted."""
        with self._lock:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]
