"""Retrieve step: have ORTHANC2 send what is missing on disk to our SCP by C-MOVE, and stage what came. Runs in worker threads.

The truth is what lies in the spool and proves equal to ORTHANC2's copy; the status of a C-MOVE is only a hint (an Orthanc can
report success with nothing sent). A series of which no image has come is moved as a whole, which costs ORTHANC2 half of what naming
each image does; what of it did not come is moved by name. Images are verified while the C-MOVE continues, and where there is
much to retrieve two C-MOVEs run at once, since each waits for the disk and the peer most of its time. A block that did not
come whole is moved again in halves, so one bad image never delays the others; before one is blamed, an image that is known
to be sound is moved the same way, to prove the path open. Everything here may be interrupted anywhere and done again.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ddwd.config.schema import MOST_NAMED
from ddwd.core import durable, watchdog
from ddwd.core.errors import Failure, NotFoundError, PeerDownError
from ddwd.core.model import OrthancId, is_uid, marked_component
from ddwd.extractor.quarantine import QuarantinedObject
from ddwd.extractor.spool import WHOLE_DIGEST, digest_of, uid_of
from ddwd.extractor.steps.verify import Known, predicted_head
from ddwd.extractor.study import Retrieved
from ddwd.store.custody import InstanceRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence, Set
    from concurrent.futures import Executor, Future
    from pathlib import Path

    from ddwd.core.model import Series, Study, Wanted
    from ddwd.extractor.peers import Peers
    from ddwd.extractor.spool import Spool
    from ddwd.extractor.steps.publish import Publisher
    from ddwd.extractor.steps.repair import StorageRepair
    from ddwd.extractor.steps.verify import Verdict, Verifier
    from ddwd.orthanc.port import Stored

_WHOLE_SERIES = 5000
"""Images that are moved at once by whole series: more would keep a worker from the other studies for too long."""
_MUCH = 100
"""Images from which on a second C-MOVE is worth its association."""
_PART = 200
"""Images that each of two C-MOVEs at once moves by name: the smaller, the less one waits for the other at the end."""
_LOOK_SECONDS = 0.1
_Query = tuple[list[str], list[str]]
"""What one C-MOVE moves: SeriesInstanceUIDs, or where there are none SOPInstanceUIDs."""


class MoverPort(Protocol):
    """One C-MOVE from ORTHANC2 to our SCP."""

    def move(
        self, study: Study, series_uids: Sequence[str], sop_uids: Sequence[str], arrived: Callable[[], None]
    ) -> Failure | None:
        """Move whole series, or where none is named the instances, and wait for the end.

        Return what the peer answered if it was not success. Calls `arrived` now and then while images come.
        Raises PeerDownError where the peer does not answer, and what `arrived` raises.
        """

    def scp_answers(self) -> bool:
        """Return whether our SCP answers a C-ECHO: an image is blamed only while the path is open."""


@dataclass
class _Retrieval:
    """One call of `retrieve`: its subject, what is known of the stored files, and the result so far.

    `pending` are the instances still to come, once they were named; `refused` are the spool files that were no copy of an instance;
    `touched` are the folders whose new names are not durable yet, `doubled` the spool files that have such a name.
    """

    study: Study
    missing: frozenset[OrthancId]
    control: str
    result: Retrieved = field(default_factory=Retrieved)
    is_open: bool | None = None
    pending: dict[OrthancId, Wanted] | None = None
    by_name: dict[str, list[Wanted]] = field(default_factory=dict)
    on_storage: dict[OrthancId, Stored] = field(default_factory=dict)
    on_gateway: dict[OrthancId, Stored] = field(default_factory=dict)
    heads: dict[str, bytes] = field(default_factory=dict)
    refused: set[tuple[str, int, OrthancId]] = field(default_factory=set)
    touched: set[Path] = field(default_factory=set)
    doubled: list[Path] = field(default_factory=list)

    def still_pending(self) -> list[Wanted]:
        """Return what has not come yet, by series."""
        return list((self.pending or {}).values())

    def count(self, image: InstanceRecord) -> None:
        """Add an image that is staged, and no longer missing."""
        self.result.verified.append(image)
        (self.pending or {}).pop(image.orthanc_id, None)


@dataclass
class Retriever:
    """Retrieves, verifies and stages instances of one study at a time; safe to use from several threads.

    `batch` is how many images one piece of work retrieves by name at most.
    """

    spool: Spool
    peers: Peers
    mover: MoverPort
    verifier: Verifier
    publisher: Publisher
    repair: StorageRepair
    executor: Executor
    batch: int
    _second: threading.Semaphore = field(default_factory=threading.Semaphore)
    """One study at a time has a second C-MOVE, so that ORTHANC2 keeps threads for its other clients."""

    def start(self, study: Study, missing: frozenset[OrthancId], control: str) -> Future[Retrieved]:
        """Return the work that retrieves a block of the missing images; `control`: see `retrieve`."""
        block = next_block(study, missing, self.batch)
        return self.executor.submit(self.retrieve, study, block, control)

    def retrieve(self, study: Study, missing: Iterable[OrthancId], control: str = "") -> Retrieved:
        """Bring the instances from ORTHANC2 to staging; first check what is already on this disk.

        `control` is the SOPInstanceUID of an image of the study that came before, if there is one. An instance that is not in the
        result has neither come nor failed: it is for the next call. Raises PeerDownError, StorageFullError and OSError; what was
        staged before stays staged.
        """
        task = _Retrieval(study, frozenset(missing), control)
        if self.spool.folder(study).is_dir() or self._has_files(study):
            self._take_over(task)
        if not self._move_series(task):
            self._take_over(task)
            if pending := task.still_pending()[:MOST_NAMED]:
                self._move_named(task, pending)
        return task.result

    def _has_files(self, study: Study) -> bool:
        """Whether the study has files in staging, or published ones."""
        staged, final = self.publisher.staged(study.orthanc_id, ""), self.spool.output.final(study, "")
        return staged.is_dir() or final.is_dir()

    def _move_series(self, task: _Retrieval) -> bool:
        """Move the series that are missing as a whole; whether any image came of them, and the rest is for the next call."""
        missing = task.missing if task.pending is None else task.pending.keys()
        series = whole_series(task.study, missing)
        if not series:
            return False
        before = len(task.result.verified)
        if _count(series) >= _MUCH and self._second.acquire(blocking=False):
            try:
                self._move_beside(task, deque(self._halves(task, series)))
            finally:
                self._second.release()
        else:
            uids = [one.series_uid for one in series]
            self.mover.move(task.study, uids, [], lambda: self._take_over(task))
        self._take_over(task)
        if len(task.result.verified) == before:
            return False
        task.result.failed.clear()  # moved by name before they count as failed
        return True

    def _halves(self, task: _Retrieval, series: list[Series]) -> list[_Query]:
        """Split whole series into two parts of about the same size, or where one series is nearly all, its images by name."""
        parts: tuple[list[Series], list[Series]] = ([], [])
        for one in sorted(series, key=lambda one: len(one.instances), reverse=True):
            min(parts, key=_count).append(one)
        if _count(parts[0]) <= 2 * _count(parts[1]):
            return [([one.series_uid for one in part], []) for part in parts]
        instances = frozenset().union(*(one.instances for one in series))
        names = [one.sop_uid for one in self._name(task).values() if one.orthanc_id in instances]
        return [([], names[start : start + _PART]) for start in range(0, len(names), _PART)]

    def _move_beside(self, task: _Retrieval, queries: deque[_Query]) -> None:
        """Work off the queries by two C-MOVEs at once; the calling thread verifies what both bring."""
        with ThreadPoolExecutor(1, thread_name_prefix="ddwd-retrieve-second") as second:
            other = second.submit(self._move_all, task.study, queries, lambda: None)
            try:
                self._move_all(task.study, queries, lambda: self._take_over(task))
                while wait([other], _LOOK_SECONDS).not_done:
                    self._take_over(task)
            finally:
                queries.clear()
                while wait([other], _LOOK_SECONDS).not_done:
                    watchdog.alive()
            other.result()

    def _move_all(self, study: Study, queries: deque[_Query], arrived: Callable[[], None]) -> None:
        while queries:
            try:
                series_uids, sop_uids = queries.popleft()
            except IndexError:  # the other thread was quicker
                return
            self.mover.move(study, series_uids, sop_uids, arrived)

    def _settle(self, task: _Retrieval) -> None:
        """Make the names of what was staged durable, then remove the old ones: before the result is reported."""
        for folder in task.touched:
            durable.fsync_dir(folder, self.spool.paths.output)
        for path in task.doubled:
            durable.unlink(path, self.spool.paths.output)
        task.touched.clear()
        task.doubled.clear()

    def _name(self, task: _Retrieval) -> dict[OrthancId, Wanted]:
        """Query UIDs and digests of both Orthancs, once; instances that are gone from storage are left out."""
        if task.pending is not None:
            return task.pending
        study = task.study
        task.on_storage = self.peers.storage.stored(study, task.missing)
        uids = {one: stored.sop_uid for one, stored in task.on_storage.items()}
        task.on_gateway = self.peers.gateway.stored(study, uids, uids)
        wanted = sorted(
            (study.wanted(one, uid) for one, uid in uids.items()),
            key=lambda one: (one.series_uid, one.sop_uid),
        )
        for one in wanted:
            task.by_name.setdefault(marked_component(one.sop_uid), []).append(one)
        task.pending = {one.orthanc_id: one for one in wanted}
        self._take_back(task)
        return task.pending

    def _move_named(self, task: _Retrieval, block: list[Wanted]) -> None:
        refusal = self.mover.move(
            task.study, [], [one.sop_uid for one in block], lambda: self._take_over(task)
        )
        self._take_over(task)
        pending = [one for one in block if one.orthanc_id in self._name(task)]
        if not pending:
            return
        if len(pending) == len(block) and not self.mover.scp_answers():
            raise PeerDownError("the SCP does not answer, so ORTHANC2 cannot send images to it")
        if len(block) == 1:
            self._note_failure(task, pending[0], refusal)
            return
        half = (len(pending) + 1) // 2
        for part in (pending[:half], pending[half:]):
            if part:
                self._move_named(task, part)

    def _note_failure(self, task: _Retrieval, one: Wanted, refusal: Failure | None) -> None:
        failed = task.result.failed
        if self.repair.repair(task.study.study_uid, one.orthanc_id):
            failed[one.orthanc_id] = Failure("storage had lost its file; the gateway sends it again")
            return
        failed.setdefault(
            one.orthanc_id, refusal or Failure("ORTHANC2 reported success, and no sound file came")
        )
        if task.is_open is None:
            task.is_open = self._is_open(task)
        if task.is_open:
            task.result.blamed.add(one.orthanc_id)

    def _is_open(self, task: _Retrieval) -> bool:
        """Move an image that is known to be sound; whether it came: sent again, the same content is a new file under the old name."""
        if not task.control:
            return False

        def inodes() -> set[int]:
            control = marked_component(task.control)
            return {path.stat().st_ino for path in self.spool.files(task.study) if uid_of(path) == control}

        before = inodes()
        self.mover.move(task.study, [], [task.control], watchdog.alive)
        return bool(inodes() - before)

    def _take_back(self, task: _Retrieval) -> None:
        """Count what an earlier call staged, or what is published although no record says so."""
        study = task.study
        if not self._has_files(study):
            return
        for one in task.still_pending():
            watchdog.alive()
            for path in (
                self.publisher.staged(study.orthanc_id, one.file),
                self.spool.output.final(study, one.file),
            ):
                if path.exists() and (image := self._compare(task, path, one)):
                    task.touched.add(path.parent)
                    task.count(image)
                    break
        self._settle(task)

    def _take_over(self, task: _Retrieval) -> None:
        """Verify and stage what has come."""
        pending = self._name(task)
        for path in self.spool.files(task.study):
            for one in task.by_name.get(uid_of(path), ()):
                if one.orthanc_id in pending and self._take_over_one(task, path, one):
                    break
        self._settle(task)

    def _take_over_one(self, task: _Retrieval, path: Path, one: Wanted) -> bool:
        watchdog.alive()
        try:
            attempt = path.name, path.stat().st_ino, one.orthanc_id
            if attempt in task.refused:
                return False
            image = self._compare(task, path, one, digest_of(path))
            if image is None:
                task.refused.add(attempt)
                return False
            task.touched.add(self.publisher.stage(path, task.study.orthanc_id, one).parent)
        except FileNotFoundError:  # taken over for a namesake in flight, under another patient
            return False
        task.doubled.append(path)
        task.count(image)
        return True

    def _compare(self, task: _Retrieval, path: Path, one: Wanted, digest: str = "") -> InstanceRecord | None:
        """Return what was proved if the file is what storage holds; otherwise None, and the reason is noted."""
        failed = task.result.failed
        head = task.heads.get(one.series_uid)
        known = Known(
            md5=task.on_storage[one.orthanc_id].md5,
            head=predicted_head(head, one.sop_uid) if head else b"",
            sha256=digest if len(digest) == WHOLE_DIGEST else "",
        )
        try:
            verdict = self.verifier.compare(path, one.orthanc_id, known)
        except NotFoundError:
            failed[one.orthanc_id] = Failure("storage no longer holds it")
            return None
        if verdict.head:
            task.heads[one.series_uid] = verdict.head
        if not verdict.is_sound:
            failed[one.orthanc_id] = Failure(f"what came is not what storage holds: {verdict.reason}")
            return None
        at_gateway = self._keep_other(task, path, one, verdict)
        failed.pop(one.orthanc_id, None)
        return InstanceRecord(
            orthanc_id=one.orthanc_id,
            sop_uid=one.sop_uid,
            file=one.file,
            size=verdict.size,
            sha256=verdict.sha256,
            md5=verdict.md5,
            verdict=verdict.kind,
            at_gateway=at_gateway,
        )

    def _keep_other(self, task: _Retrieval, path: Path, one: Wanted, verdict: Verdict) -> bool:
        """Keep the gateway's content in quarantine if it differs from storage's: it was acknowledged too.

        Returns whether the gateway holds the instance at all.
        """
        study, there = task.study, task.on_gateway.get(one.orthanc_id)
        if there is None or there.md5 == verdict.md5:
            return there is not None
        at_gateway, other = self.verifier.at_gateway(path, one.orthanc_id, verdict.md5)
        if other is not None:
            reason = "the gateway holds other content under this UID than storage, which was first there"
            subject = QuarantinedObject(
                "conflict", study.study_uid, reason, study.orthanc_id, one.orthanc_id, one.sop_uid
            )
            self.spool.quarantine.keep(other, subject)
        return at_gateway


def whole_series(study: Study, missing: Set[OrthancId]) -> list[Series]:
    """Return the series that are missing as a whole, up to a bound: a C-MOVE need not name their images."""
    found, count = [], 0
    for one in study.series:
        if one.instances and one.instances <= missing and is_uid(one.series_uid):
            count += len(one.instances)
            if count > _WHOLE_SERIES:
                break
            found.append(one)
    return found


def next_block(study: Study, missing: Set[OrthancId], batch: int) -> list[OrthancId]:
    """Return what one piece of work retrieves: whole series if there are any, else so many instances."""
    whole = [instance for one in whole_series(study, missing) for instance in one.instances]
    return sorted(whole or missing)[: len(whole) or min(batch, MOST_NAMED)]


def _count(series: Iterable[Series]) -> int:
    return sum(len(one.instances) for one in series)
