"""Which thread is busy, and whether it moves: systemd's watchdog is answered only while all do.

Code that works or waits calls `alive()`: a no-op unless the daemon has installed its own. Before a wait on a peer it declares how
long that may take. A thread that neither moves nor is in a declared wait is stuck: the main loop then stops answering systemd,
which restarts the service.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddwd.core.clock import Clock

ALLOWANCE_SECONDS = 15.0
"""Silence that no one declared: the disk may be this slow. Half of WatchdogSec, so one slow fsync never restarts anything."""


class Watchdog:
    """Deadlines by thread; safe to use from all of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._due: dict[threading.Thread, float] = {}

    def alive(self, wait: float = 0.0) -> None:
        """This thread moves; `wait` declares how many seconds a peer may now let it wait."""
        with self._lock:
            self._due[threading.current_thread()] = self._clock.monotonic() + wait + ALLOWANCE_SECONDS

    def idle(self) -> None:
        """This thread has nothing to do and owes no sign of life."""
        with self._lock:
            self._due.pop(threading.current_thread(), None)

    def stuck(self) -> list[str]:
        """The names of the threads that missed their deadline."""
        now = self._clock.monotonic()
        with self._lock:
            return [thread.name for thread, due in self._due.items() if due < now]


def _ignore(_wait: float) -> None:
    """No-op watchdog callback."""


_hook: Callable[[float], None] = _ignore


def install(hook: Callable[[float], None]) -> None:
    """Have every `alive` of this process call `hook` with the seconds of the declared wait; what it raises ends the work."""
    global _hook  # noqa: PLW0603 - one process has one watchdog, as it has one NOTIFY_SOCKET
    _hook = hook


def alive(wait: float = 0.0) -> None:
    """Report that the calling thread moves; a peer may now keep it waiting for `wait` seconds."""
    _hook(wait)
