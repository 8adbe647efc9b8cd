"""Who is working at what, and whether it moves: what the watchdog is answered by.

Each thread reports life by `alive`; before a wait on a peer it declares how long that may take. A thread that is neither moving
nor in a declared wait is stuck, and `stuck` names it; the main loop then stops answering systemd, which restarts the service.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddwd.clock import Clock

_ALLOWANCE_SECONDS = 90.0
"""One request to an Orthanc may be silent for its read time-out (60 s) with one silent repetition of the connection."""


class Progress:
    """Deadlines by thread; safe to use from all of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._due: dict[int, float] = {}

    def alive(self, allowance: float = _ALLOWANCE_SECONDS) -> None:
        """This thread moves; its next sign of life comes within `allowance` seconds."""
        with self._lock:
            self._due[threading.get_ident()] = self._clock.monotonic() + allowance

    def idle(self) -> None:
        """This thread has nothing to do and owes no sign of life."""
        with self._lock:
            self._due.pop(threading.get_ident(), None)

    def stuck(self) -> list[int]:
        """The threads that missed their deadline."""
        now = self._clock.monotonic()
        with self._lock:
            return [thread for thread, due in self._due.items() if due < now]
