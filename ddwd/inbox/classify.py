"""Split an item into the files to send and the others, each with the reason. A zip is unpacked into a folder of its own first."""

from __future__ import annotations

import os
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
    """Look into an item; `work` is an empty folder for the files of a zip.

    Raises StateError where it may not be read or moved yet, InvalidValueError for a zip that cannot be used, StorageFullError.
    """
    _check_access(item)
    left = [
        (str(one.relative_to(item.path.parent)), "not a file: links are not followed") for one in item.others
    ]
    files = list(item.files)
    if files == [item.path] and unzip.is_zip(item.path) and isinstance(examine(item.path), Answer):
        files, others = unzip.unpack(item.path, work, reserve)
        left += [(name, "not a DICOM file") for name in others]
    outgoing = []
    for file in files:
        watchdog.alive()
        found = examine(file)
        name = str(file.relative_to(item.path.parent)) if file.is_relative_to(item.path) else file.name
        if isinstance(found, Answer):
            left.append((name, found.reason))
        elif found.sop_class != MediaStorageDirectoryStorage:
            outgoing.append(found)
        elif file != item.path and file.is_relative_to(item.path):
            left += [(missing, "named in the DICOMDIR, and not here") for missing in _missing(file)]
    return Contents(tuple(outgoing), tuple(left))


def _check_access(item: Item) -> None:
    """Whoever cannot read it and move it must not send it again and again."""
    fine = all(os.access(one, os.R_OK | os.X_OK) for one in item.folders)
    # a folder changes its own entry for the one above it when it is moved
    fine = fine and all(os.access(one, os.W_OK) for one in item.folders[:1])
    if not fine or not all(os.access(one, os.R_OK) for one in item.files):
        raise StateError(
            "user ddwd may not read or not move it: chgrp -R ddwd and chmod -R g+rwX it, where it lies"
        )


def _missing(dicomdir: Path) -> Iterator[str]:
    """The files that a DICOMDIR names (PS3.3 section F.3.2.2) and that are not beside it, in whatever case."""
    if dicomdir.stat().st_size > _DICOMDIR_BYTES:
        return
    folder = dicomdir.parent
    there = {
        str(Path(inner, name).relative_to(folder)).upper()
        for inner, _, names in os.walk(folder)
        for name in names
    }
    with suppress(Exception):  # a damaged one says nothing: all that is DICOM is sent anyway
        for record in dcmread(dicomdir).DirectoryRecordSequence:
            parts = record.get("ReferencedFileID")
            name = "/".join([parts] if isinstance(parts, str) else parts or ())
            if name and name.upper() not in there:
                yield name
