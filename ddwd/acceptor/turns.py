"""ORTHANC1 is given one image at a time to store, of all senders together.

Its index allows SERIALIZABLE transactions only: of several images stored at once all but one begin again, up to ten times, and then the
image is refused. One after the other they are stored sooner. Safe from several threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque


class Turn:
    """The turn of one image, waited for or had."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.lapses_at = 0.0


class Turns:
    """Gives the turn to those that wait, in the order in which they came."""

    def __init__(self, lapse: float) -> None:
        """`lapse` is how many seconds a turn lasts at most, so that a large image, or one that hangs, holds up no other for longer."""
        self._lapse = lapse
        self._lock = threading.Lock()
        self._waiting: deque[Turn] = deque()
        self._current: Turn | None = None

    @property
    def waiting(self) -> int:
        """Return how many wait for a turn."""
        return len(self._waiting)

    def take(self, patience: float) -> Turn | None:
        """Wait for a turn, at most `patience` seconds; return it, to be given to `end`, or None if it did not come."""
        turn = Turn()
        until = time.monotonic() + patience
        with self._lock:
            self._waiting.append(turn)
            self._advance()
        while not turn.begun.wait(min(self._lapse, max(until - time.monotonic(), 0))):
            with self._lock:
                self._advance()
                if not turn.begun.is_set() and time.monotonic() >= until:
                    self._waiting.remove(turn)
                    return None
        return turn

    def end(self, turn: Turn) -> None:
        """End a turn, which may have lapsed."""
        with self._lock:
            if self._current is turn:
                self._current = None
                self._advance()

    def _advance(self) -> None:
        """Begin the next turn, if the one before is over."""
        now = time.monotonic()
        if self._current is not None and now < self._current.lapses_at:
            return
        self._current = self._waiting.popleft() if self._waiting else None
        if self._current is not None:
            self._current.lapses_at = now + self._lapse
            self._current.begun.set()
