"""Track which threads make progress: the daemon answers systemd's watchdog only while none is stuck.

Code that works or waits calls `alive()`: a no-op unless the daemon has installed its own. Before a wait on a peer it declares how
long that may take. A thread that neither moves nor is in a declared wait is stuck: the main loop then stops answering systemd,
which restarts the service. What the daemon's hook raises ends the work: so a stop reaches long work without a parameter.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        """Move the deadline of the calling thread; `wait` is how many seconds a peer may now keep it waiting."""
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


def _ignore(_wait: float) -> None:
    """No-op watchdog callback."""


_hook: Callable[[float], None] = _ignore
_thread = threading.local()


def install(hook: Callable[[float], None] = _ignore) -> None:
    """Have every `alive` of this process call `hook` with the seconds of the declared wait, or none by default; an error that it raises ends the work."""
    global _hook  # noqa: PLW0603 - one process has one watchdog, as it has one NOTIFY_SOCKET
    _hook = hook


def alive(wait: float = 0.0) -> None:
    """Report that the calling thread makes progress; a peer may now keep it waiting for `wait` seconds."""
    _hook(wait)


@contextmanager
def deferrable() -> Iterator[None]:
    """Mark what the calling thread does within as work that can be done after the next start.

    A hook that asks `is_deferrable` ends such work as soon as a stop is asked for, where other work is given time.
    """
    before = is_deferrable()
    _thread.deferrable = True
    try:
        yield
    finally:
        _thread.deferrable = before


def is_deferrable() -> bool:
    """Whether the calling thread is within `deferrable`."""
    return bool(getattr(_thread, "deferrable", False))
