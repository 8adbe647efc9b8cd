"""Third stage: have ORTHANC2 send what is missing on disk to our SCP by C-MOVE, and take over what came. Runs in worker threads.

The truth is what lies in the spool and proves equal to ORTHANC2's copy; the status of a C-MOVE is only a hint (an Orthanc can
report success with nothing sent). A series of which nothing has come is asked for whole, which costs ORTHANC2 half of what naming
each image does; what of it did not come is asked for by name. What comes is verified while the C-MOVE goes on, and where there is
much to fetch two C-MOVEs go on at once, since each waits for the disk and the peer most of its time. A block that did not
come whole is asked for again in halves, so one bad image never keeps the others back; before one is blamed, an image that is known
to be sound is moved the same way, to prove the way open. Everything here may be interrupted anywhere and done again.
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
from ddwd.core.model import OrthancId, is_uid, safe_component
from ddwd.extractor.quarantine import QuarantinedObject
from ddwd.extractor.spool import WHOLE_DIGEST, digest_of, uid_of
from ddwd.extractor.steps.verify import Known, foretold
from ddwd.extractor.study import Fetched
from ddwd.store.custody import InstanceRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence, Set
    from concurrent.futures import Executor, Future
    from pathlib import Path

    from ddwd.core.model import Series, Study, Wanted
    from ddwd.extractor.quarantine import Quarantine
    from ddwd.extractor.spool import Spool
    from ddwd.extractor.steps.publish import Publisher
    from ddwd.extractor.steps.repair import StorageRepair
    from ddwd.extractor.steps.verify import Verdict, Verifier
    from ddwd.orthanc.port import OrthancPort, Stored

_WHOLE_SERIES = 5000
"""Images that are asked for at once by whole series: more would keep a worker from the other studies for too long."""
_MUCH = 100
"""Images from which on a second C-MOVE is worth its association."""
_PART = 200
"""Images that each of two C-MOVEs at once asks for by name: the smaller, the less one waits for the other at the end."""
_LOOK_SECONDS = 0.1
_Ask = tuple[list[str], list[str]]
"""What one C-MOVE asks for: SeriesInstanceUIDs, or where there are none SOPInstanceUIDs."""


class MoverPort(Protocol):
    """One C-MOVE from ORTHANC2 to our SCP."""

    def move(
        self, study: Study, series_uids: Sequence[str], sop_uids: Sequence[str], arrived: Callable[[], None]
    ) -> Failure | None:
        """Ask for whole series, or where none is named for the instances, and wait for the end.

        Return what the peer answered if it was not success. Calls `arrived` now and then while images come.
        Raises PeerDownError where the peer cannot be spoken to, and what `arrived` raises.
        """

    def scp_answers(self) -> bool:
        """Tell whether our SCP answers a C-ECHO: an image is blamed only while the way is open."""


@dataclass
class _Round:
    """One call of `fetch`: what it is about, what is known of the stored files, and what it has brought so far.

    `lacking` is what still is to come, once it was named; `refused` are the spool files that were no copy of an instance; `touched`
    are the folders whose new names are not durable yet, `doubled` the spool files that have such a name.
    """

    study: Study
    missing: frozenset[OrthancId]
    control: str
    found: Fetched = field(default_factory=Fetched)
    is_open: bool | None = None
    lacking: dict[OrthancId, Wanted] | None = None
    by_name: dict[str, list[Wanted]] = field(default_factory=dict)
    on_storage: dict[OrthancId, Stored] = field(default_factory=dict)
    on_gateway: dict[OrthancId, Stored] = field(default_factory=dict)
    heads: dict[str, bytes] = field(default_factory=dict)
    refused: set[tuple[str, int, OrthancId]] = field(default_factory=set)
    touched: set[Path] = field(default_factory=set)
    doubled: list[Path] = field(default_factory=list)

    @property
    def still_lacking(self) -> list[Wanted]:
        """What has not come yet, by series."""
        return list((self.lacking or {}).values())

    def count(self, kept: InstanceRecord) -> None:
        """One that is staged, and no longer missing."""
        self.found.kept.append(kept)
        (self.lacking or {}).pop(kept.orthanc_id, None)


class Retriever:
    """Fetches, verifies and stages instances of one study at a time; safe to use from several threads."""

    def __init__(
        self,
        spool: Spool,
        nodes: tuple[OrthancPort, OrthancPort],
        mover: MoverPort,
        verifier: Verifier,
        publisher: Publisher,
        quarantine: Quarantine,
        repair: StorageRepair,
    ) -> None:
        self._spool = spool
        self._gateway, self._storage = nodes
        self._mover = mover
        self._verifier = verifier
        self._publisher = publisher
        self._output = spool.output
        self._quarantine = quarantine
        self._repair = repair
        self._second = threading.Semaphore()
        """One study at a time has a second C-MOVE, so that ORTHANC2 keeps threads for others that speak to it."""

    def fetch(self, study: Study, missing: Iterable[OrthancId], control: str = "") -> Fetched:
        """Bring the instances from ORTHANC2 to staging; first looks at what is already on this disk.

        `control` is the SOPInstanceUID of an image of the study that came before, if there is one. What is left out of the answer has
        neither come nor failed: it is for the next call. Raises PeerDownError, StorageFullError and OSError; what was staged before
        stays staged.
        """
        this = _Round(study, frozenset(missing), control)
        self._bring(this)
        return this.found

    def _bring(self, this: _Round) -> None:
        if self._has_leftovers(this.study):
            self._take_over(this)
        if self._ask_for_series(this):
            return
        self._take_over(this)
        if lacking := this.still_lacking[:MOST_NAMED]:
            self._ask(this, lacking)

    def _has_leftovers(self, study: Study) -> bool:
        """Whether anything of the study may be on this disk already."""
        folders = (
            self._spool.folder(study),
            self._publisher.staged(study.orthanc_id, ""),
            self._output.final(study, ""),
        )
        return any(folder.is_dir() for folder in folders)

    def _ask_for_series(self, this: _Round) -> bool:
        """Ask for the series that lack whole; whether anything came of them, and the rest is for the next call."""
        lacking = this.missing if this.lacking is None else this.lacking.keys()
        series = whole_series(this.study, lacking)
        if not series:
            return False
        before = len(this.found.kept)
        if _count(series) >= _MUCH and self._second.acquire(blocking=False):
            try:
                self._move_beside(this, deque(self._halves(this, series)))
            finally:
                self._second.release()
        else:
            uids = [one.series_uid for one in series]
            self._mover.move(this.study, uids, [], lambda: self._take_over(this))
        self._take_over(this)
        if len(this.found.kept) == before:
            return False
        this.found.failed.clear()  # asked for by name before they count as failed
        return True

    def _halves(self, this: _Round, series: list[Series]) -> list[_Ask]:
        """Whole series in two parts of about the same size, or where one series is nearly all, its images by name."""
        parts: tuple[list[Series], list[Series]] = ([], [])
        for one in sorted(series, key=lambda one: len(one.instances), reverse=True):
            min(parts, key=_count).append(one)
        if _count(parts[0]) <= 2 * _count(parts[1]):
            return [([one.series_uid for one in part], []) for part in parts]
        instances = frozenset().union(*(one.instances for one in series))
        names = [one.sop_uid for one in self._name(this).values() if one.orthanc_id in instances]
        return [([], names[start : start + _PART]) for start in range(0, len(names), _PART)]

    def _move_beside(self, this: _Round, asks: deque[_Ask]) -> None:
        """Work off what is to be asked for by two C-MOVEs at once; the calling thread verifies what both bring."""
        with ThreadPoolExecutor(1, thread_name_prefix="ddwd-retrieve-second") as second:
            other = second.submit(self._move_all, this.study, asks, lambda: None)
            try:
                self._move_all(this.study, asks, lambda: self._take_over(this))
                while wait([other], _LOOK_SECONDS).not_done:
                    self._take_over(this)
            finally:
                asks.clear()
                while wait([other], _LOOK_SECONDS).not_done:
                    watchdog.alive()
            other.result()

    def _move_all(self, study: Study, asks: deque[_Ask], arrived: Callable[[], None]) -> None:
        while asks:
            try:
                series_uids, sop_uids = asks.popleft()
            except IndexError:  # the other was quicker
                return
            self._mover.move(study, series_uids, sop_uids, arrived)

    def _settle(self, this: _Round) -> None:
        """Make the names of what was staged durable, then remove the old ones: before anyone hears that it is there."""
        for folder in this.touched:
            durable.fsync_dir(folder, self._spool.below)
        for path in this.doubled:
            durable.unlink(path, self._spool.below)
        this.touched.clear()
        this.doubled.clear()

    def _name(self, this: _Round) -> dict[OrthancId, Wanted]:
        """Ask both Orthancs, once, for UIDs and digests; instances that are gone from storage are left out."""
        if this.lacking is not None:
            return this.lacking
        study = this.study
        this.on_storage = self._storage.stored(study, this.missing)
        uids = {one: stored.sop_uid for one, stored in this.on_storage.items()}
        this.on_gateway = self._gateway.stored(study, uids, uids)
        wanted = sorted(
            (study.wanted(one, uid) for one, uid in uids.items()),
            key=lambda one: (one.series_uid, one.sop_uid),
        )
        for one in wanted:
            this.by_name.setdefault(safe_component(one.sop_uid), []).append(one)
        this.lacking = {one.orthanc_id: one for one in wanted}
        self._take_back(this)
        return this.lacking

    def _ask(self, this: _Round, block: list[Wanted]) -> None:
        refusal = self._mover.move(
            this.study, [], [one.sop_uid for one in block], lambda: self._take_over(this)
        )
        self._take_over(this)
        lacking = [one for one in block if one.orthanc_id in self._name(this)]
        if not lacking:
            return
        if len(lacking) == len(block) and not self._mover.scp_answers():
            raise PeerDownError("the SCP does not answer, so ORTHANC2 cannot deliver")
        if len(block) == 1:
            self._note_failure(this, lacking[0], refusal)
            return
        half = (len(lacking) + 1) // 2
        for part in (lacking[:half], lacking[half:]):
            if part:
                self._ask(this, part)

    def _note_failure(self, this: _Round, one: Wanted, refusal: Failure | None) -> None:
        if self._repair.repair(this.study.study_uid, one.orthanc_id):
            why = Failure("storage had lost its file; the gateway sends it again")
            this.found.failed[one.orthanc_id] = why
            return
        why = refusal or Failure("ORTHANC2 reported success, and no sound file came")
        this.found.failed.setdefault(one.orthanc_id, why)
        if this.is_open is None:
            this.is_open = self._is_open(this)
        if this.is_open:
            this.found.blamed.add(one.orthanc_id)

    def _is_open(self, this: _Round) -> bool:
        """Move an image that is known to be sound; whether it came."""
        if not this.control:
            return False
        before = self._arrivals(this)
        self._mover.move(this.study, [], [this.control], watchdog.alive)
        return bool(self._arrivals(this) - before)

    def _arrivals(self, this: _Round) -> set[int]:
        """Inodes of the control's spool files: the same content coming again is a new file under the old name."""
        control = safe_component(this.control)
        return {path.stat().st_ino for path in self._spool.files(this.study) if uid_of(path) == control}

    def _take_back(self, this: _Round) -> None:
        """Count what an earlier round staged, or what is published although no record says so."""
        study = this.study
        if not (
            self._publisher.staged(study.orthanc_id, "").is_dir() or self._output.final(study, "").is_dir()
        ):
            return
        for one in this.still_lacking:
            watchdog.alive()
            for path in (
                self._publisher.staged(study.orthanc_id, one.file),
                self._output.final(study, one.file),
            ):
                if path.exists() and (kept := self._compare(this, path, one)):
                    this.touched.add(path.parent)
                    this.count(kept)
                    break
        self._settle(this)

    def _take_over(self, this: _Round) -> None:
        """Verify and stage what has come."""
        lacking = self._name(this)
        for path in self._spool.files(this.study):
            for one in this.by_name.get(uid_of(path), ()):
                if one.orthanc_id not in lacking:
                    continue
                watchdog.alive()
                if self._take_over_one(this, path, one):
                    break
        self._settle(this)

    def _take_over_one(self, this: _Round, path: Path, one: Wanted) -> bool:
        try:
            attempt = path.name, path.stat().st_ino, one.orthanc_id
            if attempt in this.refused:
                return False
            kept = self._compare(this, path, one, digest_of(path))
            if kept is None:
                this.refused.add(attempt)
                return False
            this.touched.add(self._publisher.stage(path, this.study.orthanc_id, one).parent)
        except FileNotFoundError:  # taken over for a namesake in flight, under another patient
            return False
        this.doubled.append(path)
        this.count(kept)
        return True

    def _compare(self, this: _Round, path: Path, one: Wanted, digest: str = "") -> InstanceRecord | None:
        """What was proved where the file is what storage holds; otherwise None, and the reason is noted."""
        failed = this.found.failed
        try:
            verdict = self._verifier.compare(path, one.orthanc_id, _known(this, one, digest))
        except NotFoundError:
            failed[one.orthanc_id] = Failure("storage no longer holds it")
            return None
        if verdict.head:
            this.heads[one.series_uid] = verdict.head
        if not verdict.is_sound:
            failed[one.orthanc_id] = Failure(f"what came is not what storage holds: {verdict.reason}")
            return None
        at_gateway = self._keep_other(this, path, one, verdict)
        failed.pop(one.orthanc_id, None)
        return _kept(one, verdict, at_gateway=at_gateway)

    def _keep_other(self, this: _Round, path: Path, one: Wanted, verdict: Verdict) -> bool:
        """Where the gateway holds other content than storage, it was acknowledged too: it is kept in quarantine.

        Whether the gateway holds the instance at all.
        """
        study, there = this.study, this.on_gateway.get(one.orthanc_id)
        if there is None or there.md5 == verdict.md5:
            return there is not None
        at_gateway, other = self._verifier.at_gateway(path, one.orthanc_id, verdict.md5)
        if other is not None:
            reason = "the gateway holds other content under this UID than storage, which was first there"
            self._quarantine.keep(
                other,
                QuarantinedObject(
                    "conflict", study.study_uid, reason, study.orthanc_id, one.orthanc_id, one.sop_uid
                ),
            )
        return at_gateway


class RetrieveStep:
    """Starts the retrieval of a study's missing images in a worker."""

    def __init__(self, retriever: Retriever, executor: Executor, batch: int) -> None:
        """`batch` is how many images one piece of work fetches by name at most."""
        self._retriever = retriever
        self._executor = executor
        self._batch = batch

    def start(self, study: Study, missing: frozenset[OrthancId], control: str) -> Future[Fetched]:
        """Return the work that retrieves a block of the missing images; `control`: see Retriever.fetch."""
        block = next_block(study, missing, self._batch)
        return self._executor.submit(self._retriever.fetch, study, block, control)


def whole_series(study: Study, lacking: Set[OrthancId]) -> list[Series]:
    """The series of the study that lack whole, up to a bound; what a C-MOVE asks for without naming each image."""
    found, count = [], 0
    for one in study.series:
        if one.instances and one.instances <= lacking and is_uid(one.series_uid):
            count += len(one.instances)
            if count > _WHOLE_SERIES:
                break
            found.append(one)
    return found


def next_block(study: Study, lacking: Set[OrthancId], batch: int) -> list[OrthancId]:
    """What one piece of work fetches: whole series if there are any, else so many instances."""
    whole = [instance for one in whole_series(study, lacking) for instance in one.instances]
    return sorted(whole or lacking)[: len(whole) or min(batch, MOST_NAMED)]


def _count(series: Iterable[Series]) -> int:
    return sum(len(one.instances) for one in series)


def _known(this: _Round, one: Wanted, digest: str) -> Known:
    stored, head = this.on_storage[one.orthanc_id], this.heads.get(one.series_uid)
    return Known(
        stored.md5,
        foretold(head, one.sop_uid) if head else b"",
        digest if len(digest) == WHOLE_DIGEST else "",
    )


def _kept(one: Wanted, verdict: Verdict, *, at_gateway: bool) -> InstanceRecord:
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
