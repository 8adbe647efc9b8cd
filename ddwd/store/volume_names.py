"""Find out which names the volume of OUTPUT_DIR tells apart. Some volumes, most of them shares, ignore case, store names in another form of
Unicode, or refuse characters: there the names of folders and files are marked (core.model.marked_component).
"""

from __future__ import annotations

import os
import unicodedata
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ddwd.core import durable, safe_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ORDINARY = ".ddwd-probe"
_VARIED = ".ddwd-probe Aa \u00e9 \u00c5 \u1e9b\u0323"
"""Has letters of either case, and letters that each normal form of Unicode writes in another way."""
_REFUSED_BY_SOME = '.ddwd-probe:*?"<>|'
_LONGEST = ".ddwd-probe".ljust(255, "n")


def needs_marks(folder: Path, below: Path) -> bool:
    """Return whether names must be marked on the volume of `folder`, which is made if it is missing. Raises OSError if it takes no file."""
    durable.make_dirs(folder, below=below)
    directory = safe_folder.enter(folder, below)
    try:
        with _made(_ORDINARY, directory):  # what fails now has nothing to do with names
            pass
        return not all(_holds(name, directory) for name in (_VARIED, _REFUSED_BY_SOME, _LONGEST))
    finally:
        os.close(directory)


def _holds(name: str, directory: int) -> bool:
    """Return whether the volume keeps that name as it is, and no file has it in another case or normal form."""
    forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    others = {name.swapcase(), name.upper(), name.lower(), *forms} - {name}
    try:
        with _made(name, directory):
            found = os.listdir(directory)
            return name in found and not any(_is_there(other, directory) for other in others)
    except OSError:
        return False


@contextmanager
def _made(name: str, directory: int) -> Iterator[None]:
    """Make an empty file of that name for a moment; what an interrupted start left is removed."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    os.close(os.open(name, flags, 0o600, dir_fd=directory))
    try:
        yield
    finally:
        os.unlink(name, dir_fd=directory)


def _is_there(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
