"""Split an item into the files to send and the others, each with the reason. A zip is unpacked into a folder of its own first."""

from __future__ import annotations

import os
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.uid import MediaStorageDirectoryStorage

from ddwd.core import watchdog
from ddwd.core.errors import StateError
from ddwd.dicom.store_scu import Answer, Outgoing, examine
from ddwd.inbox import unzip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.inbox.scanner import Item

_DICOMDIR_BYTES = 64 * 1024 * 1024


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
        files, others = unzip.unpack(item.path, work, reserve)
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
        raise StateError("user ddwd cannot read or move it; run: chgrp -R ddwd ITEM; chmod -R g+rwX ITEM")


def _missing(dicomdir: Path) -> Iterator[str]:
    """Yield the files that a DICOMDIR names (PS3.3 section F.3.2.2) and that are not beside it, in upper or lower case."""
    if dicomdir.stat().st_size > _DICOMDIR_BYTES:
        return
    folder = dicomdir.parent
    present = {
        str(Path(inner, name).relative_to(folder)).upper()
        for inner, _, names in os.walk(folder)
        for name in names
    }
    with suppress(Exception):  # damaged: all DICOM files are sent anyway
        for record in dcmread(dicomdir).DirectoryRecordSequence:
            parts = record.get("ReferencedFileID")
            name = "/".join([parts] if isinstance(parts, str) else parts or ())
            if name and name.upper() not in present:
                yield name
