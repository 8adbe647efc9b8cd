"""Custody records: one JSON file per published study, with the digest and verdict of every image. Only the extractor writes them.

A record proves that a study is finished: it is written after the images are durable under their final names and before the ledger
closes the study. Sharded by the first two digits of the study's Orthanc ID, so that neither memory nor start-up grows with history.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddwd.core import durable, safe_folder
from ddwd.core.audit import Audit, Event
from ddwd.core.errors import LinkedError, StateError
from ddwd.core.model import PADDING, OrthancId, identifier_of
from ddwd.store.statefile import StateFormat, stored

SCHEMA = 2
_READS = (1, 2)
"""An older schema is replaced by the current one when the study changes; 1 has no routes and no retention."""
PEEK_BYTES = 4096
_PEEKED = (b' "published_at"', b' "folder"')


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One image on disk: its path below the study's folder, its size in bytes, and what was verified.

    `verdict` is `identical` (the bytes of the data set equal storage's) or `equal` (every element is equal, in another encoding).
    `md5` is Orthanc's digest of the stored file. `at_gateway` is true once the gateway's copy was compared too: an image sent straight
    to storage has none, unless the gateway receives it later. `removed` is the UTC stamp of when retention removed the file. `way` is
    `REST` if the extractor brought the image from the gateway to storage by their REST interfaces, since STOW-RS did not; empty otherwise.
    """

    orthanc_id: OrthancId = field(metadata=stored("id"))
    sop_uid: str
    file: str
    size: int
    sha256: str
    md5: str
    verdict: str
    at_gateway: bool
    removed: str = field(default="", metadata=stored(omit_empty=True))
    way: str = field(default="", metadata=stored(omit_empty=True))


BY_REST = "REST"


def is_missing(folder: Path, instance: InstanceRecord) -> bool:
    """Return whether the study's folder has no file of the recorded name and size, and retention did not remove it. Raises OSError."""
    return not instance.removed and _size(folder / instance.file) != instance.size


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


@dataclass
class Record:
    """The custody record of one study; `revision` counts from 1 and rises with each change after publication.

    `route` is the name of its route, empty without routes. `retired` has, for `gateway`, `storage` and `output`, the UTC stamp of when
    retention last removed images there. `passed` are images that the route leaves on storage. `namesakes` are published
    studies of the same StudyInstanceUID under another PatientID that the operator was asked about. `tags` describe the study for
    `ddwd studies`: PatientID, StudyDate, StudyDescription and the modalities of its series, separated by a backslash.
    """

    study: OrthancId
    study_uid: str
    accession: str
    folder: str
    revision: int
    published_at: str
    route: str = ""
    retired: dict[str, str] = field(default_factory=dict)
    set_aside: dict[OrthancId, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    passed: list[OrthancId] = field(default_factory=list)
    namesakes: list[OrthancId] = field(default_factory=list, metadata=stored(omit_empty=True))
    tags: dict[str, str] = field(default_factory=dict, metadata=stored(omit_empty=True))
    images: dict[OrthancId, InstanceRecord] = field(
        default_factory=dict, metadata=stored(listed_by="orthanc_id")
    )

    @property
    def patient_id(self) -> str:
        """Return the PatientID without padding; that of a record of version 0.2.0 or earlier is in the name of its folder alone."""
        found = self.tags.get("PatientID") or identifier_of(self.folder.partition("/")[0]) or ""
        return found.strip(PADDING)


FORMAT = StateFormat(Record, "custody record", schema=SCHEMA, reads=_READS, checksum=True, indent=1)


def images_digest(images: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256, in hexadecimal, over the sorted lines "SOPInstanceUID SHA-256-of-the-file" of images."""
    lines = sorted(f"{sop_uid} {sha256}\n" for sop_uid, sha256 in images)
    return hashlib.sha256("".join(lines).encode("utf-8", "backslashreplace")).hexdigest()


def images_sha256(record: Record) -> str:
    """Return the digest of all images of a record, removed ones too."""
    return images_digest((image.sop_uid, image.sha256) for image in record.images.values())


def statement(record: Record, record_sha256: str) -> dict[str, Any]:
    """Return the fields of an audit event that states what a record says; `record_sha256` is what `Custody.write` returned.

    Every write of a record is followed by one event with these fields, `study` and `study_uid`; the latest one of a study is what
    its record has to be.
    """
    return {
        "revision": record.revision,
        "instances": len(record.images),
        "images_sha256": images_sha256(record),
        "record_sha256": record_sha256,
    }


def report_change(audit: Audit, record: Record, record_sha256: str, why: str) -> None:
    """State a record whose change has no event of its own; see `statement`."""
    audit.record(
        Event.RECORD_CHANGED,
        f"custody record, revision {record.revision}: {why}",
        study_uid=record.study_uid,
        study=record.study,
        **statement(record, record_sha256),
    )


def present(folder: Path, record: Record) -> frozenset[OrthancId]:
    """Return the images of a record that have a file of their name in the study's folder, whatever its content. Raises OSError."""
    return frozenset(
        image for image, instance in record.images.items() if _size(folder / instance.file) is not None
    )


@dataclass(frozen=True, slots=True)
class Peek:
    """The first lines of a record, without a check of its checksum: enough to decide whether to read the whole record."""

    published_at: str
    folder: str
    route: str
    retired: bool


def _nothing(_study: OrthancId) -> None:
    return


class Custody:
    """All records, in a folder; the base class of SharedCustody (postgres_store.py), every method of which raises PeerDownError."""

    on_change: Callable[[OrthancId], None] = staticmethod(_nothing)
    """Called with each study whose record was written or removed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, study: OrthancId) -> Path:
        """Return the path of the record of `study`."""
        return self._folder / study[:2] / f"{study}.json"

    def name(self, study: OrthancId) -> str:
        """Return the place of the record of `study`, for messages."""
        return str(self.path(study))

    def has(self, study: OrthancId) -> bool:
        """Return whether `study` was ever published, without reading its record."""
        return self.path(study).exists()

    def read(self, study: OrthancId) -> Record | None:
        """Return the record, None if there is none. Raises StateError if it is damaged or newer."""
        content = self.stored(study)
        return None if content is None else FORMAT.parse(content, self.name(study))

    def stored(self, study: OrthancId) -> bytes | None:
        """Return the record as it is stored, None if there is none. Raises DamagedStateError for what is no file, and OSError."""
        return FORMAT.content(self.path(study))

    def peek(self, study: OrthancId) -> Peek | None:
        """Return the first lines of the record, at little cost; None if there is none, or it has another layout."""
        try:
            return parse_peek(safe_folder.read(self.path(study), PEEK_BYTES))
        except (FileNotFoundError, LinkedError):  # `read` says what is wrong
            return None

    def write(self, record: Record) -> str:
        """Make the record durable in one step; return the SHA-256 of what is stored, for `statement`."""
        content = FORMAT.render(record)
        self._store(record, content)
        self.on_change(record.study)
        return hashlib.sha256(content).hexdigest()

    def _store(self, record: Record, content: bytes) -> None:
        path = self.path(record.study)
        durable.make_dirs(path.parent)
        durable.replace_file(path, content)

    def remove(self, study: OrthancId) -> None:
        """Remove the record. Callers: self-test cleanup only."""
        self._remove(study)
        self.on_change(study)

    def _remove(self, study: OrthancId) -> None:
        durable.unlink(self.path(study))

    def studies(self) -> Iterator[OrthancId]:
        """Yield every study that has a record."""
        for shard in sorted(self._folder.glob("??")):
            for path in sorted(shard.glob("*.json")):
                yield OrthancId(path.stem)

    def shards(self) -> Sequence[str]:
        """Return the beginnings of Orthanc IDs by which `marks` divides the archive."""
        return [f"{number:02x}" for number in range(256)]

    def marks(self, shard: str) -> dict[OrthancId, int]:
        """Return a number for each record of a shard, which is another one after each change."""
        try:
            found = [(entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(self._folder / shard)]
        except FileNotFoundError:
            return {}
        suffix = ".json"
        return {OrthancId(name.removesuffix(suffix)): mark for name, mark in found if name.endswith(suffix)}

    def mark(self, study: OrthancId) -> int | None:
        """Return the number of one record; None if there is none."""
        try:
            return self.path(study).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def assert_listable(self) -> None:
        """Check that this user may list the records: without that right, there seem to be none. Raises StateError."""
        try:
            for shard in self._folder.iterdir():
                if shard.is_dir():
                    os.scandir(shard).close()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StateError(
                f"{self._folder}: {error.strerror}; the custody records are for root and group ddwd"
            ) from error


def parse_peek(head: bytes) -> Peek | None:
    """Return the Peek of the first PEEK_BYTES of a record; None if they have another layout than FORMAT writes."""
    lines = [line.rstrip(b",").partition(b": ") for line in head.split(b"\n")[1:-1]]
    found = {key: value for key, _, value in lines}
    try:
        published_at, folder = (str(json.loads(found[key])) for key in _PEEKED)
        route = str(json.loads(found.get(b' "route"', b'""')))
    except (KeyError, ValueError):
        return None
    return Peek(published_at, folder, route, found.get(b' "retired"', b"{}") != b"{}")
