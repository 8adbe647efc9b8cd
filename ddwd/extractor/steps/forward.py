"""Forward step: send the instances that storage is missing, behind the Lua script that forwards first.

The jobs of the Lua script neither retry nor survive a restart. This step submits the missing instances as new jobs, in blocks small
enough for any time-out, and never more jobs at once than the gateway can run. What such a job did not bring either is copied from
one REST interface to the other, one image after the other: STOW-RS refuses images that Orthanc itself can store (standard elements
of VR UN, which PS3.5 section 6.2.2 allows), and one of them ends the request for all that are sent beside it.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.core.errors import (
    Failure,
    ImageRefusedError,
    NotFoundError,
    PeerDownError,
    PeerRefusedError,
    failure_of,
)
from ddwd.extractor.study import Copied

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from concurrent.futures import Executor, Future

    from ddwd.core.clock import Clock
    from ddwd.core.model import OrthancId
    from ddwd.extractor.observer import Observer
    from ddwd.extractor.peers import Peers
    from ddwd.extractor.steps.repair import GatewayRepair, SetAside
    from ddwd.extractor.study import StudyState
    from ddwd.extractor.study_events import StudyEvents
    from ddwd.orthanc.port import Job, OrthancPort

SERVER = "storage"
"""Name of the storage among the gateway's DICOMweb servers (provisioning/orthanc_config.py)."""
_BLOCK = 200
_JOBS_AT_ONCE = 4
_STOW_KIND = "DicomWebStowClient"
_COPIED_AT_ONCE = 200
"""Images that one piece of work copies, and the bytes after which it copies no further one: a worker is kept from others for so long."""
_BYTES_AT_ONCE = 1 << 30
_PATIENT_TRIES = 3
"""After so many, images are not left to a STOW-RS job that has not ended."""
_HUNG_SECONDS = 25.0
"""A STOW-RS job that runs and has moved no further for so long counts as hung: the kernel tries a silent connection ever less often.

After an outage of a minute such a job can be silent for another minute, and only its connection's end stops it: in that time it holds
a thread of the gateway's job engine, and Orthanc cannot cancel it.
"""


@dataclass
class Forwarder:
    """Submits STOW-RS jobs on the gateway; `beside` more may run for other destinations (ddwd-courier)."""

    gateway: OrthancPort
    clock: Clock
    beside: int = 0
    _moved: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Progress of each STOW-RS job in flight, and since when it has that."""

    def hung(self, jobs: Mapping[str, Job]) -> frozenset[str]:
        """Return the STOW-RS jobs that hang.

        One that is seen for the first time, runs and has not moved at all counts as running since it was submitted.
        """
        now = self.clock.monotonic()
        moved = {}
        for name, job in jobs.items():
            if job.kind != _STOW_KIND or not job.in_flight:
                continue
            progress, since = self._moved.get(name, (0, now - job.age))
            has_moved = job.state != "Running" or job.progress != progress
            moved[name] = (job.progress, now if has_moved else since)
        self._moved = moved
        return frozenset(name for name, (_, since) in moved.items() if now - since >= _HUNG_SECONDS)

    def send(
        self, missing: Collection[OrthancId], jobs: Mapping[str, Job], priority: int = 0
    ) -> dict[OrthancId, str]:
        """Submit jobs for the missing instances; return the job of each that was submitted, none while the gateway runs enough jobs.

        Raises PeerDownError and PeerRefusedError; jobs submitted before stay, and sending an instance twice changes no image.
        """
        running = sum(job.in_flight for job in jobs.values() if job.kind == _STOW_KIND)
        room = max(0, _JOBS_AT_ONCE + self.beside - running)
        instances = sorted(missing)[: room * _BLOCK]
        sent: dict[OrthancId, str] = {}
        for start in range(0, len(instances), _BLOCK):
            block = instances[start : start + _BLOCK]
            sent |= dict.fromkeys(block, self.gateway.stow(SERVER, block, priority))
        return sent


@dataclass
class Copier:
    """Copies images of one study at a time from the gateway to storage, by REST; safe to use from several threads."""

    peers: Peers
    executor: Executor

    def start(self, missing: Collection[OrthancId]) -> Future[Copied]:
        """Return the work that copies a part of the missing instances; see `copy`."""
        return self.executor.submit(self.copy, sorted(missing))

    def copy(self, missing: Collection[OrthancId]) -> Copied:
        """Copy the instances, each alone: what fails with one holds up no other.

        An instance that is not in the result is for the next call. While one of the Orthancs does not answer, no image fails.
        """
        result, size = Copied(), 0
        for instance in list(missing)[:_COPIED_AT_ONCE]:
            if size >= _BYTES_AT_ONCE:
                break
            try:
                size += self._copy(instance)
                result.taken.add(instance)
            except PeerDownError:
                break
            except NotFoundError:  # deleted meanwhile
                continue
            except PeerRefusedError as error:
                result.failed[instance] = failure_of(error)
                if isinstance(error, ImageRefusedError):
                    result.blamed.add(instance)
        return result

    def _copy(self, instance: OrthancId) -> int:
        """Return the size of the file. Raises NotFoundError, PeerDownError and PeerRefusedError."""
        gateway, storage = self.peers.nodes
        if not gateway.is_whole(instance):
            raise PeerRefusedError(f"{gateway.name}: its file is lost or damaged")
        with closing(gateway.stream(instance)) as content:
            size = len(content)
            stored = storage.receive(content)
        if stored != instance or storage.md5(instance) != gateway.md5(instance):
            raise PeerRefusedError(f"{storage.name} has stored it as another image")
        return size


@dataclass
class ForwardStep:
    """Forwards the images of one study that storage is missing: first by STOW-RS, then by REST, and in the end to quarantine."""

    forwarder: Forwarder
    copier: Copier
    repair: GatewayRepair
    set_aside: SetAside
    observer: Observer
    events: StudyEvents
    clock: Clock

    def send(self, study: StudyState, missing: frozenset[OrthancId]) -> int | None:
        """Send images of the study, by STOW-RS or in a worker by REST; return how many were submitted by STOW-RS.

        None if there was no need: ORTHANC1 had lost images, which are in quarantine now. Raises PeerDownError, PeerRefusedError,
        StorageFullError and OSError.
        """
        # one image without a file makes the STOW-RS of all others beside it fail
        if study.resends and self.repair.forget_lost(study, missing):
            return None
        study.tried_at, study.moved_at = study.moved_at, self.clock.monotonic()
        jobs = self.forwarder.gateway.jobs()
        hung = self.forwarder.hung(jobs)
        left = self._left_by_stow(study, missing, jobs, hung)
        unsent = missing - study.stow_jobs.keys()
        sent = self.forwarder.send(unsent, jobs, study.priority)
        if hung and not sent:  # they may leave no room for others
            left |= dict.fromkeys(unsent, "")
        study.stow_jobs |= sent
        study.resends += 1
        study.may_be_copied = True
        if sent:
            self.events.forwarding(study, len(sent))
        if left:
            if study.refusal is None:
                self.events.copying(study, len(left), next(filter(None, left.values()), ""))
            study.work = self.copier.start(left)
        return len(sent)

    def _left_by_stow(
        self,
        study: StudyState,
        missing: frozenset[OrthancId],
        jobs: Mapping[str, Job],
        hung: Collection[str],
    ) -> dict[OrthancId, str]:
        """Return the images whose STOW-RS job hangs or has ended without them, each with the job's error if the gateway remembers it."""
        left = {}
        for instance in missing & study.stow_jobs.keys():
            name = study.stow_jobs[instance]
            job = jobs.get(name)
            if job is None or not job.in_flight or name in hung or study.resends >= _PATIENT_TRIES:
                left[instance] = job.error if job and job.state == "Failure" else ""
        return left

    def collect(self, study: StudyState, copied: Copied) -> None:
        """Take over what was copied; set aside what failed too often. Raises StorageFullError and OSError."""
        others_passed = bool(copied.taken) or self.observer.forwarded_at >= study.tried_at
        study.moved_at = self.clock.monotonic()
        if copied.taken:
            self.events.copied(study, len(copied.taken))
        if not copied.failed:
            return
        blamed = copied.failed.keys() if others_passed else copied.blamed
        for instance in copied.failed.keys() - copied.blamed:
            study.stow_jobs.pop(
                instance, None
            )  # not its own fault, as far as is known: both ways are tried again
        self._report(
            study, copied, tried=max(study.forward_attempts[one] for one in blamed) + 1 if blamed else 0
        )
        self.set_aside.count(
            study, study.forward_attempts, {one: copied.failed[one].reason for one in blamed}
        )

    def _report(self, study: StudyState, copied: Copied, tried: int) -> None:
        why = copied.failed[min(copied.blamed or copied.failed)]
        counted = f" (try {tried} of {self.set_aside.tries}, then quarantine)" if tried else ""
        study.refusal = Failure(f"{len(copied.failed)} refused{counted}: {why.reason}", why.status)
        self.events.not_taken(study, len(copied.failed), study.refusal)
