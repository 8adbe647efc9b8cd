"""Track which threads make progress: the daemon answers systemd's watchdog only while none is stuck.

Code that works or waits calls `alive()`, a no-op unless the daemon has installed a hook, and declares how long a wait on a peer may
take. A thread that makes no progress outside a declared wait is stuck: the main loop then no longer notifies systemd, which restarts
the service. An error that the hook raises ends the work: a stop thus reaches long work without a parameter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ddwd.core.clock import Clock

ALLOWANCE_SECONDS = 15.0
"""Longest silence without a declared wait. Half of WatchdogSec, so that one slow fsync does not restart a service."""


class Watchdog:
    """The deadline of each thread; safe to use from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._due: dict[threading.Thread, float] = {}

    def alive(self, wait: float = 0.0) -> None:
        """Move the deadline of the calling thread, which may now wait `wait` seconds for a peer."""
        with self._lock:
            self._due[threading.current_thread()] = self._clock.monotonic() + wait + ALLOWANCE_SECONDS

    def idle(self) -> None:
        """Remove the deadline of the calling thread, which has no work."""
        with self._lock:
            self._due.pop(threading.current_thread(), None)

    def stuck(self) -> list[str]:
        """Return the names of the threads that missed their deadline."""
        now = self._clock.monotonic()
        with self._lock:
            return [thread.name for thread, due in self._due.items() if due < now]


_hook: Callable[[float], None] | None = None
_thread = threading.local()


def install(hook: Callable[[float], None] | None = None) -> None:
    """Make every `alive` of this process call `hook` with the seconds of the declared wait; by default remove the hook."""
    global _hook  # noqa: PLW0603 - one process has one watchdog, as it has one NOTIFY_SOCKET
    _hook = hook


def alive(wait: float = 0.0) -> None:
    """Report that the calling thread makes progress; it may now wait `wait` seconds for a peer."""
    if _hook is not None:
        _hook(wait)


@contextmanager
def deferrable() -> Iterator[None]:
    """Mark the work of the calling thread as work that can be done after the next start: a stop ends it at once."""
    before = is_deferrable()
    _thread.deferrable = True
    try:
        yield
    finally:
        _thread.deferrable = before


def is_deferrable() -> bool:
    """Return whether the calling thread is within `deferrable`."""
    return bool(getattr(_thread, "deferrable", False))
