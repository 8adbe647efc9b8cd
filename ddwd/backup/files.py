"""Walk, copy and check the files of a backup, and read and write its lists of checksums.

A list is what `sha256sum` writes, so that an operator can check a set without ddwd: `cd SET && sha256sum --check --quiet sums/*`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from ddwd.config.paths import PRIVATE
from ddwd.core import durable, safe_folder
from ddwd.core.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_CHUNK = 1024**2
_PARTIAL = ".part"
"""Suffix of the portal's files while they are being written."""
_FICLONE = 0x40049409
"""ioctl_ficlone(2): the new file shares the blocks of the old one until either is written to."""
_ESCAPES = ((b"\\", b"\\\\"), (b"\n", b"\\n"), (b"\r", b"\\r"))
"""In the order in which sha256sum escapes a name; the line begins with a backslash then."""
_LINE = re.compile(rb"(\\?)([0-9a-f]{64})  (.+)\n")


class Progress(Protocol):
    """Receives the progress of each step, for a terminal."""

    def step(self, words: str, total: int) -> None:
        """Begin a step of `total` bytes; 0 if the size is unknown."""

    def moved(self, amount: int) -> None:
        """Count `amount` more bytes as done."""


# --- folders ----------------------------------------------------------------------------------------------------------


class TreeFile(NamedTuple):
    """A regular file of a tree: its path below the tree, the open descriptor of its folder, and its status."""

    below: str
    folder: int
    status: os.stat_result


def files(folder: Path, left_out: Iterable[str] = ()) -> Iterator[TreeFile]:
    """Yield every regular file below a folder, which may change meanwhile, in the order of `place`.

    Skips links, files that are still being written, and the names `left_out` directly below the folder. The folder itself may be
    a link where no other user could have put it, for example to a larger volume; otherwise LinkedError is raised.
    Raises OSError for a folder that cannot be read; a file or folder that is missing is no error.
    """
    try:
        top = safe_folder.enter(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    apart = {PRIVATE, *left_out}
    try:
        for root, folders, names, descriptor in os.fwalk(".", dir_fd=top, onerror=_unless_gone):
            below = root[2:] and f"{root[2:]}/"
            if not below:
                folders[:] = [name for name in folders if name not in apart]
            folders.sort()
            for name in sorted(names):
                if (not below and name in apart) or (name.startswith(".") and name.endswith(_PARTIAL)):
                    continue
                try:
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield TreeFile(below + name, descriptor, status)
    finally:
        os.close(top)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def place(below: str) -> tuple[tuple[bool, str], ...]:
    """Return the sort key of a path: of each folder first its files, then its folders, both by name."""
    *folders, name = below.split("/")
    return (*((True, folder) for folder in folders), (False, name))


@contextmanager
def opened(path: str | Path, flags: int, mode: int = 0o777, *, folder: int | None = None) -> Iterator[int]:
    """Yield a descriptor of a file or folder, relative to the open `folder` if given. Raises OSError."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# --- contents ---------------------------------------------------------------------------------------------------------


class Content(NamedTuple):
    """Size and SHA-256 of a file."""

    size: int
    sha256: str


def copy(source: int, target: int, progress: Progress | None = None) -> Content:
    """Copy an open file from its beginning to another, which is new and open for reading too. Raises StorageFullError.

    Where the file system can, both share their blocks until one of them is written to (reflink); it is no hard link.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        with durable.translated(), open(target, "wb", closefd=False) as new:
            return digest(source, progress, new.write)
    return digest(target, progress)


def can_share(folder: Path) -> bool:
    """Return whether the file system of a folder lets two files share their blocks."""
    path = folder / f".share{_PARTIAL}"
    try:
        with opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600) as one:
            path.unlink()
            os.write(one, b"x")
            with opened(folder, os.O_RDWR | os.O_TMPFILE, 0o600) as other:
                fcntl.ioctl(other, _FICLONE, one)
    except OSError:
        return False
    return True


def digest(
    file: int, progress: Progress | None = None, also: Callable[[memoryview], object] = len
) -> Content:
    """Return size and SHA-256 of an open file, read from its beginning; `also` gets each piece of it."""
    piece = memoryview(bytearray(_CHUNK))
    found, size = hashlib.sha256(), 0
    os.lseek(file, 0, os.SEEK_SET)
    with open(file, "rb", buffering=0, closefd=False) as raw:
        while count := raw.readinto(piece):
            found.update(piece[:count])
            also(piece[:count])
            size += count
            if progress is not None:
                progress.moved(count)
    return Content(size, found.hexdigest())


def digest_of(path: Path, progress: Progress | None = None) -> Content | None:
    """Return size and SHA-256 of a regular file; None if there is none at that path, or it cannot be read."""
    try:
        with opened(path, safe_folder.FILE) as file:
            return digest(file, progress) if stat.S_ISREG(os.fstat(file).st_mode) else None
    except OSError:
        return None


# --- lists of checksums -----------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A line of a list: the path of a file below its tree, and its SHA-256."""

    below: str
    sha256: str


class ListWriter:
    """Write the list of one tree; its entries come in the order of `place`."""

    def __init__(self, path: Path, tree: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._tree = os.fsencode(tree)
        self._found = hashlib.sha256()

    def __enter__(self) -> Self:
        """Write within a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the list."""
        self._file.close()

    def add(self, below: str, sha256: str) -> None:
        """Add a file."""
        name = escaped = self._tree + b"/" + os.fsencode(below)
        for plain, written in _ESCAPES:
            escaped = escaped.replace(plain, written)
        line = (b"\\" if escaped != name else b"") + sha256.encode("ascii") + b"  " + escaped + b"\n"
        self._found.update(line)
        self._file.write(line)

    @property
    def sha256(self) -> str:
        """SHA-256 of the list as it is written so far."""
        return self._found.hexdigest()


def entries(path: Path, tree: str) -> Iterator[Entry]:
    """Yield the entries of the list of one tree. Raises StateError for any other line, OSError if it cannot be read."""
    prefix = os.fsencode(tree) + b"/"
    with path.open("rb") as file:
        for line in file:
            found = _LINE.fullmatch(line)
            name = _name(*found.groups()) if found else b""
            if found is None or not name.startswith(prefix):
                raise StateError(f"{path}: a line is not as it was written: the backup is damaged")
            yield Entry(os.fsdecode(name.removeprefix(prefix)), found[2].decode("ascii"))


def _name(escaped: bytes, _sha256: bytes, written: bytes) -> bytes:
    """Return the name of a line as it is in the file system."""
    if not escaped:
        return written
    return re.sub(rb"\\(.)", lambda found: {b"n": b"\n", b"r": b"\r"}.get(found[1], found[1]), written)


class Lookup:
    """The checksums of a list for a walk in its own order: it is read once, and never held in memory."""

    def __init__(self, found: Iterator[Entry]) -> None:
        self._rest = found
        self._next = next(found, None)

    def sha256(self, below: str) -> str | None:
        """Return the checksum of a file, None if the list has none; each path asked for comes after the one before."""
        wanted = place(below)
        while self._next is not None and place(self._next.below) < wanted:
            self._next = next(self._rest, None)
        return self._next.sha256 if self._next is not None and self._next.below == below else None
