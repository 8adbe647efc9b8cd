"""The port to an Orthanc: its values, and its methods in slices.

The extractor, retention and delivery use `OrthancPort`; a part that needs less takes a slice, so that a test needs a small fake.
Unit tests put a fake behind `OrthancPort`; tests/integration/test_orthanc_port.py compares it with a real Orthanc.
Every method raises PeerDownError if there is no answer, and PeerRefusedError if the answer is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from ddwd.core.model import OrthancId, Study


@dataclass(frozen=True, slots=True)
class Change:
    """One row of `/changes`: `seq` rises with time, `kind` is Orthanc's ChangeType."""

    seq: int
    kind: str
    level: str
    orthanc_id: OrthancId


@dataclass(frozen=True, slots=True)
class ChangePage:
    """One page of `/changes`, oldest first; `done` if it is the last page, `last` is its newest seq."""

    changes: tuple[Change, ...]
    done: bool
    last: int


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored object in Orthanc's index: its SOPInstanceUID and the MD5 of its file."""

    sop_uid: str
    md5: str


@dataclass(frozen=True, slots=True)
class Held:
    """One stored object, found by its SOPInstanceUID; `series` is the Orthanc ID of its series."""

    orthanc_id: OrthancId
    series: OrthancId
    sop_uid: str
    sop_class: str


@dataclass(frozen=True, slots=True)
class Job:
    """One job of Orthanc's engine; `state` is Pending, Running, Success, Failure, Paused or Retry.

    `progress` is in percent, `age` the seconds since it was submitted.
    """

    job_id: str
    state: str
    kind: str
    error: str
    progress: int = 0
    age: float = field(default=0.0, compare=False)

    @property
    def in_flight(self) -> bool:
        """Whether the job has not ended."""
        return self.state in {"Pending", "Running", "Paused", "Retry"}


class ServerStatus(Protocol):
    """Requests of the status."""

    def system(self) -> dict[str, Any]:
        """Return `/system`: version, AE title, database."""

    def statistics(self) -> dict[str, Any]:
        """Return `/statistics`: counts of studies and instances, disk size in bytes (strings of digits)."""


class ServerChecks(Protocol):
    """Requests of the doctor."""

    name: str

    def system(self) -> dict[str, Any]:
        """Return `/system`."""

    def plugins(self) -> list[str]:
        """Return the names of the plugins that are loaded."""

    def now(self) -> datetime:
        """Return the server's clock, UTC, to the second."""

    def reaches(self, server: str) -> None:
        """Have the Orthanc query one of its DICOMweb servers, which changes nothing there."""

    def echoes(self, modality: str) -> None:
        """Have the Orthanc C-ECHO one of its modalities."""


class ChangeLog(Protocol):
    """The log of changes."""

    def changes(self, since: int, limit: int) -> ChangePage:
        """Return the rows of `/changes` with seq above `since`."""

    def last_seq(self) -> int:
        """Return the newest seq of `/changes` that was ever given, whether or not its row is still there.

        If it is below a remembered cursor, the database was reset or restored.
        """


class StudyIndex(Protocol):
    """Studies and their instance sets."""

    def study_ids(self) -> Iterator[OrthancId]:
        """Yield every study, in Orthanc's order."""

    def study_page(self, since: int, limit: int) -> list[OrthancId]:
        """Return `limit` studies, from the one at `since` (from 0) on; fewer at the end."""

    def study(self, orthanc_id: OrthancId) -> Study | None:
        """Return the study with its instance sets, or None if it is not known."""

    def instances(self, studies: Sequence[OrthancId]) -> dict[OrthancId, frozenset[OrthancId]]:
        """Return the instances of each of these studies, in one request; studies that are not known are omitted."""


class StudySearch(Protocol):
    """Studies by an identifier that people use."""

    def find_study(self, text: str) -> list[OrthancId]:
        """Return the studies that have this StudyInstanceUID; one for each patient it is known under."""

    def find_accession(self, text: str) -> list[OrthancId]:
        """Return the studies that have exactly this accession number; none for one of wildcards (`*`, `?`, a backslash) alone."""

    def find_patient(self, text: str) -> list[OrthancId]:
        """Return the studies that have exactly this PatientID; none for one of wildcards alone."""


class ImageIndex(Protocol):
    """Instances: their UIDs, digests and parents."""

    def study_of(self, level: str, orthanc_id: OrthancId) -> OrthancId | None:
        """Return the study above a series or instance, or None if it is gone."""

    def sop_uids(self, instances: Iterable[OrthancId]) -> dict[OrthancId, str]:
        """Return the SOPInstanceUID of each instance; instances that are gone are omitted."""

    def stored(
        self, study: Study, instances: Iterable[OrthancId], sop_uids: Mapping[OrthancId, str] | None = None
    ) -> dict[OrthancId, Stored]:
        """Return SOPInstanceUID and MD5 of instances of the study; instances that are missing are omitted.

        `sop_uids`, if known already, are those of the other Orthanc's copies.
        """

    def find_images(self, sop_uids: Iterable[str]) -> list[Held]:
        """Return what is stored under these SOPInstanceUIDs: one for each patient, study and series that it is known in."""


class FileContent(Protocol):
    """A stored file on its way from one Orthanc to another: read piece by piece, since it may have gigabytes."""

    def __len__(self) -> int:
        """Return the size of the file in bytes."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield the rest of the file in pieces."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; none at the end. Raises PeerDownError."""

    def close(self) -> None:
        """Stop reading."""


class ImageFiles(Protocol):
    """Stored files. NotFoundError if the instance is gone."""

    def md5(self, instance: OrthancId) -> str:
        """Return Orthanc's own MD5 of the stored file."""

    def head(self, instance: OrthancId, length: int) -> bytes:
        """Return the first `length` bytes of the stored file."""

    def file(self, instance: OrthancId) -> bytes:
        """Return the whole stored file, as stored."""

    def is_whole(self, instance: OrthancId) -> bool:
        """Return whether the stored file is there, with the MD5 it came with."""


class FileTransfer(Protocol):
    """Files from one Orthanc's REST interface to another's."""

    def stream(self, instance: OrthancId) -> FileContent:
        """Return the stored file, as stored, to be read and closed. NotFoundError if the instance is gone."""

    def receive(self, content: FileContent) -> OrthancId:
        """Store a file; return the Orthanc ID it has there. Raises ImageRefusedError if this very file is not taken."""

    def received(self, study: OrthancId) -> frozenset[OrthancId]:
        """Return the images of the study that came by `receive`, and not from any other client; none if the study is gone."""


class Routing(Protocol):
    """The tags that decide the route of a study, and the route itself, which is kept in its metadata."""

    def sender(self, instance: OrthancId) -> str:
        """Return the calling AE title of the association that brought the instance; empty if it came otherwise or is gone."""

    def route(self, study: OrthancId) -> str | None:
        """Return the route in the study's metadata; None if it was not decided, or the study is gone."""

    def routes_of(self, studies: Sequence[OrthancId]) -> dict[OrthancId, str]:
        """Return the route of each of these studies, in one request; studies without one, or gone, are omitted."""

    def set_route(self, study: OrthancId, name: str) -> None:
        """Write the route into the study's metadata."""

    def first_image(self, study: OrthancId) -> dict[str, str]:
        """Return what routes match: tags of the image that came first, and its sender as `CallingAET`. NotFoundError if it is gone."""


class Deletion(Protocol):
    """Deletes; something that is gone already is no error."""

    def forget(self, instance: OrthancId) -> None:
        """Delete the instance. Callers: repair and retention only."""

    def delete_study(self, study: OrthancId) -> None:
        """Delete a whole study. Caller: the self test only."""


class StowJobs(Protocol):
    """Jobs that send by STOW-RS, and the state of every job."""

    def stow(self, server: str, resources: Iterable[OrthancId], priority: int = 0) -> str:
        """Submit an asynchronous STOW-RS job that sends the resources to a DICOMweb server; return its job ID."""

    def jobs(self) -> dict[str, Job]:
        """Return the jobs that Orthanc still remembers."""

    def job(self, job_id: str) -> Job | None:
        """Return one job, or None if Orthanc does not remember it (any more)."""


class DeliveryJobs(Protocol):
    """Requests of delivery to the gateway; PeerRefusedError and NotFoundError also for errors of the destination."""

    def stow(self, server: str, resources: Iterable[OrthancId], priority: int = 0) -> str:
        """Submit a job that sends by STOW-RS; return its job ID."""

    def store(self, modality: str, instances: Iterable[OrthancId], priority: int = 0) -> str:
        """Submit a job that sends by C-STORE, and fails at the first image that is refused; return its job ID."""

    def search(self, server: str, uri: str, arguments: Mapping[str, str]) -> list[dict[str, Any]]:
        """Query one of the gateway's DICOMweb servers by QIDO-RS; return DICOM JSON."""

    def echoes(self, modality: str) -> None:
        """C-ECHO one of the gateway's modalities."""


class ImageProofs(ImageIndex, ImageFiles, Protocol):
    """Proofs that an image is stored: for storage commitment."""


class SelfTestStudies(StudySearch, Deletion, Protocol):
    """Find and delete the study of the self test."""


class OrthancPort(
    ChangeLog,
    StudyIndex,
    StudySearch,
    ImageIndex,
    ImageFiles,
    FileTransfer,
    Routing,
    Deletion,
    StowJobs,
    Protocol,
):
    """Requests of the extractor, retention and delivery."""

    name: str
