"""Entry and main loop of the daemons: a cycle, then a wait; signals only set flags. The only module that notifies systemd.

Only the thread that does the work sends WATCHDOG=1, and only while all parts are healthy: a hung cycle, a hung worker or a stopped
process all end in systemd's SIGABRT, which prints every thread's stack.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import sdnotify

from ddwd.core.errors import DdwdError
from ddwd.core.printable import OneLineFormatter, one_line

_MICRO = 1_000_000
_SHARE = 0.8
"""Part of WatchdogSec that one wait on a peer may take; the last WATCHDOG=1 before it is at most a second old."""
_SKIP, _FAILED = 1, 255  # exit statuses of ExecCondition=: skip the unit, or fail it


def enter(name: str, run: Callable[[], None], wanted: Callable[[], bool] = lambda: True) -> int:
    """Run a daemon until it is stopped; return its exit status. With `--wanted` only answer ExecCondition= by `wanted`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    is_condition = sys.argv[1:2] == ["--wanted"]
    try:
        if is_condition:
            return 0 if wanted() else _SKIP
        run()
    except DdwdError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return _FAILED if is_condition else error.exit_status
    return 0


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

    At least `breath` seconds lie between two cycles: one cycle serves all calls of `wake` in between.
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
        self.stopping = threading.Event()
        """Set when the loop is to end, also in the middle of a cycle."""
        self._notified_at = 0.0
        self._watchdog = int(os.environ.get("WATCHDOG_USEC") or 0) / _MICRO
        self._extended = False

    def serve(self) -> None:
        """Bind the signals and run."""
        self.listen()
        self.run()

    def run(self) -> None:
        """Return when stopped. What `cycle` raises ends the loop: the service manager restarts the daemon."""
        self._notify("READY=1")
        while not self.stopping.is_set():
            self._wakeup.clear()
            result = self._cycle()
            self._notify(f"STATUS={one_line(result.status)}" + ("\nWATCHDOG=1" if result.healthy else ""))
            if not self.stopping.wait(self._breath):
                self._wakeup.wait(self._idle(self._interval if result.wait is None else result.wait))
        self._notify("STOPPING=1")

    def _idle(self, seconds: float) -> float:
        """Return the time to wait: a long interval must not starve the watchdog."""
        return min(seconds, self._watchdog / 3) if self._watchdog else seconds

    def extend(self, seconds: float) -> None:
        """Request more time to start or to stop (sd_notify EXTEND_TIMEOUT_USEC), and send WATCHDOG=1."""
        self._notify(f"EXTEND_TIMEOUT_USEC={int(seconds * _MICRO)}\nWATCHDOG=1")

    def alive(self, wait: float = 0.0) -> None:
        """Send WATCHDOG=1 from inside a long cycle, by the thread that runs it; at most once a second.

        `wait` declares that a peer may now be silent for so many seconds: systemd's timeout is extended where that is too long for
        it, and restored at the next call.
        """
        now = time.monotonic()
        stretch = bool(self._watchdog) and wait > self._watchdog * _SHARE
        if stretch or self._extended:
            self._extended = stretch
            timeout = int((wait * stretch + self._watchdog) * _MICRO)
            self._notify(f"WATCHDOG_USEC={timeout}\nWATCHDOG=1")
        elif now - self._notified_at >= 1.0:
            self._notify("WATCHDOG=1")
        else:
            return
        self._notified_at = now

    def wake(self) -> None:
        """Begin the next cycle now; safe from any thread."""
        self._wakeup.set()

    def stop(self, *_signal: object) -> None:
        """End after the current cycle; safe in a signal handler."""
        self.stopping.set()
        self._wakeup.set()

    def listen(self) -> None:
        """Bind the signals: SIGTERM and SIGINT stop, SIGHUP is ignored, SIGABRT prints all stacks."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        faulthandler.enable()
