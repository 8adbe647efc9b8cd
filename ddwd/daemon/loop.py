"""The main loop of both daemons: a cycle, then a wait; signals only set flags. The one place that speaks to systemd.

A sign of life (WATCHDOG=1) goes out only from here and only after a cycle that calls itself healthy, so a hung cycle, a hung
worker that the cycle looks at, or a stopped process all end in systemd's SIGABRT, which prints every thread's stack.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sdnotify

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Beat:
    """What a cycle reports: a status line for `systemctl status`, whether what it looks after is alive, when it wants to run again.

    `wait` is in seconds; None is the loop's own interval.
    """

    status: str
    healthy: bool = True
    wait: float | None = None


class Loop:
    """Runs `cycle` every `interval` seconds, or as soon as `wake` is called, until SIGTERM or SIGINT."""

    def __init__(
        self, cycle: Callable[[], Beat], interval: float, notify: Callable[[str], None] | None = None
    ) -> None:
        self._cycle = cycle
        self._interval = interval
        self._notify = notify or sdnotify.SystemdNotifier().notify
        self._wakeup = threading.Event()
        self._stopping = threading.Event()
        self._signed = 0.0

    def run(self) -> None:
        """Return once told to stop. Whatever `cycle` raises ends the loop: the service manager starts anew."""
        self._notify("READY=1")
        while not self._stopping.is_set():
            self._wakeup.clear()
            beat = self._cycle()
            self._notify(f"STATUS={beat.status}" + ("\nWATCHDOG=1" if beat.healthy else ""))
            if not self._stopping.is_set():
                self._wakeup.wait(self._interval if beat.wait is None else beat.wait)
        self._notify("STOPPING=1")

    def extend(self, seconds: float) -> None:
        """Ask for that much more time to start or to stop (sd_notify EXTEND_TIMEOUT_USEC), and sign that we live."""
        self._notify(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}\nWATCHDOG=1")

    def alive(self) -> None:
        """A sign of life from inside a long cycle, by the thread that runs it; at most one each second."""
        now = time.monotonic()
        if now - self._signed >= 1.0:
            self._signed = now
            self._notify("WATCHDOG=1")

    def wake(self) -> None:
        """Begin the next cycle now; safe from any thread."""
        self._wakeup.set()

    def stop(self, *_signal: object) -> None:
        """End after the current cycle; safe in a signal handler."""
        self._stopping.set()
        self._wakeup.set()

    def listen(self) -> None:
        """Bind the signals: SIGTERM and SIGINT stop, SIGHUP is ignored, SIGABRT prints all stacks."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        faulthandler.enable()
