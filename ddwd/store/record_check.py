"""The proof, repeated: what lies in OUTPUT_DIR is held against the custody records. Used by `ddwd verify`.

Reads the records and the published files; writes nothing and asks no server. The extractor may publish meanwhile: where
something differs and the record has changed since it was read, the study is compared once more with the newer record.
Findings name the StudyInstanceUID and the file below the study's folder, never the folder itself, which begins with the PatientID.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from ddwd.core.errors import StateError
from ddwd.core.model import OrthancId, safe_component

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ddwd.config.paths import Paths
    from ddwd.store.custody import CustodyPort, InstanceRecord, Record

Kind = Literal["missing", "changed", "extra", "differs", "gone"]
"""`differs` and `gone` are about a second copy of the image (see RecordChecker), where one is asked."""

SecondLook = Callable[[Path, "InstanceRecord"], tuple[Kind, str] | None]

_ORTHANC_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_PADDING = " \0"
_CHUNK = 1024 * 1024
_GONE = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class Finding:
    """One file that is not as recorded; `file` is below the study's folder, `sop_uid` empty where no record names it."""

    kind: Kind
    study_uid: str
    file: str
    sop_uid: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Damage:
    """One record that proves nothing, and why."""

    study: OrthancId
    reason: str


@dataclass(slots=True)
class Proof:
    """What was compared (studies with a readable record, and the images these name) and what differs.

    `removed` counts the images whose files retention took away: they are among `images`, and no finding.
    """

    studies: int = 0
    images: int = 0
    removed: int = 0
    findings: list[Finding] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """True when every image is as recorded and every record could be read."""
        return not self.findings and not self.damaged

    def of(self, kind: Kind) -> list[Finding]:
        """The findings of one kind, by study."""
        return [one for one in self.findings if one.kind == kind]


class RecordChecker:
    """Compares published studies with their records, and where `second` is given, each sound image with a second copy too.

    `second` answers how the file differs from that copy, or None where it does not; what it raises ends the proof.
    """

    def __init__(self, custody: CustodyPort, paths: Paths, second: SecondLook | None = None) -> None:
        self._custody = custody
        self._paths = paths
        self._second = second

    def studies(self) -> list[OrthancId]:
        """Every study with a record. Raises StateError where this user may not look."""
        self.assert_listable()
        return list(self._custody.studies())

    def matching(self, wanted: str, *, damaged_too: bool = True, or_patient: bool = False) -> list[OrthancId]:
        """The studies with this StudyInstanceUID, accession number or Orthanc ID, or PatientID or its folder if asked. Raises StateError.

        With those whose record is damaged, unless asked by Orthanc ID: any of them may be meant.
        """
        name = wanted.strip(_PADDING)
        if (study := as_orthanc_id(name)) is not None:
            self.assert_listable()
            return [study] if self._custody.has(study) else []
        patients = {name, safe_component(name)} if or_patient else set()
        return [
            study for study in self.studies() if name and self._may_be(study, name, patients, damaged_too)
        ]

    def prove(
        self, studies: Iterable[OrthancId], seen: Callable[[float], None] = lambda _share: None
    ) -> Proof:
        """Compare each study; `seen` is told the share of one study (0 to 1) that was just read."""
        proof = Proof()
        for study in studies:
            try:
                record = self.record(study)
            except StateError as error:
                proof.damaged.append(Damage(study, str(error)))
                seen(1.0)
                continue
            self._prove_one(record, proof, seen)
        return proof

    def _prove_one(self, record: Record, proof: Proof, seen: Callable[[float], None]) -> None:
        found = list(self._compare(record, seen))
        if found and (newer := self._newer(record)) is not None:
            record, found = newer, list(self._compare(newer, lambda _share: None))
        proof.studies += 1
        proof.images += len(record.images)
        proof.removed += sum(bool(kept.removed) for kept in record.images.values())
        proof.findings += found

    def _newer(self, record: Record) -> Record | None:
        try:
            again = self.record(record.study)
        except StateError:  # it could be read a moment ago, and what it said then is what was compared
            return None
        return again if again != record else None

    def record(self, study: OrthancId) -> Record:
        """The record of a study, fit to be compared. Raises StateError."""
        where = self._custody.name(study)
        try:
            record = self._custody.read(study)
        except OSError as error:
            raise StateError(f"{where}: the custody record cannot be read ({error.strerror})") from error
        if record is None:
            raise StateError(f"{where}: the custody record is gone")
        if record.study != study or not _names_are_sound(record):
            raise StateError(f"{where}: the custody record is damaged (its names are not those of a study)")
        return record

    def _may_be(self, study: OrthancId, name: str, patients: set[str], damaged_too: bool) -> bool:
        try:
            record = self.record(study)
        except StateError:
            return damaged_too
        names = {record.study_uid.strip(_PADDING), record.accession.strip(_PADDING)}
        return name in names or record.folder.partition("/")[0] in patients

    def assert_listable(self) -> None:
        """Refuse to take records that this user may not see for none. Raises StateError."""
        self._custody.assert_listable()

    def _compare(self, record: Record, seen: Callable[[float], None]) -> Iterator[Finding]:
        folder = self._paths.output / record.folder
        for kept in sorted(record.images.values(), key=lambda one: one.file):
            if not _is_removed(folder / kept.file, kept):
                finding = _image(record.study_uid, folder / kept.file, kept)
                finding = finding or self._second_look(record, folder / kept.file, kept)
                if finding is not None:
                    yield finding
            seen(1 / len(record.images))
        if not record.images:
            seen(1.0)
        yield from _extras(record, folder)

    def _second_look(self, record: Record, path: Path, kept: InstanceRecord) -> Finding | None:
        answer = self._second(path, kept) if self._second is not None else None
        if answer is None or (answer[0] == "gone" and "storage" in record.retired):
            return None
        return Finding(answer[0], record.study_uid, kept.file, kept.sop_uid, answer[1])


def as_orthanc_id(text: str) -> OrthancId | None:
    """The Orthanc ID that `text` is, in any case of its letters; None where it is none."""
    return OrthancId(text.lower()) if _ORTHANC_ID.fullmatch(text.lower()) else None


def _names_are_sound(record: Record) -> bool:
    """Tell whether the names are text and lead to below OUTPUT_DIR."""
    files = [kept.file for kept in record.images.values()]
    texts: list[object] = [record.study_uid, record.accession, record.folder, *files]
    if not all(isinstance(text, str) and "\0" not in text for text in texts):
        return False
    below = [PurePosixPath(record.folder), *map(PurePosixPath, files)]
    return not any(name.is_absolute() or ".." in name.parts or not name.parts for name in below)


def is_as_recorded(output: Path, record: Record, kept: InstanceRecord) -> bool:
    """Tell whether the published file of that image has the recorded SHA-256; one that cannot be read has not."""
    try:
        return _names_are_sound(record) and not difference(output / record.folder / kept.file, kept)
    except OSError:
        return False


def _is_removed(path: Path, kept: InstanceRecord) -> bool:
    """Whether retention took the file away; one that a power cut kept it from removing is compared as any other."""
    return bool(kept.removed) and not path.exists()


def _image(study_uid: str, path: Path, kept: InstanceRecord) -> Finding | None:
    try:
        reason = difference(path, kept)
    except _GONE:
        return Finding("missing", study_uid, kept.file, kept.sop_uid)
    except OSError as error:  # its own text would have the path, and with it the PatientID
        reason = f"it cannot be read ({error.strerror})"
    return Finding("changed", study_uid, kept.file, kept.sop_uid, reason) if reason else None


def difference(path: Path, kept: InstanceRecord, alive: Callable[[], None] = lambda: None) -> str:
    """How the file differs from its record; nothing when it does not. Calls `alive` while it reads. Raises OSError."""
    # O_NONBLOCK: a pipe under an image's name must not hold up the others
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - opens a descriptor, not a path
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return "it is not a regular file"
        if status.st_size != kept.size:
            return f"it has {status.st_size} bytes, recorded are {kept.size}"
        # what the page cache need not keep is read from the disk, which is what is to be proved
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            alive()
    return "" if digest.hexdigest() == kept.sha256 else "its SHA-256 is not the recorded one"


def _extras(record: Record, folder: Path) -> Iterator[Finding]:
    """The .dcm files that no record names, and the folders that cannot be searched for them."""
    recorded = {kept.file for kept in record.images.values()}
    errors: list[OSError] = []
    names = [
        (Path(parent) / name).relative_to(folder).as_posix()
        for parent, folders, files in os.walk(folder, onerror=errors.append)
        for name in [*folders, *files]
        if name.endswith(".dcm")
    ]
    for name in sorted(set(names) - recorded):
        yield Finding("extra", record.study_uid, name)
    for error in errors:
        if not isinstance(error, _GONE):
            name = Path(os.fsdecode(error.filename)).relative_to(folder).as_posix()
            reason = f"the folder cannot be searched ({error.strerror})"
            yield Finding("changed", record.study_uid, name, reason=reason)
