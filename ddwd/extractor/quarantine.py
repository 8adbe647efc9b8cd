"""Quarantine: images that could not be published as they should, each with its reason and, if it can be read, its file. Written by the extractor alone.

One entry is `quarantine/StudyInstanceUID/ID.json`, with `ID.dcm` beside it. The portal never removes an entry from quarantine:
an entry that the operator releases (`ddwd quarantine release`) moves to `quarantine/released/`.

`quarantine/two-patients/ID.json` is not about an image but about a study that is published: its StudyInstanceUID is published
under another PatientID too. Such an entry moves no file; it waits for the operator's decision.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from ddwd.core import durable, safe_folder
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock, stamp
from ddwd.core.errors import DamagedStateError, LinkedError
from ddwd.core.model import OrthancId, marked_component
from ddwd.store.statefile import StateFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

RELEASED = "released"
TWO_PATIENTS: Final = "two-patients"
"""The kind of an entry and the name of its folder; `marked_component` makes no such name of a StudyInstanceUID."""
_ID_DIGITS = 32

Kind = Literal["conflict", "undeliverable", "stray", "vanished", "two-patients"]
"""conflict: other content under a UID that is taken. undeliverable: failed while others passed. stray: acknowledged by the
SCP and part of no study. vanished: its study was deleted on both Orthancs before it was published. two-patients: the
StudyInstanceUID of a published study is published under another PatientID too."""


@dataclass(frozen=True, slots=True)
class QuarantinedObject:
    """The subject of an entry; an empty text where it is not known. `tries` is how often delivery failed."""

    kind: Kind
    study_uid: str
    reason: str
    study: OrthancId | str = ""
    instance: OrthancId | str = ""
    sop_uid: str = ""
    tries: int = 0


@dataclass(frozen=True, slots=True)
class _Note:
    """The reason file of an entry."""

    id: str
    at: str
    kind: Kind
    study_uid: str
    reason: str
    study: OrthancId
    instance: OrthancId
    sop_uid: str
    tries: int
    size: int
    sha256: str

    @property
    def subject(self) -> QuarantinedObject:
        """The subject of the entry."""
        return QuarantinedObject(
            self.kind, self.study_uid, self.reason, self.study, self.instance, self.sop_uid, self.tries
        )


_FORMAT = StateFormat(_Note, "reason file", schema=1, any_schema=True, indent=1)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry on disk; `size` in bytes and `sha256` are of the file, 0 and empty without one."""

    id: str
    at: str
    subject: QuarantinedObject
    size: int
    sha256: str
    note: Path

    @property
    def file(self) -> Path | None:
        """The image itself, if an Orthanc could read it."""
        file = self.note.with_suffix(".dcm")
        return file if file.exists() else None


@dataclass
class Quarantine:
    """The folder of entries."""

    folder: Path
    clock: Clock
    audit: Audit

    def put(self, source: Path, subject: QuarantinedObject) -> str:
        """Move the file `source` here, durably, its reason first; return the entry's ID. The same again is the same entry.

        May be repeated after a crash. Raises StorageFullError and OSError; `source` is still there then.
        """
        with safe_folder.opened(source) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        target, is_new = self._note(subject, source.stat().st_size, digest)
        if not target.exists():
            with safe_folder.opened(source) as file:
                self._write(target, iter(lambda: file.read(1 << 20), b""))
        durable.unlink(source)
        self._report(subject, target.stem, is_new=is_new)
        return target.stem

    def keep(self, content: bytes | None, subject: QuarantinedObject) -> str:
        """Write `content` here, or only the reason if it is None; return the entry's ID. As `put` otherwise."""
        digest = hashlib.sha256(content).hexdigest() if content else ""
        target, is_new = self._note(subject, len(content or b""), digest)
        if content and not target.exists():
            self._write(target, iter([content]))
        self._report(subject, target.stem, is_new=is_new)
        return target.stem

    def release(self, entry: Entry) -> None:
        """Move an entry to `released/`, the reason last, so that a crash leaves it on the list."""
        folder = self.folder / RELEASED / entry.note.parent.name
        durable.make_dirs(folder, below=self.folder)
        for path in (entry.note.with_suffix(".dcm"), entry.note):
            if path.exists():
                durable.rename(path, folder / path.name, below=self.folder)
        subject = entry.subject
        is_decision = subject.kind == TWO_PATIENTS
        self.audit.record(
            Event.RELEASED,
            "the studies of both patients stay"
            if is_decision
            else f"released from quarantine ({subject.kind})",
            study_uid=subject.study_uid,
            entry=entry.id,
            **_named(subject),
        )

    def entries(self) -> list[Entry]:
        """Return the entries that wait for the operator, oldest first."""
        return read_entries(self.folder)

    def count(self) -> int:
        """Return the number of images that wait for the operator."""
        return sum(note.parent.name != TWO_PATIENTS for note in _notes(self.folder))

    def count_two_patients(self) -> int:
        """Return the number of published studies that wait for a decision about their patient."""
        return sum(1 for _ in (self.folder / TWO_PATIENTS).glob("*.json"))

    def _note(self, subject: QuarantinedObject, size: int, digest: str) -> tuple[Path, bool]:
        """Write the reason; return the path for the bytes, and whether the entry is new."""
        is_pair = subject.kind == TWO_PATIENTS
        folder = self.folder / (TWO_PATIENTS if is_pair else marked_component(subject.study_uid))
        durable.make_dirs(self.folder)
        durable.make_dirs(folder, below=self.folder)
        identity = "|".join((subject.study_uid, subject.study, subject.instance, subject.kind, digest))
        target = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:_ID_DIGITS]}.dcm"
        note = target.with_suffix(".json")
        if note.exists():
            return target, False
        at = stamp(self.clock.utc())
        _FORMAT.write(note, _Note(target.stem, at, **asdict(subject), size=size, sha256=digest))
        return target, True

    @staticmethod
    def _write(target: Path, chunks: Iterator[bytes]) -> None:
        """Copy: OUTPUT_DIR may be another volume than the quarantine."""
        temporary = target.with_suffix(".part")
        durable.unlink(temporary)
        durable.write_new(temporary, chunks)
        durable.rename(temporary, target)

    def _report(self, subject: QuarantinedObject, entry: str, *, is_new: bool) -> None:
        if not is_new:
            return
        events = {"conflict": Event.CONFLICT, TWO_PATIENTS: Event.TWO_PATIENTS}
        what = "two patients" if subject.kind == TWO_PATIENTS else f"put in quarantine ({subject.kind})"
        self.audit.record(
            events.get(subject.kind, Event.QUARANTINED),
            f"{what}: {subject.reason}; see: ddwd quarantine show {entry}",
            study_uid=subject.study_uid,
            entry=entry,
            **_named(subject),
        )


def read_entries(folder: Path) -> list[Entry]:
    """Return the entries of a quarantine folder, oldest first; a damaged note is an entry with that as its reason.

    Raises PermissionError if this user may not read it.
    """
    return sorted((_read(note) for note in _notes(folder)), key=lambda entry: (entry.at, entry.id))


def _notes(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for study in folder.iterdir():
        if study.name != RELEASED and study.is_dir():
            yield from study.glob("*.json")


def _named(subject: QuarantinedObject) -> dict[str, str]:
    """Return the fields of an event that name the study and the image, as far as they are known."""
    known = {"study": subject.study, "sop_uid": subject.sop_uid}
    return {key: value for key, value in known.items() if value}


def _read(note: Path) -> Entry:
    try:
        found = _FORMAT.parse(safe_folder.read(note), note.name)
    except (DamagedStateError, LinkedError) as error:
        why = error.reason if isinstance(error, DamagedStateError) else "it is not a regular file"
        reason = f"its reason file is damaged ({why})"
        damaged = QuarantinedObject("stray", note.parent.name, reason)
        if note.parent.name == TWO_PATIENTS:
            damaged = QuarantinedObject(TWO_PATIENTS, "", reason)
        return Entry(note.stem, "", damaged, 0, "", note)
    return Entry(note.stem, found.at, found.subject, found.size, found.sha256, note)
