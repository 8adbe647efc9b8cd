"""Custody records: one JSON file for each published study, with every image's digest and verdict. The extractor alone writes them.

A record is the proof that a study is done: it is written after the images are durable under their final names and before the
ledger closes the study. Sharded by the first two digits of the study's Orthanc ID, so neither memory nor start-up grows with history.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ddwd.core import durable
from ddwd.core.errors import StateError
from ddwd.core.model import OrthancId
from ddwd.store.statefile import StateFormat, stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA = 2
_READS = (1, 2)
"""What older versions wrote is read as it is, and written as it is now when the study changes: 1 had no rules and no retention."""
PEEK_BYTES = 4096
_PEEKED = (b' "published_at"', b' "folder"')


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One image on disk: where it stands below the study's folder, its size in bytes, and what was proved about it.

    `verdict` is `identical` (the data set's bytes equal storage's) or `equal` (every element equal, encoded otherwise).
    `md5` is Orthanc's digest of the stored file. `at_gateway` says that the gateway's copy was compared too: an image put straight
    onto storage has none, until someone sends one with its UIDs. `removed` is the stamp of when retention took the file from the disk.
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


def is_missing(folder: Path, kept: InstanceRecord) -> bool:
    """Tell whether the study's folder does not have the file as recorded, by name and size. Raises OSError where it cannot look.

    One that retention removed is not missed.
    """
    if kept.removed:
        return False
    try:
        return (folder / kept.file).lstat().st_size != kept.size
    except (FileNotFoundError, NotADirectoryError):
        return True


@dataclass
class Record:
    """The custody record of one study; `revision` counts from 1 and rises with each change after publication.

    `route` is the rule that took it, nothing without rules. `retired` says of `gateway`, `storage` and `output` when retention removed
    images there last. `passed` are images that the rule leaves where they are.
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
    images: dict[OrthancId, InstanceRecord] = field(
        default_factory=dict, metadata=stored(listed_by="orthanc_id")
    )


FORMAT = StateFormat(Record, "custody record", schema=SCHEMA, reads=_READS, checksum=True, indent=1)


def present(folder: Path, record: Record) -> frozenset[OrthancId]:
    """The images of a record that have a file under their name in the study's folder, whatever is in it. Raises OSError."""
    return frozenset(one for one, kept in record.images.items() if _is_there(folder / kept.file))


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Peek:
    """What the first lines of a record say, unproved: enough to know whether the whole of it is worth reading."""

    published_at: str
    folder: str
    route: str
    retired: bool


class CustodyPort(Protocol):
    """All records: in a folder, or in the database that several extractors share (shared.py), which raises PeerDownError everywhere."""

    def name(self, study: OrthancId) -> str:
        """Where the record of `study` stands, for people."""

    def has(self, study: OrthancId) -> bool:
        """Tell whether `study` was ever published, without reading its record."""

    def read(self, study: OrthancId) -> Record | None:
        """The record, or None where there is none. Raises StateError where it cannot be trusted."""

    def peek(self, study: OrthancId) -> Peek | None:
        """What the record says first, at little cost; None where there is none, or it was written otherwise."""

    def write(self, record: Record) -> None:
        """Make the record durable in one step."""

    def remove(self, study: OrthancId) -> None:
        """Forget a study of the portal's own."""

    def studies(self) -> Iterator[OrthancId]:
        """Every study that has a record."""

    def assert_listable(self) -> None:
        """Refuse to take records that this user may not see for none. Raises StateError."""


class Custody:
    """The folder of records."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, study: OrthancId) -> Path:
        """Where the record of `study` stands."""
        return self._folder / study[:2] / f"{study}.json"

    def name(self, study: OrthancId) -> str:
        """See CustodyPort."""
        return str(self.path(study))

    def has(self, study: OrthancId) -> bool:
        """Tell whether `study` was ever published, without reading its record."""
        return self.path(study).exists()

    def read(self, study: OrthancId) -> Record | None:
        """The record, or None where there is none. Raises StateError where it cannot be trusted."""
        return FORMAT.read(self.path(study))

    def peek(self, study: OrthancId) -> Peek | None:
        """The first lines of the record alone; None where there is none, or they are not as this version writes them."""
        try:
            with self.path(study).open("rb") as file:
                return peeked(file.read(PEEK_BYTES))
        except FileNotFoundError:
            return None

    def write(self, record: Record) -> None:
        """Make the record durable in one step."""
        path = self.path(record.study)
        durable.make_dirs(path.parent)
        FORMAT.write(path, record)

    def remove(self, study: OrthancId) -> None:
        """Forget a study of the portal's own."""
        durable.unlink(self.path(study))

    def studies(self) -> Iterator[OrthancId]:
        """Every study that has a record, by shard."""
        for shard in sorted(self._folder.glob("??")):
            for path in sorted(shard.glob("*.json")):
                yield OrthancId(path.stem)

    def assert_listable(self) -> None:
        """Refuse to take folders that cannot be listed for empty ones. Raises StateError."""
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


def peeked(head: bytes) -> Peek | None:
    """What the first PEEK_BYTES of a record say; None where they are not as FORMAT writes them."""
    lines = [line.rstrip(b",").partition(b": ") for line in head.split(b"\n")[1:-1]]
    found = {key: value for key, _, value in lines}
    try:
        published_at, folder = (str(json.loads(found[key])) for key in _PEEKED)
        route = str(json.loads(found.get(b' "route"', b'""')))
    except (KeyError, ValueError):
        return None
    return Peek(published_at, folder, route, found.get(b' "retired"', b"{}") != b"{}")
