"""How many associations there may be, in all and of one address, and which addresses are held off. Safe from several threads."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddwd.core.clock import Clock

_CRASHES, _CRASH_SECONDS, _HOLD_SECONDS = 3, 600.0, 600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Associations at once, in all and of one address."""

    total: int = 600
    one_address: int = 300


class AssociationLimits:
    """Counts open associations; holds off an address whose images end ORTHANC1 again and again."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._crashes: dict[str, deque[float]] = {}
        self._held: dict[str, float] = {}

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
            if seconds := self._held_for(address):
                return f"held off for {seconds / 60:.0f} minutes more: its images ended ORTHANC1 {_CRASHES} times"
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

    def blame(self, address: str) -> bool:
        """Note that ORTHANC1 ended by a fault while it had an image of this address; return whether the address is held off from now on."""
        now = self._clock.monotonic()
        with self._lock:
            times = self._crashes.setdefault(address, deque(maxlen=_CRASHES))
            times.append(now)
            if len(times) < _CRASHES or now - times[0] > _CRASH_SECONDS:
                return False
            self._held[address] = now + _HOLD_SECONDS
            del self._crashes[address]
            return True

    def held(self) -> dict[str, float]:
        """Return the addresses that are held off, with the seconds that are left."""
        with self._lock:
            return {address: seconds for address in list(self._held) if (seconds := self._held_for(address))}

    def _held_for(self, address: str) -> float:
        left = self._held.get(address, 0.0) - self._clock.monotonic()
        if left <= 0:
            self._held.pop(address, None)
        return max(left, 0.0)
