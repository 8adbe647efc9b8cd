"""Queue of one destination: the images it is missing, by study, and when they are sent. Independent of all other destinations.

The missing images are the gateway's instance set minus the images proved to be delivered; only the latter are stored on disk. After a
crash, for a job that the gateway forgot and for a late image the sets are compared again. Sending an image twice is harmless.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ddwd.config.routing import JOBS_ELSEWHERE, PRIORITIES
from ddwd.core.audit import Event
from ddwd.core.clock import stamp
from ddwd.core.errors import NotFoundError, PeerDownError, PeerRefusedError
from ddwd.core.retry import Backoff
from ddwd.store.status_files import DestinationStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ddwd.config.routing import Route
    from ddwd.core.audit import Audit
    from ddwd.core.clock import Clock
    from ddwd.core.model import OrthancId
    from ddwd.delivery.transports import DestinationTransport
    from ddwd.orthanc.port import OrthancPort
    from ddwd.store.delivery_log import DeliveryLog

_BLOCKS = (200, 20, 1)
"""Images in one job: fewer after each failure, until a refused image delays no other."""
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 300.0
"""Between two tries of one study, and between two of a destination that does not answer."""
_MOST_STUDIES = 50
"""Most studies compared, or started, in one turn: bounds its duration."""
_LONG_SECONDS = 60.0
"""Seconds after which a running job makes the queue check that the destination answers; repeated at this interval."""
_GATEWAY_SECONDS = 5.0
"""Seconds before a gateway that did not answer is queried again."""
_POLL_SECONDS = 0.5
"""Seconds between two queries for running jobs."""


_backoff = partial(Backoff, FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)


class _StowJob(NamedTuple):
    """One job of the gateway: the images it sends, and when it was submitted (monotonic clock)."""

    images: frozenset[OrthancId]
    began: float


@dataclass
class _WaitingStudy:
    """One study that may have images missing at the destination."""

    study: OrthancId
    since: str
    changed: bool = True
    study_uid: str = ""
    priority: int = 0
    missing: frozenset[OrthancId] = frozenset()
    jobs: dict[str, _StowJob] = field(default_factory=dict)
    refused: dict[OrthancId, int] = field(default_factory=dict)
    proved: int = 0
    backoff: Backoff = field(default_factory=_backoff)
    due: float = 0.0
    reason: str = ""
    blameless: bool = False
    """The destination did not answer: the last failure was not of this study."""

    @property
    def block(self) -> int:
        """Number of images in its next job."""
        return _BLOCKS[min(self.backoff.failures, len(_BLOCKS) - 1)]


@dataclass
class DestinationQueue:
    """Sends missing images to one destination, one turn per call of `turn`; `routes` by name."""

    transport: DestinationTransport
    gateway: OrthancPort
    routes: Mapping[str, Route]
    deliveries: DeliveryLog
    audit: Audit
    clock: Clock
    settle: float = 0.0
    """Seconds that new images wait before they are sent, so that a study takes few jobs and causes one event."""

    def __post_init__(self) -> None:
        self.name = self.transport.name
        self._open: dict[OrthancId, _WaitingStudy] = {}
        self._away = ""
        self._since = stamp(self.clock.utc())
        self._backoff = _backoff()
        self._due = 0.0
        self._delivered = 0
        self._delivered_at = ""
        self._gateway_failed = False

    def turn(self, offered: Iterable[OrthancId], *, hasten: bool = False) -> DestinationStatus:
        """Compare the offered studies, collect finished jobs, send what is due. Raises StateError, StorageFullError and OSError."""
        for study in offered:
            self._open.setdefault(study, _WaitingStudy(study, stamp(self.clock.utc()))).changed = True
        if hasten:
            self._due = 0.0
            for waiting in self._open.values():
                waiting.due, waiting.changed = 0.0, True
        try:
            self._collect()
            for waiting in [one for one in self._open.values() if one.changed][:_MOST_STUDIES]:
                self._compare(waiting)
            self._send()
            self._gateway_failed = False
        except (PeerDownError, PeerRefusedError):
            self._gateway_failed = True  # the sets are still as they were: the next turn goes on
        return self._status()

    def _compare(self, waiting: _WaitingStudy) -> None:
        """Find the images that the destination is missing; close a study of which it has all."""
        study = waiting.study
        route = self.routes.get(self.gateway.route(study) or "")
        listing = self.gateway.study(study) if route and self.name in route.also else None
        # its route does not send it here (any more), or retention has removed it
        if route is None or listing is None:
            del self._open[study]
            return
        missing = listing.ids - self.deliveries.of(self.name, study)
        if missing - waiting.missing:
            soon = self.clock.monotonic() + self.settle
            waiting.due = min(waiting.due, soon) if waiting.backoff.failures else soon
        waiting.missing, waiting.changed = missing, False
        waiting.study_uid, waiting.priority = listing.study_uid, PRIORITIES[route.priority]
        if missing:
            return
        del self._open[study]
        if waiting.proved:
            self.audit.record(
                Event.DELIVERED,
                f"{len(listing.ids)} images are at {self.name}",
                study=study,
                study_uid=waiting.study_uid,
                instances=len(listing.ids),
                peer=self.name,
            )

    def _collect(self) -> None:
        for waiting in list(self._open.values()):
            for job_id, (block, began) in list(waiting.jobs.items()):
                job = self.gateway.job(job_id)
                if job is not None and job.in_flight:
                    self._check_long_job(began)
                    continue
                if job is None:  # the gateway was restarted: the outcome is unknown
                    waiting.changed = True
                elif job.state == "Success":
                    self._sent(waiting, block)
                else:
                    self._failed(waiting, block, job.error)
                del waiting.jobs[job_id]

    def _check_long_job(self, began: float) -> None:
        """Check the destination while a job takes long: report one that hangs before the job ends."""
        now = self.clock.monotonic()
        if now - began < _LONG_SECONDS or now < self._due:
            return
        if self.transport.answers():
            self._is_back()
            self._due = now + _LONG_SECONDS
        else:
            self._is_away("it does not answer, and a job does not end")

    def _sent(self, waiting: _WaitingStudy, block: frozenset[OrthancId]) -> None:
        """Prove the sent images: by the list of a destination that can be queried, else by the success of the job."""
        self._is_back()
        listed = self._listed(waiting, block)
        self._prove(waiting, block if listed is None else listed)
        if listed is not None and block - listed:
            self._delay(waiting, f"it answers that it stored them, and does not list {len(block - listed)}")
        waiting.changed = True

    def _failed(self, waiting: _WaitingStudy, block: frozenset[OrthancId], reason: str) -> None:
        if len(block) == 1:
            waiting.refused.update({image: waiting.refused.get(image, 0) + 1 for image in block})
        self._delay(waiting, reason)
        if self.transport.answers():
            self._is_back()
        else:
            waiting.blameless = True
            self._is_away(reason)

    def _delay(self, waiting: _WaitingStudy, reason: str) -> None:
        """Delay the next try of this study only."""
        waiting.reason, waiting.blameless = reason, False
        waiting.due = self.clock.monotonic() + waiting.backoff.failed()
        waiting.changed = True

    def _listed(self, waiting: _WaitingStudy, images: Iterable[OrthancId]) -> frozenset[OrthancId] | None:
        """Return which of these images the destination lists; None where it cannot be queried."""
        listed = self.transport.listed(waiting.study_uid)
        if listed is None:
            return None
        if not listed:
            return frozenset()
        uids = self.gateway.sop_uids(images)
        return frozenset(image for image, uid in uids.items() if uid in listed)

    def _prove(self, waiting: _WaitingStudy, images: frozenset[OrthancId]) -> None:
        if not images:
            return
        at = stamp(self.clock.utc())
        self.deliveries.add(self.name, waiting.study, images, at)
        self._delivered_at = at
        self._delivered += len(images)
        waiting.proved += len(images)
        waiting.missing -= images

    def _send(self) -> None:
        slots = self._free_slots()
        if not slots:
            return
        now = self.clock.monotonic()
        ready = [one for one in self._open.values() if one.missing and one.due <= now]
        for waiting in sorted(ready, key=lambda one: (-one.priority, one.since))[:_MOST_STUDIES]:
            slots -= self._send_of(waiting, slots)
            if slots <= 0:
                return

    def _free_slots(self) -> int:
        """Return how many jobs may be submitted now; one, as a trial, where the destination did not answer last time."""
        running = sum(len(one.jobs) for one in self._open.values())
        if not self._away:
            return JOBS_ELSEWHERE - running
        if running or self.clock.monotonic() < self._due:
            return 0
        if self.transport.answers():
            self._is_back()
            return JOBS_ELSEWHERE
        self._is_away(self._away)
        return 1

    def _send_of(self, waiting: _WaitingStudy, slots: int) -> int:
        """Submit at most `slots` jobs for this study, images refused before last; return the number of jobs."""
        if not waiting.jobs:
            # images that the destination lists already need not be sent
            self._prove(waiting, self._listed(waiting, waiting.missing) or frozenset())
            waiting.changed = waiting.changed or not waiting.missing
        in_flight: frozenset[OrthancId] = frozenset().union(*(job.images for job in waiting.jobs.values()))
        queue = sorted(waiting.missing - in_flight, key=lambda image: (waiting.refused.get(image, 0), image))
        submitted = 0
        while queue and submitted < slots:
            block, queue = queue[: waiting.block], queue[waiting.block :]
            try:
                job = self.transport.submit(block, waiting.priority)
            except (PeerRefusedError, NotFoundError) as error:
                self._delay(waiting, str(error))  # an image that is gone from the gateway meanwhile
                break
            waiting.jobs[job] = _StowJob(frozenset(block), self.clock.monotonic())
            submitted += 1
        return submitted

    def _is_away(self, reason: str) -> None:
        self._due = self.clock.monotonic() + self._backoff.failed()
        if not self._away:
            self._since = stamp(self.clock.utc())
            message = f"{self.name} does not answer: {reason}"
            self.audit.record(Event.DESTINATION_DOWN, message, peer=self.name)
        self._away = reason

    def _is_back(self) -> None:
        if self._away:
            self._since = stamp(self.clock.utc())
            self.audit.record(
                Event.DESTINATION_UP,
                f"{self.name} answers again; {len(self._open)} studies wait for it",
                peer=self.name,
                open=len(self._open),
            )
            for waiting in self._open.values():
                if waiting.blameless:
                    waiting.backoff.succeeded()
                    waiting.due, waiting.reason, waiting.blameless = 0.0, "", False
        self._backoff.succeeded()
        self._away, self._due = "", 0.0

    def _status(self) -> DestinationStatus:
        waiting = [one for one in self._open.values() if one.missing or one.changed]
        failed = [one.reason for one in waiting if one.reason]
        return DestinationStatus(
            self.name,
            self.transport.kind,
            "away" if self._away else "ok",
            self._since,
            self._away or (failed[0] if failed else ""),
            len(waiting),
            sum(len(one.missing) for one in waiting),
            min((one.since for one in waiting), default=""),
            self._delivered,
            self._delivered_at,
            self._wait(),
        )

    def _wait(self) -> float | None:
        """Return the seconds until the queue is due; None where no work waits."""
        if self._gateway_failed:
            return _GATEWAY_SECONDS
        if not self._open:
            return max(0.0, self._due - self.clock.monotonic()) if self._away else None
        if any(one.jobs for one in self._open.values()):
            return _POLL_SECONDS
        if any(one.changed for one in self._open.values()):
            return 0.0
        due = max(self._due, min(one.due for one in self._open.values()))
        return max(0.0, due - self.clock.monotonic())
