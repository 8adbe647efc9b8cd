"""Quarantine: images that could not be published as they should, each with its reason and, if it can be read, its file. Written by the extractor alone.

One entry is `quarantine/StudyInstanceUID/ID.json`, with `ID.dcm` beside it. The portal never removes an entry from quarantine:
an entry that the operator releases (`ddwd quarantine release`) moves to `quarantine/released/`.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ddwd.core import durable
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock, stamp
from ddwd.core.errors import DamagedStateError
from ddwd.core.model import OrthancId, safe_component
from ddwd.store.statefile import StateFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

RELEASED = "released"
_ID_DIGITS = 32

Kind = Literal["conflict", "undeliverable", "stray", "vanished"]
"""conflict: other content under a UID that is taken. undeliverable: failed while others passed. stray: acknowledged by the
SCP and part of no study. vanished: its study was deleted on both Orthancs before it was published."""


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
        with durable.opened(source) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        target, is_new = self._note(subject, source.stat().st_size, digest)
        if not target.exists():
            with durable.opened(source) as file:
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
        self.audit.record(
            Event.RELEASED,
            f"released from quarantine ({subject.kind})",
            study_uid=subject.study_uid,
            entry=entry.id,
            sop_uid=subject.sop_uid,
        )

    def entries(self) -> list[Entry]:
        """Return the entries that wait for the operator, oldest first."""
        return read_entries(self.folder)

    def count(self) -> int:
        """Return the number of entries that wait for the operator."""
        return sum(1 for _ in _notes(self.folder))

    def _note(self, subject: QuarantinedObject, size: int, digest: str) -> tuple[Path, bool]:
        """Write the reason; return the path for the bytes, and whether the entry is new."""
        folder = self.folder / safe_component(subject.study_uid)
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
        event = Event.CONFLICT if subject.kind == "conflict" else Event.QUARANTINED
        self.audit.record(
            event,
            f"put in quarantine ({subject.kind}): {subject.reason}; see: ddwd quarantine show {entry}",
            study_uid=subject.study_uid,
            entry=entry,
            sop_uid=subject.sop_uid,
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


def _read(note: Path) -> Entry:
    try:
        found = _FORMAT.parse(note.read_bytes(), note.name)
    except DamagedStateError as error:
        damaged = QuarantinedObject("stray", note.parent.name, f"its reason file is damaged ({error.reason})")
        return Entry(note.stem, "", damaged, 0, "", note)
    return Entry(note.stem, found.at, found.subject, found.size, found.sha256, note)
