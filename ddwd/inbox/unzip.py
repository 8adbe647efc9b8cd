"""Unpack the DICOM files of a zip within bounds: no name of the archive is used, and never more bytes than there is room for.

The list of entries is measured before it is read, since a small file can list millions; of each entry the first bytes are unpacked to see
whether it is DICOM, and only what is gets written, under a number.
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
"""Those that need little memory, and that everything writes."""
_HEAD = 132
_CHUNK = 1 << 20


def is_zip(path: Path) -> bool:
    """Whether it is one, by its end."""
    return zipfile.is_zipfile(path)


def unpack(path: Path, into: Path, reserve: int) -> tuple[list[Path], list[str]]:
    """Write each DICOM file of the zip into the empty folder `into`; these, and the names of what is none.

    Raises InvalidValueError for one that cannot be used, StorageFullError where it may be tried again when there is more room.
    """
    try:
        with path.open("rb") as file:
            _check_list(file)
            with zipfile.ZipFile(file) as archive:
                return _unpack(archive, into, reserve)
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, UnicodeError) as error:
        raise InvalidValueError(f"the zip is damaged ({type(error).__name__})") from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile's words for both
        raise InvalidValueError("the zip is encrypted, or packed in a way that is not known here") from error


def _unpack(archive: zipfile.ZipFile, into: Path, reserve: int) -> tuple[list[Path], list[str]]:
    entries = [one for one in archive.infolist() if not one.is_dir()]
    dicom = []
    for entry in entries:
        watchdog.alive()
        if _is_dicom(archive, entry):
            dicom.append(entry)
    _check_room(into, sum(one.file_size for one in dicom), reserve)
    paths = []
    for number, entry in enumerate(dicom, start=1):
        target = into / f"{number:06}.dcm"
        with archive.open(entry) as source:  # it gives no more than file_size, and checks the sum
            durable.write_new(target, _chunks(source))
        paths.append(target)
    kept = set(dicom)
    return paths, [one.filename for one in entries if one not in kept]


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK):
        watchdog.alive()
        yield chunk


def _is_dicom(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    if entry.compress_type not in _METHODS:
        raise NotImplementedError
    with archive.open(entry) as source:
        return source.read(_HEAD)[-4:] == b"DICM"


def _check_room(into: Path, wanted: int, reserve: int) -> None:
    """At most what is free beside twice the reserve, below which nothing is retrieved."""
    space = disk_space.space_of(into)
    kept = 2 * disk_space.reserve_of(space.total, reserve)
    if wanted > space.total - kept:
        raise InvalidValueError(f"the zip unpacks to {wanted} bytes, more than this disk can hold")
    if wanted > space.free - kept:
        raise StorageFullError(f"no room to unpack {wanted} bytes: make room on the disk of the drop folder")


def _check_list(file: BinaryIO) -> None:
    """Hold the size of the list to its bound, by what zipfile itself will take for it: it reads the whole at once."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is not None and end[zipfile._ECD_SIZE] > _LIST_BYTES:  # type: ignore[attr-defined]
        raise InvalidValueError("the zip lists more files than can be read safely: pack fewer into each")
