"""Write a received object to a file: encoded bytes straight from the association, never decoded, never whole in memory.

The SCP alone writes Paths.incoming and Paths.spool. An error while bytes arrive (no space, an I/O error) is raised only when
the whole object has arrived, so that the peer gets a failure status and not an abort.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
import threading
from itertools import count
from typing import TYPE_CHECKING

from ddwd.core import disk_space, durable
from ddwd.core.errors import StorageFullError
from ddwd.core.model import marked_component
from ddwd.dicom import contexts
from ddwd.dicom.head import HEAD_BYTES, Head, read_head

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddwd.config.paths import Paths

PREAMBLE = bytes(128) + b"DICM"
_META, _LENGTH = struct.Struct("<HH2sH"), struct.Struct("<L")
_META_VERSION = struct.pack("<HH2sHL2s", 2, 1, b"OB", 0, 2, b"\0\1")
_PART = ".part"
_RENAME_ATTEMPTS = 5


def file_head(sop_class: str, sop_instance: str, transfer_syntax: str) -> bytes:
    """Return the preamble of zeros, prefix and file meta information (PS3.10 section 7.1); the same input gives the same bytes."""
    implementation_uid, implementation_name = contexts.IMPLEMENTATION
    meta = b"".join(
        (
            _META_VERSION,
            _meta(0x0002, b"UI", sop_class, b"\0"),
            _meta(0x0003, b"UI", sop_instance, b"\0"),
            _meta(0x0010, b"UI", transfer_syntax, b"\0"),
            _meta(0x0012, b"UI", implementation_uid, b"\0"),
            _meta(0x0013, b"SH", implementation_name, b" "),
        )
    )
    return PREAMBLE + _META.pack(2, 0, b"UL", 4) + _LENGTH.pack(len(meta)) + meta


def _meta(element: int, vr: bytes, value: str, padding: bytes) -> bytes:
    """Encode an element of group 0002, always explicit VR little endian and of even length."""
    encoded = value.encode("latin-1")
    encoded += padding * (len(encoded) % 2)
    return _META.pack(2, element, vr, len(encoded)) + encoded


class IncomingStore:
    """Places whole objects under names of their content; safe to use from several threads."""

    def __init__(self, paths: Paths, reserve: int) -> None:
        self._incoming = paths.incoming
        self._spool = paths.spool
        self._below = paths.output
        self._reserve = reserve
        self._run = secrets.token_hex(8)
        self._numbers = count()
        self._folders: set[Path] = set()
        self._lock = threading.Lock()

    def prepare(self) -> int:
        """Make the folders and remove unfinished objects of earlier runs; return how many."""
        durable.make_dirs(self._below)
        for folder in (self._incoming, self._spool):
            durable.make_dirs(folder, below=self._below)
        swept = [path for path in self._incoming.iterdir() if path.name.endswith(_PART)]
        for path in swept:
            durable.unlink(path, self._below)
        return len(swept)

    def open(self) -> durable.NewFile:
        """Return a new file for an object. Raises StorageFullError where less than the reserve is free."""
        space = disk_space.space_of(self._incoming)
        if disk_space.level_of(space, self._reserve) is disk_space.SpaceLevel.REFUSE:
            raise StorageFullError("the volume of the output has less free space than the reserve")
        path = self._incoming / f"{self._run}-{next(self._numbers)}{_PART}"
        return durable.NewFile(path, below=self._below)

    def place(self, source: Path, head: Head, digest: str) -> Path:
        """Move a durable file to its study's folder, durably; the same content again takes the same name.

        Raises StorageFullError, LinkedError, OSError.
        """
        folder = self._spool / marked_component(head.study_uid)
        target = folder / f"{marked_component(head.sop_uid)}.{digest}.dcm"
        for attempt in range(_RENAME_ATTEMPTS):
            self._make(folder)
            try:
                durable.rename(source, target, source_too=False, below=self._below)
            except FileNotFoundError:  # the extractor removes empty study folders
                if attempt + 1 == _RENAME_ATTEMPTS or not source.exists():
                    raise
                with self._lock:
                    self._folders.discard(folder)
                continue
            with (
                self._lock
            ):  # another thread may have just made the folder anew: its name must be durable too
                return target
        raise AssertionError("unreachable")

    def _make(self, folder: Path) -> None:
        """Make a study folder; its own name is durable on return."""
        if folder in self._folders:
            return
        with self._lock:
            if folder not in self._folders:
                durable.make_dir(folder, below=self._below)
                self._folders.add(folder)


class Incoming:
    """One object; the fragments of its data set are written to a file, which is made with the first of them."""

    def __init__(
        self, spool: IncomingStore, names: tuple[str, str, str], seen: Callable[[int], None]
    ) -> None:
        """`names` are SOP class, SOP instance and transfer syntax; `seen` is called with the size of each fragment."""
        self._spool = spool
        self._names = names
        self._seen = seen
        self._file: durable.NewFile | None = None
        self._digest = hashlib.sha256()
        self._start = 0
        self._first = b""
        self.error: Exception | None = None

    def write(self, fragment: memoryview) -> None:
        """Append a fragment to the file. Never raises: `head` raises the error later."""
        self._seen(len(fragment))
        if self.error is None:
            try:
                self._append(fragment)
            except Exception as error:  # noqa: BLE001 - the reactor must go on, to answer with a failure status
                self.error = error
                self.discard()

    def head(self) -> Head:
        """Return the identifiers of the data set. Raises UnreadableError, OSError, or the error of a `write`."""
        if self.error is not None:
            raise self.error
        if self._file is None:
            return Head()
        return read_head(self._file.descriptor, self._start, self._names[-1], self._first)

    def keep(self, head: Head) -> Path:
        """Make the object durable under its final name. Raises StorageFullError, OSError."""
        if self._file is None:
            raise ValueError("no data set arrived")
        self._file.sync()
        target = self._spool.place(self._file.path, head, self._digest.hexdigest())
        self._file = None
        return target

    def discard(self) -> None:
        """Remove the file if it was not kept."""
        file, self._file = self._file, None
        if file is not None:
            file.abandon()

    def _append(self, fragment: memoryview) -> None:
        content: bytes | memoryview = fragment
        if self._file is None:
            head = file_head(*self._names)
            self._start, self._first = len(head), bytes(fragment[:HEAD_BYTES])
            content = head + fragment
            self._file = self._spool.open()
        self._file.write(content)
        self._digest.update(content)
