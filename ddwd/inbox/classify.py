"""Split an item into the files to send and the others, each with the reason. A zip is unpacked into a folder of its own first.

Unpacking is bounded: no name of the archive is used, and never more bytes than there is space for. The list of entries is measured
before it is read, since a small file can list millions. The first bytes of each entry show whether it is DICOM; only DICOM files are
written, each under a number.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from pydicom import dcmread
from pydicom.uid import MediaStorageDirectoryStorage

from ddwd.core import disk_space, durable, watchdog
from ddwd.core.errors import InvalidValueError, StateError, StorageFullError
from ddwd.dicom.store_scu import Answer, Outgoing, examine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.inbox.scanner import Item

_DICOMDIR_BYTES = 64 * 1024 * 1024
_LIST_BYTES = 8 * 1024 * 1024
"""Size of the list of entries: some ninety thousand names."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Those that need little memory, and that every program can write."""
_HEAD = 132
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Contents:
    """Files to send, and `left`: what is not sent, each with the reason."""

    outgoing: tuple[Outgoing, ...]
    left: tuple[tuple[str, str], ...]


def look(item: Item, work: Path, reserve: int) -> Contents:
    """Examine an item; `work` is an empty folder for the files of a zip.

    Raises StateError if it cannot be read or moved yet, InvalidValueError for a zip that cannot be used, StorageFullError.
    """
    _check_access(item)
    above = item.path.parent
    left = [(str(path.relative_to(above)), "not a file: links are not followed") for path in item.others]
    files = list(item.files)
    if files == [item.path] and zipfile.is_zipfile(item.path) and isinstance(examine(item.path), Answer):
        files, others = unpack(item.path, work, reserve)
        left += [(name, "not a DICOM file") for name in others]
    outgoing = []
    for file in files:
        watchdog.alive()
        found = examine(file)
        is_inside = file.is_relative_to(item.path)
        if isinstance(found, Answer):
            left.append((str(file.relative_to(above)) if is_inside else file.name, found.reason))
        elif found.sop_class != MediaStorageDirectoryStorage:
            outgoing.append(found)
        elif file != item.path and is_inside:
            left += [(name, "named in the DICOMDIR, and missing") for name in _missing(file)]
    return Contents(tuple(outgoing), tuple(left))


def _check_access(item: Item) -> None:
    """Reject an item that cannot be read and moved: it would be sent again and again. Raises StateError."""
    can = all(os.access(folder, os.R_OK | os.X_OK) for folder in item.folders)
    # a folder changes its own entry `..` when it is moved
    can = can and all(os.access(folder, os.W_OK) for folder in item.folders[:1])
    if not can or not all(os.access(file, os.R_OK) for file in item.files):
        raise StateError(
            "user ddwd-inbox cannot read or move it; run: chgrp -R ddwd ITEM; chmod -R g+rwX ITEM"
        )


def _missing(dicomdir: Path) -> Iterator[str]:
    """Yield the files that a DICOMDIR names (PS3.3 section F.3.2.2) and that are not beside it, in upper or lower case."""
    if dicomdir.stat().st_size > _DICOMDIR_BYTES:
        return
    folder = dicomdir.parent
    present = {str(path.relative_to(folder)).upper() for path in folder.rglob("*")}
    with suppress(Exception):  # damaged: all DICOM files are sent anyway
        for record in dcmread(dicomdir).DirectoryRecordSequence:
            parts = record.get("ReferencedFileID")
            name = "/".join([parts] if isinstance(parts, str) else parts or ())
            if name and name.upper() not in present:
                yield name


def unpack(path: Path, into: Path, reserve: int) -> tuple[list[Path], list[str]]:
    """Write each DICOM file of the zip into the empty folder `into`; return these, and the names of all other entries.

    Raises InvalidValueError for a zip that cannot be used, StorageFullError if it can be retried once there is more space.
    """
    try:
        with path.open("rb") as file:
            _check_list(file)
            with zipfile.ZipFile(file) as archive:
                return _unpack(archive, into, reserve)
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, UnicodeError) as error:
        raise InvalidValueError(f"the zip is damaged ({type(error).__name__})") from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile raises these for both
        raise InvalidValueError("the zip is encrypted, or uses an unsupported compression") from error


def _unpack(archive: zipfile.ZipFile, into: Path, reserve: int) -> tuple[list[Path], list[str]]:
    dicom: list[zipfile.ZipInfo] = []
    others: list[str] = []
    for entry in archive.infolist():
        watchdog.alive()
        if entry.is_dir():
            continue
        if _is_dicom(archive, entry):
            dicom.append(entry)
        else:
            others.append(entry.filename)
    _check_space(into, sum(entry.file_size for entry in dicom), reserve)
    paths = []
    for number, entry in enumerate(dicom, start=1):
        target = into / f"{number:06}.dcm"
        with archive.open(entry) as source:  # it returns at most file_size bytes, and checks the CRC
            durable.write_new(target, _chunks(source))
        paths.append(target)
    return paths, others


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK):
        watchdog.alive()
        yield chunk


def _is_dicom(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    if entry.compress_type not in _METHODS:
        raise NotImplementedError
    with archive.open(entry) as source:
        return source.read(_HEAD)[-4:] == b"DICM"


def _check_space(into: Path, size: int, reserve: int) -> None:
    """Limit the unpacked bytes to the free space minus twice the reserve, below which no image is retrieved."""
    space = disk_space.space_of(into)
    spared = 2 * disk_space.reserve_of(space.total, reserve)
    if size > space.total - spared:
        raise InvalidValueError(f"the zip unpacks to {size} bytes, more than this disk can hold")
    if size > space.free - spared:
        raise StorageFullError(f"no space to unpack {size} bytes: free space on the disk of the drop folder")


def _check_list(file: BinaryIO) -> None:
    """Limit the list of entries by the size that zipfile itself will use: it reads the whole list at once."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is not None and end[zipfile._ECD_SIZE] > _LIST_BYTES:  # type: ignore[attr-defined]
        raise InvalidValueError("the zip lists more files than can be read safely: pack fewer into each")
