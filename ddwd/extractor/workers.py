"""The threads for C-MOVE and verification beside the extractor's loop: watched while they work, ended in bounded time.

Interrupting them anywhere is safe: what came stays in the spool or in staging, and the next start continues from there.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any

from ddwd.core.errors import PeerDownError
from ddwd.core.watchdog import is_deferrable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddwd.core.clock import Clock
    from ddwd.core.watchdog import Watchdog

log = logging.getLogger("ddwd.extractor")

_THREADS = 2
_FINISH_SECONDS = 5.0
"""Work that runs when the stop is requested may continue for this long; then it is cancelled."""
_LEAVE_SECONDS = 25.0
"""After that: the C-CANCEL (10 s until the association is aborted), and one request to an Orthanc. Within TimeoutStopSec."""


@dataclass
class Shutdown:
    """Shutdown signal, `asked`: no new work starts; running work has a grace period, then it is cancelled, by `cut`."""

    asked: Event
    clock: Clock
    cut: Event = field(default_factory=Event)
    _since: float | None = None

    def look(self) -> None:
        """Set `cut` once the grace period is over; each worker calls this often."""
        if not self.asked.is_set():
            return
        now = self.clock.monotonic()
        if self._since is None:
            self._since = now
        if now - self._since >= _FINISH_SECONDS:
            self.cut.set()

    def check(self) -> None:
        """Raise PeerDownError once the grace period is over, or at once in deferrable work: the study waits, and no image is blamed."""
        self.look()
        if self.cut.is_set() or (self.asked.is_set() and is_deferrable()):
            raise PeerDownError("the extractor stops")


class Workers(ThreadPoolExecutor):
    """Threads for C-MOVE and verification; each is on the watchdog's list while it works, and wakes the loop at its end."""

    def __init__(self, watchdog: Watchdog, wake: Callable[[], None]) -> None:
        super().__init__(_THREADS, thread_name_prefix="ddwd-retrieve")
        self._watchdog = watchdog
        self._wake = wake
        self._running: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn` in a worker."""

        def work() -> Any:
            self._watchdog.alive()
            try:
                return fn(*args, **kwargs)
            finally:
                self._watchdog.idle()

        future = super().submit(work)
        self._running.add(future)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: Future[Any]) -> None:
        self._running.discard(future)
        self._wake()

    def finish(self, limit: float = _FINISH_SECONDS + _LEAVE_SECONDS) -> bool:
        """Begin no new work and wait for what runs; return whether all of it ended within `limit` seconds."""
        self.shutdown(wait=False, cancel_futures=True)
        left = wait(list(self._running), limit).not_done
        if left:
            log.error("%d workers did not end in time and are left behind", len(left))
        return not left
