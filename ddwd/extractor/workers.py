"""The threads that fetch: C-MOVE and verification beside the extractor's main loop, watched while they work, ended in bounded time.

Interrupting them anywhere is safe: what came stays in the spool or in staging, and the next start goes on from there.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event
from typing import TYPE_CHECKING, Any

from ddwd.core.errors import Failure, PeerDownError
from ddwd.core.watchdog import is_deferrable
from ddwd.dicom import nodes
from ddwd.dicom.move_scu import Mover, echo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ddwd.config.schema import Config
    from ddwd.core.clock import Clock
    from ddwd.core.model import Study
    from ddwd.core.watchdog import Watchdog

log = logging.getLogger("ddwd.extractor")

_THREADS = 2
_FINISH_SECONDS = 5.0
"""What runs when the stop is asked for may go on for this long; then it is broken off."""
_LEAVE_SECONDS = 25.0
"""After that: the C-CANCEL (10 s until the association is aborted), and one request to an Orthanc. Within TimeoutStopSec."""
_TAKE_SECONDS = 0.1
"""Between two looks at what a C-MOVE has brought: it goes on meanwhile, and all that came since is verified at once."""
_ASSOCIATION_SECONDS = 30.0
"""Longest silence of a peer while an association is opened or released."""


class Shutdown:
    """Shutdown signal: no new work starts; running work has a grace period, then it is cancelled."""

    def __init__(self, asked: Event, clock: Clock) -> None:
        self._asked = asked
        self._clock = clock
        self._since: float | None = None
        self.cut = Event()

    @property
    def is_asked(self) -> bool:
        """Whether nothing new may begin."""
        return self._asked.is_set()

    def look(self) -> None:
        """Called often by each worker: notes that the grace is over."""
        if not self._asked.is_set():
            return
        now = self._clock.monotonic()
        if self._since is None:
            self._since = now
        if now - self._since >= _FINISH_SECONDS:
            self.cut.set()

    def check(self) -> None:
        """Raise PeerDownError once the grace is over, or at once in deferrable work: the study waits, and no image is blamed."""
        self.look()
        if self.cut.is_set() or (self.is_asked and is_deferrable()):
            raise PeerDownError("the extractor stops")


class Arrivals:
    """Whether anything grows in the SCP's folder of unfinished objects, so that one huge image is not taken for silence."""

    def __init__(
        self, incoming: Path, clock: Callable[[], float] = time.monotonic, every: float = 0.0
    ) -> None:
        self._incoming = incoming
        self._clock = clock
        self._every = every
        self._looked = float("-inf")
        self._seen: frozenset[tuple[str, int]] = frozenset()
        self._grew = 0.0

    def last(self) -> float:
        """When something last grew (time.monotonic), as far as anyone looked: no more often than every `every` seconds."""
        if self._clock() - self._looked < self._every:
            return self._grew
        self._looked = self._clock()
        try:
            now = frozenset((path.name, path.stat().st_size) for path in self._incoming.iterdir())
        except OSError:  # a file went away while we looked: that is progress, and seen next time
            return self._grew
        if now - self._seen:
            self._grew = self._clock()
        self._seen = now
        return self._grew


class StorageMover:
    """C-MOVE from ORTHANC2 to our SCP, one association for each."""

    def __init__(self, config: Config, incoming: Path, watchdog: Watchdog, shutdown: Shutdown) -> None:
        self._config = config
        self._incoming = incoming
        self._watchdog = watchdog
        self._shutdown = shutdown
        self._storage = nodes.storage(config, "extractor")
        self._scp = nodes.scp(config, config.scp.aet, "extractor")

    def move(
        self, study: Study, series_uids: Sequence[str], sop_uids: Sequence[str], arrived: Callable[[], None]
    ) -> Failure | None:
        """See MoverPort. Raises PeerDownError for a stop too."""
        if self._shutdown.is_asked:
            raise PeerDownError("the extractor stops")
        arrivals = Arrivals(self._incoming, every=_TAKE_SECONDS)
        taken_at = time.monotonic()

        def progressed() -> float:
            self._shutdown.look()
            self._watchdog.alive()  # the wait itself moves, and Mover bounds it
            return arrivals.last()

        def sent(_outcome: object) -> None:
            nonlocal taken_at
            if time.monotonic() - taken_at >= _TAKE_SECONDS and not self._shutdown.cut.is_set():
                arrived()
                taken_at = time.monotonic()

        self._watchdog.alive(_ASSOCIATION_SECONDS)
        try:
            with Mover(self._storage, self._config.scp.aet, self._config.retrieve.timeout) as mover:
                outcome = mover.move(
                    study.study_uid,
                    series_uids,
                    sop_uids,
                    on_progress=sent,
                    progressed=progressed,
                    cancel=self._shutdown.cut,
                )
                self._watchdog.alive(_ASSOCIATION_SECONDS)
        finally:
            self._watchdog.idle()  # the thread may end here; what it does next declares itself
        self._shutdown.check()
        return None if outcome.ok else Failure(f"C-MOVE ended with {outcome.describe()}", outcome.code)

    def scp_answers(self) -> bool:
        """See MoverPort."""
        self._watchdog.alive(_ASSOCIATION_SECONDS)
        return echo(self._scp)


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
        """Begin nothing new and wait for what runs; whether all of it ended within `limit` seconds."""
        self.shutdown(wait=False, cancel_futures=True)
        left = wait(list(self._running), limit).not_done
        if left:
            log.error("%d workers did not end in time and are left behind", len(left))
        return not left
