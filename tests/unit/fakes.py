"""Fakes at the ports: two Orthancs, the C-MOVE between storage and the SCP's spool, the clock.

They behave like the real ones where the portal depends on it (tests/integration holds them against the real Orthanc), and
lose things on demand. No fake stands for code of our own.
"""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from ddwd.core import durable
from ddwd.core.disk_space import Space
from ddwd.core.errors import Failure, ImageRefusedError, NotFoundError, PeerDownError, PeerRefusedError
from ddwd.core.model import OrthancId, Series, Study, marked_component
from ddwd.orthanc.port import Change, ChangePage, Held, Job, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ddwd.orthanc.port import FileContent


class FakeClock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._start = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.now

    def utc(self) -> datetime:
        return self._start + timedelta(seconds=self.now - 1000.0)

    def advance(self, seconds: float) -> None:
        self.now += seconds


def orthanc_id(*identifiers: str) -> OrthancId:
    """Orthanc's own way: SHA-1 of the identifiers joined by a bar, in five groups."""
    digest = hashlib.sha1("|".join(identifiers).encode(), usedforsecurity=False).hexdigest()
    return OrthancId("-".join(digest[i : i + 8] for i in range(0, 40, 8)))


@dataclass(frozen=True)
class Image:
    """One made-up instance as a Part 10 file."""

    patient_id: str
    study_uid: str
    series_uid: str
    sop_uid: str
    content: bytes
    accession: str = ""

    @property
    def study_id(self) -> OrthancId:
        return orthanc_id(self.patient_id, self.study_uid)

    @property
    def series_id(self) -> OrthancId:
        return orthanc_id(self.patient_id, self.study_uid, self.series_uid)

    @property
    def orthanc_id(self) -> OrthancId:
        return orthanc_id(self.patient_id, self.study_uid, self.series_uid, self.sop_uid)


def image(
    study: int = 1,
    number: int = 1,
    *,
    patient: str = "PAT1",
    series: int = 1,
    pixels: bytes = b"",
    accession: str = "",
) -> Image:
    """Make one CT image; the same arguments give the same bytes."""
    data = Dataset()
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = f"1.2.3.{study}.{series}.{number}"
    data.PatientID = patient
    data.StudyInstanceUID = f"1.2.3.{study}"
    data.SeriesInstanceUID = f"1.2.3.{study}.{series}"
    data.InstanceNumber = number
    data.Modality = "CT"
    if accession:
        data.AccessionNumber = accession
    data.PixelData = pixels or bytes([number % 256] * 64)
    data["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta = meta
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return Image(
        patient,
        data.StudyInstanceUID,
        data.SeriesInstanceUID,
        data.SOPInstanceUID,
        buffer.getvalue(),
        accession,
    )


def read_image(content: bytes) -> Image | None:
    """Read a Part 10 file again; None if it is none."""
    try:
        data = dcmread(io.BytesIO(content))
    except InvalidDicomError:
        return None
    return Image(
        str(data.PatientID),
        str(data.StudyInstanceUID),
        str(data.SeriesInstanceUID),
        str(data.SOPInstanceUID),
        content,
        str(data.get("AccessionNumber", "")),
    )


class Content(io.BytesIO):
    """A file on its way."""

    def __len__(self) -> int:
        return len(self.getbuffer())


@dataclass
class FakeOrthanc:
    """An Orthanc in memory: changes, sets, digests, STOW to another fake."""

    name: str
    clock: FakeClock
    peer: FakeOrthanc | None = None
    down: bool = False
    images: dict[OrthancId, Image] = field(default_factory=dict)
    rows: list[Change] = field(default_factory=list)
    stowed: list[list[OrthancId]] = field(default_factory=list)
    priorities: list[int] = field(default_factory=list)
    lose_jobs: bool = False
    unsendable: set[OrthancId] = field(default_factory=set)
    fileless: set[OrthancId] = field(default_factory=set)
    refused: set[OrthancId] = field(default_factory=set)
    is_failing: bool = False
    """Whether it answers each file by its REST interface with an error that is not about the file."""
    offered: list[OrthancId] = field(default_factory=list)
    by_rest: set[OrthancId] = field(default_factory=set)
    routes: dict[OrthancId, str] = field(default_factory=dict)
    remembered: dict[str, Job] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    _seq: int = 0
    _told: set[OrthancId] = field(default_factory=set)

    def store(self, *images: Image) -> None:
        """Receive instances, as by C-STORE or STOW; one that is known changes nothing."""
        for one in images:
            if one.orthanc_id in self.images:
                continue
            self._note("NewInstance", "Instance", one.orthanc_id)
            for kind, level, parent in (
                ("NewSeries", "Series", one.series_id),
                ("NewStudy", "Study", one.study_id),
            ):
                if parent not in self._told:
                    self._told.add(parent)
                    self._note(kind, level, parent)
            self.images[one.orthanc_id] = one

    def settle(self, study: OrthancId) -> None:
        """Write the StableStudy row."""
        self._note("StableStudy", "Study", study)

    def delete_study(self, study: OrthancId) -> None:
        """Forget a study, its changes included."""
        gone = [one for one in self.images.values() if one.study_id == study]
        parents = {study, *(one.series_id for one in gone)}
        rowless = parents | {one.orthanc_id for one in gone}
        self.rows = [row for row in self.rows if row.orthanc_id not in rowless]
        self._told -= parents
        for one in gone:
            del self.images[one.orthanc_id]

    def restore(self, rows: int) -> None:
        """The changes as they were so many rows ago, the counter too."""
        del self.rows[-rows:]
        self._seq = self.rows[-1].seq

    def _note(self, kind: str, level: str, one: OrthancId) -> None:
        self._seq += 1
        self.rows.append(Change(self._seq, kind, level, one))

    def _answer(self) -> None:
        if self.down:
            raise PeerDownError(f"{self.name} does not answer")

    def changes(self, since: int, limit: int) -> ChangePage:
        self._answer()
        rows = [row for row in self.rows if row.seq > since]
        page = tuple(rows[:limit])
        return ChangePage(page, len(rows) <= limit, page[-1].seq if page else self.last_seq())

    def last_seq(self) -> int:
        self._answer()
        return self._seq

    def study_ids(self) -> Iterator[OrthancId]:
        self._answer()
        yield from sorted({one.study_id for one in self.images.values()})

    def study_page(self, since: int, limit: int) -> list[OrthancId]:
        return list(self.study_ids())[since : since + limit]

    def instances(self, studies: Sequence[OrthancId]) -> dict[OrthancId, frozenset[OrthancId]]:
        self._answer()
        listed = ((study, self.study(study)) for study in studies)
        return {study: found.ids for study, found in listed if found is not None}

    def study_of(self, level: str, orthanc_id: OrthancId) -> OrthancId | None:
        self._answer()
        for one in self.images.values():
            if orthanc_id == (one.orthanc_id if level == "Instance" else one.series_id):
                return one.study_id
        return None

    def study(self, orthanc_id: OrthancId) -> Study | None:
        self._answer()
        mine = [one for one in self.images.values() if one.study_id == orthanc_id]
        if not mine:
            return None
        series: dict[OrthancId, list[Image]] = {}
        for one in mine:
            series.setdefault(one.series_id, []).append(one)
        return Study(
            orthanc_id,
            mine[0].study_uid,
            mine[0].patient_id,
            mine[0].accession,
            tuple(
                Series(
                    key,
                    some[0].series_uid,
                    frozenset(one.orthanc_id for one in some),
                    {"Modality": "CT"},
                )
                for key, some in series.items()
            ),
            self.tags,
        )

    def find_study(self, text: str) -> list[OrthancId]:
        self._answer()
        return sorted({one.study_id for one in self.images.values() if one.study_uid == text})

    def find_accession(self, text: str) -> list[OrthancId]:
        self._answer()
        if not text.strip("*?\\"):
            return []
        return sorted({one.study_id for one in self.images.values() if one.accession.strip(" \0") == text})

    def find_patient(self, text: str) -> list[OrthancId]:
        self._answer()
        if not text.strip("*?\\"):
            return []
        return sorted({one.study_id for one in self.images.values() if one.patient_id.strip(" \0") == text})

    def sop_uids(self, instances: Iterable[OrthancId]) -> dict[OrthancId, str]:
        self._answer()
        return {one: self.images[one].sop_uid for one in instances if one in self.images}

    def stored(
        self, study: Study, instances: Iterable[OrthancId], sop_uids: Mapping[OrthancId, str] | None = None
    ) -> dict[OrthancId, Stored]:
        self._answer()
        return {
            one: Stored(self.images[one].sop_uid, self.md5(one))
            for one in instances
            if one in self.images and one in study.ids
        }

    def find_images(self, sop_uids: Iterable[str]) -> list[Held]:
        self._answer()
        return [
            Held(one.orthanc_id, one.series_id, one.sop_uid, CTImageStorage)
            for one in self.images.values()
            if one.sop_uid in set(sop_uids)
        ]

    def sender(self, instance: OrthancId) -> str:
        self._answer()
        return "CT1" if instance in self.images and self.name == "gateway" else ""

    def route(self, study: OrthancId) -> str | None:
        self._answer()
        return self.routes.get(study)

    def routes_of(self, studies: Sequence[OrthancId]) -> dict[OrthancId, str]:
        self._answer()
        return {study: self.routes[study] for study in studies if study in self.routes}

    def set_route(self, study: OrthancId, name: str) -> None:
        self._answer()
        self.routes[study] = name

    def first_image(self, study: OrthancId) -> dict[str, str]:
        self._answer()
        for one in self.images.values():
            if one.study_id == study:
                tags = {"PatientID": one.patient_id, "StudyInstanceUID": one.study_uid, **self.tags}
                return tags | {"CallingAET": self.sender(one.orthanc_id)}
        raise NotFoundError(f"{self.name}: the study is gone")

    def md5(self, instance: OrthancId) -> str:
        self._answer()
        if instance not in self.images:
            raise NotFoundError(f"{self.name}: not found")
        return hashlib.md5(self.images[instance].content, usedforsecurity=False).hexdigest()

    def head(self, instance: OrthancId, length: int) -> bytes:
        return self.file(instance)[:length]

    def file(self, instance: OrthancId) -> bytes:
        self._answer()
        if instance not in self.images:
            raise NotFoundError(f"{self.name}: not found")
        if instance in self.fileless:
            raise PeerRefusedError(f"{self.name}: the file is not there")
        return self.images[instance].content

    def stream(self, instance: OrthancId) -> FileContent:
        return Content(self.file(instance))

    def receive(self, content: FileContent) -> OrthancId:
        self._answer()
        one = read_image(content.read(len(content)))
        self.offered += [one.orthanc_id] if one else []
        if self.is_failing:
            raise PeerRefusedError(f"{self.name}: HTTP 500 for /instances", 500, "HTTP 500")
        if one is None or one.orthanc_id in self.refused:
            raise ImageRefusedError(f"{self.name}: HTTP 400 for /instances: Bad file format", 15, "HTTP 400")
        if one.orthanc_id not in self.images:
            self.by_rest.add(one.orthanc_id)
        self.store(one)
        return one.orthanc_id

    def received(self, study: OrthancId) -> frozenset[OrthancId]:
        self._answer()
        return frozenset(
            one for one in self.by_rest & self.images.keys() if self.images[one].study_id == study
        )

    def is_whole(self, instance: OrthancId) -> bool:
        self.md5(instance)
        return instance not in self.fileless

    def forget(self, instance: OrthancId) -> None:
        self._answer()
        self.fileless.discard(instance)
        if (gone := self.images.pop(instance, None)) is None:
            return
        # what has nothing in it any more is deleted too
        left = {parent for one in self.images.values() for parent in (one.series_id, one.study_id)}
        deleted = {instance, gone.series_id, gone.study_id} - left
        self.rows = [row for row in self.rows if row.orthanc_id not in deleted]
        self._told -= deleted

    def stow(self, server: str, resources: Iterable[OrthancId], priority: int = 0) -> str:
        self._answer()
        assert server == "storage"
        block = list(resources)
        self.stowed.append(block)
        self.priorities.append(priority)
        if not self.fileless.isdisjoint(block):  # one file that cannot be read ends the whole request
            block = []
        block = [one for one in block if one not in self.unsendable]
        if self.peer is not None and not self.peer.down and not self.lose_jobs:
            self.peer.store(*(self.images[one] for one in block if one in self.images))
        return f"job{len(self.stowed)}"

    def jobs(self) -> dict[str, Job]:
        self._answer()
        return dict(self.remembered)

    def job(self, job_id: str) -> Job | None:
        self._answer()
        return self.remembered.get(job_id)


class FakeDisk:
    """A volume for each path; 100 GiB each with 50 GiB free until told otherwise."""

    def __init__(self) -> None:
        self.free: dict[str, int] = {}
        self.default = 50 * 1024**3
        self.read_only: set[str] = set()

    def measure(self, path: Path) -> Space:
        free = self.free.get(path.name, self.default)
        is_read_only = path.name in self.read_only
        return Space(hash(path), free, 100 * 1024**3, 1_000_000, 2_000_000, is_read_only)


class PowerCut(BaseException):
    """Not an Exception: nothing may catch it and carry on."""


def power_cut(steps: int, work: Callable[[], object]) -> bool:
    """Do `work` and cut the power after so many durable steps; False where it ended before."""
    left = steps

    def cut(_name: str, _path: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise PowerCut

    return _with_step(cut, work, PowerCut)


def one_error(steps: int, error: Exception, work: Callable[[], object]) -> bool:
    """Do `work` and let the one durable step after so many fail with `error`; False where it ended before.

    The portal carries on, so the error need not come out of `work`.
    """
    left = steps

    def fail(_name: str, _path: Path) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise error

    return _with_step(fail, work, type(error)) or left < 0


def count_steps(work: Callable[[], object]) -> int:
    """Do `work` and count its durable steps."""
    total = 0

    def count(_name: str, _path: Path) -> None:
        nonlocal total
        total += 1

    _with_step(count, work, PowerCut)
    return total


def _with_step(
    step: Callable[[str, Path], None], work: Callable[[], object], expected: type[BaseException]
) -> bool:
    usual, durable.step = durable.step, step
    try:
        work()
    except expected:
        return True
    finally:
        durable.step = usual
    return False


@dataclass
class FakeMover:
    """C-MOVE from the storage fake into the spool folder, as the SCP would leave it there."""

    storage: FakeOrthanc
    spool: Path
    poisoned: set[str] = field(default_factory=set)
    scp_up: bool = True
    broken: bool = False
    lies: bool = False
    moved: list[list[str]] = field(default_factory=list)

    def move(
        self, study: Study, series_uids: Sequence[str], sop_uids: Sequence[str], arrived: Callable[[], None]
    ) -> Failure | None:
        if self.storage.down:
            raise PeerDownError("storage does not answer")
        asked = [
            one
            for one in list(self.storage.images.values())
            if one.study_uid == study.study_uid
            and (one.series_uid in series_uids if series_uids else one.sop_uid in sop_uids)
        ]
        self.moved.append(sorted({one.sop_uid for one in asked}))
        for one in [] if self.lies else asked:
            arrived()
            if not self.scp_up:
                return Failure("0xA702: unable to perform sub-operations", "0xA702")
            if self.broken or one.sop_uid in self.poisoned or one.orthanc_id in self.storage.fileless:
                return Failure("0xC000: unable to process", "0xC000")
            spool(self.spool, one)
        return None

    def scp_answers(self) -> bool:
        return self.scp_up


def spool(folder: Path, received: Image) -> Path:
    """Leave `received` in the spool under its content's name."""
    digest = hashlib.sha256(received.content).hexdigest()
    target = (
        folder / marked_component(received.study_uid) / f"{marked_component(received.sop_uid)}.{digest}.dcm"
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    arriving = target.with_suffix(".part")
    arriving.write_bytes(received.content)
    arriving.replace(target)
    return target


class InlineExecutor(Executor):
    """Runs work at once, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - it is the future's to raise
            future.set_exception(error)
        return future
