"""Finds the studies whose rule has `also`, and hands them to the lanes: by the gateway's changes at once, by rounds over everything for sure.

Each lane works in a thread of its own, one turn after the other, so that a destination that hangs holds up nothing but itself.
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
"""Before a lane that could not write is given its next turn."""
_HUNG_SECONDS = 600.0
"""A turn of a lane is bounded by time-outs far below this."""


class Recipients:
    """Who is to have a study: the destinations of its rule."""

    def __init__(self, gateway: OrthancPort, routes: Mapping[str, Route], deliveries: DeliveryLog) -> None:
        self._gateway = gateway
        self._routes = routes
        self._deliveries = deliveries

    def of(self, studies: Sequence[OrthancId]) -> dict[OrthancId, tuple[str, ...]]:
        """Each study with its destinations; those with none are left out. Raises PeerDownError, PeerRefusedError."""
        found = self._gateway.routes_of(studies) if studies else {}
        named = {study: self._routes[name].also for study, name in found.items() if name in self._routes}
        return {study: also for study, also in named.items() if also}

    def lacking(self, studies: Sequence[OrthancId]) -> list[OrthancId]:
        """Those of which a destination is not proved to have every image. Raises PeerDownError, PeerRefusedError."""
        also = self.of(studies)
        held = self._gateway.instances(list(also)) if also else {}
        return [
            study
            for study, images in held.items()
            if any(self._lacks(name, study, images) for name in also[study])
        ]

    def _lacks(self, name: str, study: OrthancId, images: frozenset[OrthancId]) -> bool:
        try:
            return bool(images - self._deliveries.of(name, study))
        except StateError:  # its lane says so, and tries again
            return True


class _QueueRunner:
    """One lane and the work it is at."""

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
        """Take in what it has done, and begin its next turn where there is something to do."""
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
        """Seconds until it wants to go on. What it could not write it still knows, and writes in its next turn."""
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
        """Seconds until it wants a turn; None where it has nothing to do, or is at work, whose end wakes the loop."""
        if self._work is not None or self._due is None:
            return None
        return max(0.0, self._due - self._clock.monotonic())

    @property
    def is_hung(self) -> bool:
        return self._work is not None and self._clock.monotonic() - self._began > _HUNG_SECONDS


class DeliveryDispatcher:
    """Takes a turn at each call of `turn`."""

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
        """Look what has moved, hand it over, let each lane go on; how the destinations stand."""
        if hasten:
            self._sweep.hasten()
        self._find()
        for runner in self._runners.values():
            if hasten:
                runner.hasten()
            runner.step()
        return [one.status for one in self._runners.values() if one.status is not None]

    def wait(self) -> float | None:
        """Seconds until something is due; None for the loop's own interval."""
        due = [wait for one in self._runners.values() if (wait := one.wait()) is not None]
        return min([*due, self._sweep.wait()], default=None) if due else None

    @property
    def is_hung(self) -> bool:
        """Whether a lane does not come to the end of its turn."""
        return any(one.is_hung for one in self._runners.values())

    def _find(self) -> None:
        """What a gateway that does not answer would have told is found later: by the same changes, or by the next round."""
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
