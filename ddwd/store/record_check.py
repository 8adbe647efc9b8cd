"""Compare the published files in OUTPUT_DIR with the custody records, for `ddwd verify`.

Reads the records and the published files, writes no file and queries no server. The extractor may publish meanwhile: if a file
differs and the record has changed since it was read, the study is compared once more with the newer record.
Findings name the StudyInstanceUID and the file below the study's folder, never the folder itself, which begins with the PatientID.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from ddwd.config.paths import Paths
from ddwd.core import watchdog
from ddwd.core.errors import StateError
from ddwd.core.model import PADDING, OrthancId
from ddwd.store.custody import FORMAT, Custody, InstanceRecord, Record

Kind = Literal["missing", "changed", "extra", "differs", "gone"]
"""`differs` and `gone` are about the second copy of an image (see RecordChecker)."""

SecondCheck = Callable[[Path, "InstanceRecord"], tuple[Kind, str] | None]

_ORTHANC_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_CHUNK = 1024 * 1024
_GONE = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class FileDifference:
    """One file that is not as recorded; `file` is below the study's folder, `sop_uid` is empty if no record names the file."""

    kind: Kind
    study_uid: str
    file: str
    sop_uid: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DamagedRecord:
    """One custody record that cannot be used, and why."""

    study: OrthancId
    reason: str


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """One custody record as it was compared: the SHA-256 of what is stored, and when the study was published last (UTC stamp)."""

    sha256: str
    study_uid: str
    published_at: str


@dataclass(slots=True)
class CheckResult:
    """The number of compared studies and of the images in their records, and the differences.

    `removed` counts the images whose files retention removed: they count in `images`, and are no finding. `records` has the SHA-256
    of each compared record as it is stored.
    """

    studies: int = 0
    images: int = 0
    removed: int = 0
    findings: list[FileDifference] = field(default_factory=list)
    damaged: list[DamagedRecord] = field(default_factory=list)
    records: dict[OrthancId, StoredRecord] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        """Return whether every image is as recorded and every record could be read."""
        return not self.findings and not self.damaged

    def of(self, kind: Kind) -> list[FileDifference]:
        """Return the findings of one kind, by study."""
        return [finding for finding in self.findings if finding.kind == kind]


class RecordChecker:
    """Compares published studies with their records and, if `second` is given, each unchanged image with a second copy too.

    `second` returns how the file differs from that copy, or None; an error that it raises ends the check.
    """

    def __init__(self, custody: Custody, paths: Paths, second: SecondCheck | None = None) -> None:
        self._custody = custody
        self._paths = paths
        self._second = second

    def studies(self) -> list[OrthancId]:
        """Return every study with a record. Raises StateError if this user may not list them."""
        self.assert_listable()
        return list(self._custody.studies())

    def matching(self, text: str, *, damaged_too: bool = True, or_patient: bool = False) -> list[OrthancId]:
        """Return the studies with this StudyInstanceUID, accession number or Orthanc ID and, with `or_patient`, PatientID or its folder.

        Includes the studies whose record is damaged, unless `text` is an Orthanc ID: any of them may be meant. Raises StateError.
        """
        name = text.strip(PADDING)
        if (study := as_orthanc_id(name)) is not None:
            self.assert_listable()
            return [study] if self._custody.has(study) else []
        if not name:
            return []

        def is_named(record: Record) -> bool:
            names = {record.study_uid.strip(PADDING), record.accession.strip(PADDING)}
            return name in names or (
                or_patient and name in (record.patient_id, record.folder.partition("/")[0])
            )

        return self._those(is_named, damaged_too)

    def of_patient(self, patient_id: str, *, damaged_too: bool = True) -> list[OrthancId]:
        """Return the studies of this PatientID, and those whose record is damaged: they may be the patient's too. Raises StateError."""
        return self._those(lambda record: record.patient_id == patient_id.strip(PADDING), damaged_too)

    def _those(self, is_meant: Callable[[Record], bool], damaged_too: bool) -> list[OrthancId]:
        found = []
        for study in self.studies():
            try:
                if is_meant(self.record(study)):
                    found.append(study)
            except StateError:
                found += [study] * damaged_too
        return found

    def check(
        self, studies: Iterable[OrthancId], progress: Callable[[float], None] = lambda _share: None
    ) -> CheckResult:
        """Compare each study; `progress` is called with the share of one study (0 to 1) that was just read."""
        result = CheckResult()
        for study in studies:
            try:
                read = self._read(study)
            except StateError as error:
                result.damaged.append(DamagedRecord(study, str(error)))
                progress(1.0)
                continue
            self._check_one(read, result, progress)
        return result

    def _check_one(
        self, read: tuple[Record, str], result: CheckResult, progress: Callable[[float], None]
    ) -> None:
        record, digest = read
        found = list(self._compare(record, progress))
        if found:
            with suppress(StateError):  # if it cannot be read again, the record that was just compared counts
                newer, newer_digest = self._read(record.study)
                if newer != record:
                    record, digest, found = (
                        newer,
                        newer_digest,
                        list(self._compare(newer, lambda _share: None)),
                    )
        result.records[record.study] = StoredRecord(digest, record.study_uid, record.published_at)
        result.studies += 1
        result.images += len(record.images)
        result.removed += sum(bool(instance.removed) for instance in record.images.values())
        result.findings += found

    def record(self, study: OrthancId) -> Record:
        """Return the record of a study, whose names are checked. Raises StateError."""
        return self._read(study)[0]

    def stored(self, study: OrthancId) -> StoredRecord:
        """Return what is stored of a study now. Raises StateError."""
        record, digest = self._read(study)
        return StoredRecord(digest, record.study_uid, record.published_at)

    def _read(self, study: OrthancId) -> tuple[Record, str]:
        """Return the record of a study and the SHA-256 of what is stored. Raises StateError."""
        where = self._custody.name(study)
        try:
            content = self._custody.stored(study)
        except OSError as error:
            raise StateError(f"{where}: the custody record cannot be read ({error.strerror})") from error
        if content is None:
            raise StateError(f"{where}: the custody record does not exist")
        record = FORMAT.parse(content, where)
        if record.study != study or not _names_are_sound(record):
            raise StateError(f"{where}: the custody record is damaged (its names are not those of a study)")
        return record, hashlib.sha256(content).hexdigest()

    def assert_listable(self) -> None:
        """Check that this user may list the records. Raises StateError."""
        self._custody.assert_listable()

    def _compare(self, record: Record, progress: Callable[[float], None]) -> Iterator[FileDifference]:
        folder = self._paths.output / record.folder
        for instance in sorted(record.images.values(), key=lambda instance: instance.file):
            path = folder / instance.file
            # after a power cut a file may exist that is recorded as removed
            if not instance.removed or path.exists():
                finding = _compare_file(record.study_uid, path, instance)
                finding = finding or self._check_second(record, path, instance)
                if finding is not None:
                    yield finding
            progress(1 / len(record.images))
        if not record.images:
            progress(1.0)
        yield from _extras(record, folder)

    def _check_second(self, record: Record, path: Path, instance: InstanceRecord) -> FileDifference | None:
        found = self._second(path, instance) if self._second is not None else None
        if found is None or (found[0] == "gone" and "storage" in record.retired):
            return None
        return FileDifference(found[0], record.study_uid, instance.file, instance.sop_uid, found[1])


def as_orthanc_id(text: str) -> OrthancId | None:
    """Return `text` as an Orthanc ID, upper or lower case; None if it is none."""
    return OrthancId(text.lower()) if _ORTHANC_ID.fullmatch(text.lower()) else None


def _names_are_sound(record: Record) -> bool:
    """Return whether no name has a NUL, and all paths are below OUTPUT_DIR."""
    names = [record.folder, *(instance.file for instance in record.images.values())]
    if any("\0" in name for name in [record.study_uid, record.accession, *names]):
        return False
    paths = map(PurePosixPath, names)
    return not any(path.is_absolute() or ".." in path.parts or not path.parts for path in paths)


def is_as_recorded(output: Path, record: Record, instance: InstanceRecord) -> bool:
    """Return whether the published file of that image can be read and has the recorded SHA-256."""
    try:
        return _names_are_sound(record) and not difference(output / record.folder / instance.file, instance)
    except OSError:
        return False


def _compare_file(study_uid: str, path: Path, instance: InstanceRecord) -> FileDifference | None:
    try:
        reason = difference(path, instance)
    except _GONE:
        return FileDifference("missing", study_uid, instance.file, instance.sop_uid)
    except OSError as error:  # the text of the error has the path, and with it the PatientID
        reason = f"it cannot be read ({error.strerror})"
    return FileDifference("changed", study_uid, instance.file, instance.sop_uid, reason) if reason else None


def difference(path: Path, instance: InstanceRecord) -> str:
    """Return how the file differs from its record, empty if it does not. Raises OSError."""
    # O_NONBLOCK: a named pipe in place of an image must not block the check
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - opens a descriptor, not a path
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return "it is not a regular file"
        if status.st_size != instance.size:
            return f"it has {status.st_size} bytes, the record has {instance.size}"
        # drop clean pages from the cache, so that the bytes come from the disk
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            watchdog.alive()
    return "" if digest.hexdigest() == instance.sha256 else "its SHA-256 is not the recorded one"


def _extras(record: Record, folder: Path) -> Iterator[FileDifference]:
    """Yield the .dcm files without a record, and the folders that cannot be searched."""
    recorded = {instance.file for instance in record.images.values()}
    errors: list[OSError] = []
    found = {
        (Path(parent) / name).relative_to(folder).as_posix()
        for parent, folders, files in os.walk(folder, onerror=errors.append)
        for name in [*folders, *files]
        if name.endswith(".dcm")
    }
    for name in sorted(found - recorded):
        yield FileDifference("extra", record.study_uid, name)
    for error in errors:
        if not isinstance(error, _GONE):
            name = Path(os.fsdecode(error.filename)).relative_to(folder).as_posix()
            reason = f"the folder cannot be searched ({error.strerror})"
            yield FileDifference("changed", record.study_uid, name, reason=reason)
