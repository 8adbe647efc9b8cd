"""Find the studies whose rule has `also` and add them to the queues of their destinations.

The gateway's changes find them at once; a sweep over all studies finds what the changes missed. Each queue runs in a thread of its own, one
turn after the other, so that a destination that hangs delays no other.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ddwd.core.errors import DdwdError, PeerDownError, PeerRefusedError, StateError
from ddwd.store.status_files import DestinationStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Executor, Future

    from ddwd.config.routing import Route
    from ddwd.core.clock import Clock
    from ddwd.core.model import OrthancId
    from ddwd.delivery.destination_queue import DestinationQueue
    from ddwd.extractor.change_feed import ChangeFeed
    from ddwd.extractor.sweep import Sweep
    from ddwd.orthanc.port import OrthancPort
    from ddwd.store.delivery_log import DeliveryLog

log = logging.getLogger("ddwd.delivery")

_BROKEN_SECONDS = 5.0
"""Seconds before the next turn of a queue that could not write its state."""
_HUNG_SECONDS = 600.0
"""A turn that takes longer hangs: the time-outs within a turn are far below this."""


class Recipients:
    """Look up the destinations of studies by their rules."""

    def __init__(self, gateway: OrthancPort, routes: Mapping[str, Route], deliveries: DeliveryLog) -> None:
        self._gateway = gateway
        self._routes = routes
        self._deliveries = deliveries

    def of(self, studies: Sequence[OrthancId]) -> dict[OrthancId, tuple[str, ...]]:
        """Return each study with its destinations; studies without one are left out. Raises PeerDownError, PeerRefusedError."""
        found = self._gateway.routes_of(studies) if studies else {}
        named = {study: self._routes[name].also for study, name in found.items() if name in self._routes}
        return {study: also for study, also in named.items() if also}

    def lacking(self, studies: Sequence[OrthancId]) -> list[OrthancId]:
        """Return the studies with an image that is not proved to be at each of their destinations. Raises PeerDownError, PeerRefusedError."""
        also = self.of(studies)
        held = self._gateway.instances(list(also)) if also else {}
        return [
            study
            for study, images in held.items()
            if any(self._is_missing_images(name, study, images) for name in also[study])
        ]

    def _is_missing_images(self, name: str, study: OrthancId, images: frozenset[OrthancId]) -> bool:
        try:
            return bool(images - self._deliveries.of(name, study))
        except StateError:  # its queue reports it and tries again
            return True


class _QueueRunner:
    """Runs the turns of one queue in the executor."""

    def __init__(
        self, queue: DestinationQueue, executor: Executor, clock: Clock, wake: Callable[[], None]
    ) -> None:
        self.name = queue.name
        self._queue = queue
        self._executor = executor
        self._clock = clock
        self._wake = wake
        self._inbox: set[OrthancId] = set()
        self._hasten = False
        self._work: Future[DestinationStatus] | None = None
        self._began = 0.0
        self._due: float | None = None
        self.status: DestinationStatus | None = None

    def offer(self, study: OrthancId) -> None:
        self._inbox.add(study)

    def hasten(self) -> None:
        self._hasten = True

    def step(self) -> None:
        """Collect a finished turn, and start the next one if it is due."""
        if self._work is not None and self._work.done():
            wait = self._collect(self._work)
            self._work = None
            self._due = None if wait is None else self._clock.monotonic() + wait
        if self._work is None and self._wants():
            offered, self._inbox = self._inbox, set()
            hasten, self._hasten = self._hasten, False
            self._began = self._clock.monotonic()
            self._work = self._executor.submit(self._queue.turn, offered, hasten=hasten)
            self._work.add_done_callback(lambda _: self._wake())

    def _collect(self, work: Future[DestinationStatus]) -> float | None:
        """Return the seconds until the next turn. What the queue could not write stays in memory and is written in its next turn."""
        try:
            self.status = work.result()
        except (DdwdError, OSError) as error:
            log.warning("%s: %s", self.name, getattr(error, "strerror", None) or error)
            return _BROKEN_SECONDS
        return self.status.wait

    def _wants(self) -> bool:
        is_due = self._due is not None and self._clock.monotonic() >= self._due
        is_new = self.status is None and self._due is None
        return bool(is_new or self._inbox or self._hasten or is_due)

    def wait(self) -> float | None:
        """Return the seconds until its next turn; None where it has no work, or works (the end wakes the loop)."""
        if self._work is not None or self._due is None:
            return None
        return max(0.0, self._due - self._clock.monotonic())

    @property
    def is_hung(self) -> bool:
        return self._work is not None and self._clock.monotonic() - self._began > _HUNG_SECONDS


class DeliveryDispatcher:
    """Distributes studies to the queues, one turn per call of `turn`."""

    def __init__(
        self,
        feed: ChangeFeed,
        sweep: Sweep,
        recipients: Recipients,
        queues: Iterable[DestinationQueue],
        executor: Executor,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._feed = feed
        self._sweep = sweep
        self._recipients = recipients
        self._runners = {queue.name: _QueueRunner(queue, executor, clock, wake) for queue in queues}
        self._held_over: set[OrthancId] = set()

    def turn(self, *, hasten: bool = False) -> list[DestinationStatus]:
        """Find changed studies, add them to the queues, step each queue; return the status of the destinations."""
        if hasten:
            self._sweep.hasten()
        self._find()
        for runner in self._runners.values():
            if hasten:
                runner.hasten()
            runner.step()
        return [one.status for one in self._runners.values() if one.status is not None]

    def wait(self) -> float | None:
        """Return the seconds until a queue or the sweep is due; None for the interval of the loop."""
        due = [wait for one in self._runners.values() if (wait := one.wait()) is not None]
        return min([*due, self._sweep.wait()], default=None) if due else None

    @property
    def is_hung(self) -> bool:
        """Whether a turn of a queue does not end."""
        return any(one.is_hung for one in self._runners.values())

    def _find(self) -> None:
        """Add changed studies to the queues; if the gateway does not answer, the next turn or the next sweep finds them."""
        try:
            touched = self._feed.look().studies
            suspects, _ = self._sweep.step()
            self._held_over |= touched.union(suspects)
            also = self._recipients.of(sorted(self._held_over))
        except (PeerDownError, PeerRefusedError):
            return
        self._held_over.clear()
        for study, names in also.items():
            for name in names:
                self._runners[name].offer(study)
