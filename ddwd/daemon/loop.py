"""Main loop of the daemons: a cycle, then a wait; signals only set flags. The only module that notifies systemd.

A sign of life (WATCHDOG=1) goes out only from here, only by the thread that does the work, and only while what it looks after is
healthy: a hung cycle, a hung worker or a stopped process all end in systemd's SIGABRT, which prints every thread's stack.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sdnotify

if TYPE_CHECKING:
    from collections.abc import Callable

_MICRO = 1_000_000
_SHARE = 0.8
"""Part of WatchdogSec that one wait on a peer may take; the sign before it is at most a second old."""


@dataclass(frozen=True, slots=True)
class TickResult:
    """Result of a cycle: a status line for `systemctl status`, whether its parts are healthy, and when the next cycle is due.

    `wait` is in seconds; None is the loop's own interval.
    """

    status: str
    healthy: bool = True
    wait: float | None = None


class Loop:
    """Runs `cycle` every `interval` seconds, or as soon as `wake` is called, until SIGTERM or SIGINT.

    Between two cycles lie `breath` seconds at least: what wakes it meanwhile is served by one.
    """

    def __init__(
        self,
        cycle: Callable[[], TickResult],
        interval: float,
        notify: Callable[[str], None] | None = None,
        breath: float = 0.0,
    ) -> None:
        self._cycle = cycle
        self._breath = breath
        self._interval = interval
        self._notify = notify or sdnotify.SystemdNotifier().notify
        self._wakeup = threading.Event()
        self._stopping = threading.Event()
        self._signed = 0.0
        self._watchdog = int(os.environ.get("WATCHDOG_USEC") or 0) / _MICRO
        self._extended = False

    @property
    def stopping(self) -> threading.Event:
        """Set once the loop is to end, also in the middle of a cycle."""
        return self._stopping

    def run(self) -> None:
        """Return once stopped. Whatever `cycle` raises ends the loop: the service manager starts anew."""
        self._notify("READY=1")
        while not self._stopping.is_set():
            self._wakeup.clear()
            beat = self._cycle()
            self._notify(f"STATUS={beat.status}" + ("\nWATCHDOG=1" if beat.healthy else ""))
            if not self._stopping.wait(self._breath):
                self._wakeup.wait(self._idle(self._interval if beat.wait is None else beat.wait))
        self._notify("STOPPING=1")

    def _idle(self, wanted: float) -> float:
        """A long interval must not starve the watchdog."""
        return min(wanted, self._watchdog / 3) if self._watchdog else wanted

    def extend(self, seconds: float) -> None:
        """Ask for that much more time to start or to stop (sd_notify EXTEND_TIMEOUT_USEC), and sign that we live."""
        self._notify(f"EXTEND_TIMEOUT_USEC={int(seconds * _MICRO)}\nWATCHDOG=1")

    def alive(self, wait: float = 0.0) -> None:
        """A sign of life from inside a long cycle, by the thread that runs it; at most one each second.

        `wait` declares that a peer may now be silent for so many seconds: systemd's patience is stretched where that is too
        long for it, and put back at the next sign.
        """
        now = time.monotonic()
        stretch = bool(self._watchdog) and wait > self._watchdog * _SHARE
        if stretch or self._extended:
            self._extended = stretch
            patience = int((wait * stretch + self._watchdog) * _MICRO)
            self._notify(f"WATCHDOG_USEC={patience}\nWATCHDOG=1")
        elif now - self._signed >= 1.0:
            self._notify("WATCHDOG=1")
        else:
            return
        self._signed = now

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
