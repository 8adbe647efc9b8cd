"""Find the studies whose route has `also` and add them to the queues of their destinations.

The gateway's changes find them at once; a sweep over all studies finds what the changes missed. Each queue runs in a thread of its own, one
turn after the other, so that a destination that hangs delays no other.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
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


@dataclass
class Recipients:
    """Look up the destinations of studies by their routes."""

    gateway: OrthancPort
    routes: Mapping[str, Route]
    deliveries: DeliveryLog

    def of(self, studies: Sequence[OrthancId]) -> dict[OrthancId, tuple[str, ...]]:
        """Return each study with its destinations; studies without one are left out. Raises PeerDownError, PeerRefusedError."""
        found = self.gateway.routes_of(studies) if studies else {}
        named = {study: self.routes[name].also for study, name in found.items() if name in self.routes}
        return {study: also for study, also in named.items() if also}

    def incomplete(self, studies: Sequence[OrthancId]) -> list[OrthancId]:
        """Return the studies with an image that is not proved to be at each of their destinations. Raises PeerDownError, PeerRefusedError."""
        also = self.of(studies)
        images_of = self.gateway.instances(list(also)) if also else {}
        return [
            study
            for study, images in images_of.items()
            if any(self._is_missing_images(name, study, images) for name in also[study])
        ]

    def _is_missing_images(self, name: str, study: OrthancId, images: frozenset[OrthancId]) -> bool:
        try:
            return bool(images - self.deliveries.of(name, study))
        except StateError:  # its queue reports it and tries again
            return True


@dataclass
class _QueueRunner:
    """Runs the turns of one queue in the executor; `offered` are studies for its next turn, `hasten` makes it retry all of them."""

    queue: DestinationQueue
    executor: Executor
    clock: Clock
    wake: Callable[[], None]
    offered: set[OrthancId] = field(default_factory=set)
    hasten: bool = False
    work: Future[DestinationStatus] | None = None
    began: float = 0.0
    due: float | None = None
    status: DestinationStatus | None = None

    def step(self) -> None:
        """Collect a finished turn, and start the next one if it is due."""
        if self.work is not None and self.work.done():
            wait = self._collect(self.work)
            self.work = None
            self.due = None if wait is None else self.clock.monotonic() + wait
        if self.work is None and self._is_due():
            offered, self.offered = self.offered, set()
            hasten, self.hasten = self.hasten, False
            self.began = self.clock.monotonic()
            self.work = self.executor.submit(self.queue.turn, offered, hasten=hasten)
            self.work.add_done_callback(lambda _: self.wake())

    def _collect(self, work: Future[DestinationStatus]) -> float | None:
        """Return the seconds until the next turn. What the queue could not write stays in memory and is written in its next turn."""
        try:
            self.status = work.result()
        except (DdwdError, OSError) as error:
            log.warning("%s: %s", self.queue.name, getattr(error, "strerror", None) or error)
            return _BROKEN_SECONDS
        return self.status.wait

    def _is_due(self) -> bool:
        if self.offered or self.hasten:
            return True
        return self.status is None if self.due is None else self.clock.monotonic() >= self.due

    def wait(self) -> float | None:
        """Return the seconds until its next turn; None where it has no work, or works (the end wakes the loop)."""
        if self.work is not None or self.due is None:
            return None
        return max(0.0, self.due - self.clock.monotonic())


@dataclass
class DeliveryDispatcher:
    """Distributes studies to the queues, one turn per call of `turn`."""

    feed: ChangeFeed
    sweep: Sweep
    recipients: Recipients
    queues: Iterable[DestinationQueue]
    executor: Executor
    clock: Clock
    wake: Callable[[], None]

    def __post_init__(self) -> None:
        shared = self.executor, self.clock, self.wake
        self._runners = {queue.name: _QueueRunner(queue, *shared) for queue in self.queues}
        self._changed: set[OrthancId] = set()

    def turn(self, *, hasten: bool = False) -> list[DestinationStatus]:
        """Find changed studies, add them to the queues, step each queue; return the status of the destinations."""
        if hasten:
            self.sweep.hasten()
        self._find()
        for runner in self._runners.values():
            runner.hasten = runner.hasten or hasten
            runner.step()
        return [runner.status for runner in self._runners.values() if runner.status is not None]

    def wait(self) -> float | None:
        """Return the seconds until a queue or the sweep is due; None for the interval of the loop."""
        due = [wait for runner in self._runners.values() if (wait := runner.wait()) is not None]
        return min(*due, self.sweep.wait()) if due else None

    @property
    def is_hung(self) -> bool:
        """Whether a turn of a queue does not end."""
        now = self.clock.monotonic()
        return any(runner.work and now - runner.began > _HUNG_SECONDS for runner in self._runners.values())

    def _find(self) -> None:
        """Add changed studies to the queues; if the gateway does not answer, the next turn or the next sweep finds them."""
        try:
            changed = self.feed.look().studies
            suspects, _ = self.sweep.step()
            self._changed |= changed.union(suspects)
            also = self.recipients.of(sorted(self._changed))
        except (PeerDownError, PeerRefusedError):
            return
        self._changed.clear()
        for study, names in also.items():
            for name in names:
                self._runners[name].offered.add(study)
