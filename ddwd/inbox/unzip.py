"""Unpack the DICOM files of a zip within bounds: no name of the archive is used, and never more bytes than there is space for.

The list of entries is measured before it is read, since a small file can list millions. The first bytes of each entry show whether it
is DICOM; only DICOM files are written, each under a number.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, BinaryIO

from ddwd.core import disk_space, durable, watchdog
from ddwd.core.errors import InvalidValueError, StorageFullError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LIST_BYTES = 8 * 1024 * 1024
"""Size of the list of entries: some ninety thousand names."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Those that need little memory, and that every program can write."""
_HEAD = 132
_CHUNK = 1 << 20


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
