"""Which addresses are held off, because their images ended ORTHANC1 again and again. Safe from several threads.

A crash does not say whose image it was: all that ORTHANC1 had at that moment are suspected. One that it stores later, when the sender sends
it again, is not suspected any more, so that the others who send at that time are not held off with the one.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddwd.core.clock import Clock

CRASHES = 3
_CRASH_SECONDS, _HOLD_SECONDS = 600.0, 600.0
_SUSPECTED_SECONDS = 15.0
"""Seconds from the end of a connection until ORTHANC1 is known to have ended by a fault."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """An image that ORTHANC1 had when it ended the connection."""

    at: float
    aet: str
    address: str
    image: str


@dataclass(slots=True)
class _Crash:
    """A crash of ORTHANC1, with the images of one address that it had."""

    at: float
    images: set[str]


class HoldOff:
    """Holds an address off for ten minutes after three crashes within ten minutes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._cuts: list[_Cut] = []
        self._crashes: dict[str, deque[_Crash]] = {}
        self._until: dict[str, float] = {}

    def cut(self, aet: str, address: str, image: str) -> None:
        """Note that ORTHANC1 ended a connection while it had that image (SOPInstanceUID)."""
        now = self._clock.monotonic()
        with self._lock:
            self._cuts = [one for one in self._cuts if one.at >= now - _SUSPECTED_SECONDS]
            self._cuts.append(_Cut(now, aet, address, image))

    def stored(self, address: str, image: str) -> None:
        """Note that ORTHANC1 has stored that image: if it had it at a crash, another one was at fault."""
        if address not in self._crashes:
            return
        with self._lock:
            crashes = self._crashes.pop(address, deque())
            for crash in crashes:
                crash.images.discard(image)
            if suspected := [crash for crash in crashes if crash.images]:
                self._crashes[address] = deque(suspected, CRASHES)

    def gateway_crashed(self) -> list[tuple[str, str]]:
        """Suspect all images that ORTHANC1 had when it ended by a fault; return AE title and address of who is held off from now on."""
        now = self._clock.monotonic()
        with self._lock:
            cuts = [one for one in self._cuts if one.at >= now - _SUSPECTED_SECONDS]
            self._cuts.clear()
            return [
                next((one.aet, address) for one in cuts if one.address == address)
                for address in dict.fromkeys(one.address for one in cuts)
                if self._suspect(address, {one.image for one in cuts if one.address == address}, now)
            ]

    def _suspect(self, address: str, images: set[str], now: float) -> bool:
        crashes = self._crashes.setdefault(address, deque(maxlen=CRASHES))
        crashes.append(_Crash(now, images))
        if len(crashes) < CRASHES or now - crashes[0].at > _CRASH_SECONDS:
            return False
        del self._crashes[address]
        self._until[address] = now + _HOLD_SECONDS
        return True

    def seconds(self, address: str) -> float:
        """Return for how many seconds more the address is held off; 0 if it is not."""
        return self.held().get(address, 0.0)

    def held(self) -> dict[str, float]:
        """Return the addresses that are held off, with the seconds that are left."""
        now = self._clock.monotonic()
        with self._lock:
            self._until = {address: until for address, until in self._until.items() if until > now}
            return {address: until - now for address, until in self._until.items()}
