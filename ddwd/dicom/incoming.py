"""An object on its way in: encoded bytes straight from the association to a file, never decoded, never whole in memory.

Stage before store_scp's verdict; the SCP alone writes Paths.incoming and Paths.spool. What goes wrong while bytes arrive
(no room, an I/O error) is kept until the object has come whole, so that the peer gets a failure status and not an abort.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pynetdicom.dsutils import create_file_meta, encode_file_meta

from ddwd import durable, room
from ddwd.dicom import contexts
from ddwd.dicom.head import Head, read_head
from ddwd.errors import StorageFullError
from ddwd.model import safe_component

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddwd.paths import Paths

PREAMBLE = bytes(128) + b"DICM"
DIGEST_DIGITS = 16
_PART = ".part"
_RENAME_ATTEMPTS = 5


def file_head(sop_class: str, sop_instance: str, transfer_syntax: str) -> bytes:
    """Preamble of zeros, prefix and file meta information (PS3.10 section 7.1); the same input gives the same bytes."""
    implementation_uid, implementation_name = contexts.implementation()
    meta = create_file_meta(
        sop_class_uid=sop_class,  # type: ignore[arg-type]
        sop_instance_uid=sop_instance,  # type: ignore[arg-type]
        transfer_syntax=transfer_syntax,  # type: ignore[arg-type]
        implementation_uid=implementation_uid,  # type: ignore[arg-type]
        implementation_version=implementation_name,
    )
    return PREAMBLE + encode_file_meta(meta)


class Spool:
    """Places whole objects under names of their content; safe to use from several threads."""

    def __init__(self, paths: Paths, reserve: int) -> None:
        self._incoming = paths.incoming
        self._spool = paths.spool
        self._reserve = reserve
        self._folders: set[Path] = set()
        self._lock = threading.Lock()

    def prepare(self) -> int:
        """Make the folders and remove what dead runs left behind; the number of files removed."""
        for folder in (self._incoming, self._spool):
            durable.make_dirs(folder)
        swept = [path for path in self._incoming.iterdir() if path.name.endswith(_PART)]
        for path in swept:
            path.unlink(missing_ok=True)
        return len(swept)

    def open(self) -> durable.NewFile:
        """A new file for an object on its way in. Raises StorageFullError where less than the reserve is free."""
        if room.level_of(room.space_of(self._incoming), self._reserve) is room.Level.REFUSE:
            raise StorageFullError("less room is left on the volume of the output than the reserve")
        return durable.NewFile(self._incoming / (secrets.token_hex(16) + _PART))

    def place(self, source: Path, head: Head, digest: str) -> Path:
        """Move a durable file to its study's folder, durably; the same content again takes the same name.

        Raises StorageFullError, OSError.
        """
        folder = self._spool / safe_component(head.study_uid)
        target = folder / f"{safe_component(head.sop_uid)}.{digest[:DIGEST_DIGITS]}.dcm"
        for attempt in range(_RENAME_ATTEMPTS):
            self._make(folder)
            try:
                durable.rename(source, target, source_too=False)
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
        """Make a study folder whose own name is durable before anyone relies on it."""
        if folder in self._folders:
            return
        with self._lock:
            if folder in self._folders:
                return
            with durable.translated(), suppress(FileExistsError):
                durable.step("mkdir", folder)
                folder.mkdir(mode=0o750)
            durable.fsync_dir(self._spool)
            self._folders.add(folder)


class Incoming(BytesIO):
    """What pynetdicom writes received data set fragments to; a BytesIO by type only, the bytes go to a file."""

    def __init__(
        self, spool: Spool, names: Callable[[], tuple[str, str, str] | None], seen: Callable[[int], None]
    ) -> None:
        super().__init__()
        self._spool = spool
        self._names = names
        self._seen = seen
        self._file: durable.NewFile | None = None
        self._digest = hashlib.sha256()
        self._start = 0
        self._transfer_syntax = ""
        self.size = 0
        self.trouble: Exception | None = None

    def write(self, fragment: Any) -> int:
        """Append a fragment to the file. Never raises: what went wrong waits in `trouble`."""
        self.size += len(fragment)
        self._seen(len(fragment))
        if self.trouble is None:
            try:
                self._append(fragment)
            except Exception as error:  # noqa: BLE001 - the reactor must live to answer with a failure status
                self.trouble = error
                self.discard()
        return len(fragment)

    def head(self) -> Head:
        """The identifiers of the data set. Raises UnreadableError, OSError, or what went wrong before."""
        if self.trouble is not None:
            raise self.trouble
        if self._file is None:
            return Head()
        return read_head(self._file.descriptor, self._start, self._transfer_syntax)

    def keep(self, head: Head) -> Path:
        """Make the object durable under its final name. Raises StorageFullError, OSError."""
        if self._file is None:
            raise ValueError("nothing came")
        self._file.sync()
        target = self._spool.place(self._file.path, head, self._digest.hexdigest())
        self._file = None
        return target

    def discard(self) -> None:
        """Remove what is not kept."""
        file, self._file = self._file, None
        if file is not None:
            file.abandon()

    def _append(self, fragment: Any) -> None:
        if self._file is None:
            names = self._names()
            if names is None:
                return
            self._begin(*names)
        file = self._file
        if file is not None:
            file.write(fragment)
            self._digest.update(fragment)

    def _begin(self, sop_class: str, sop_instance: str, transfer_syntax: str) -> None:
        head = file_head(sop_class, sop_instance, transfer_syntax)
        self._file = self._spool.open()
        self._file.write(head)
        self._digest.update(head)
        self._start, self._transfer_syntax = len(head), transfer_syntax
