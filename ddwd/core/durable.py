"""The only code that makes files durable. One order: write, fsync the file, rename, fsync the folder.

Used by the SCP (received objects), publish, the ledger and the custody records. Every durable step passes
`step(name, path)`, a hook that tests replace to raise at the n-th step and so cut the power anywhere.
A failed fsync is never tried again on the same descriptor: the page cache may already have dropped the data.
Where a step is told what it is `below`, no link is followed from there on, each folder being opened in the one before it: a
planted link leads no file elsewhere. It raises LinkedError; `below` itself is the operator's, and may be one.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ddwd.core.errors import LinkedError, StorageFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import BufferedReader
    from pathlib import Path

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_LINKED = frozenset({errno.ELOOP, errno.ENOTDIR})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _no_hook(_name: str, _path: Path) -> None:
    """Production: a durable step is just itself."""


step: Callable[[str, Path], None] = _no_hook


@contextmanager
def translated() -> Iterator[None]:
    """Turn "no room" of the operating system into StorageFullError; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFullError(
                f"no room left on the volume of {error.filename or 'the output'}"
            ) from error
        raise


@contextmanager
def linked(below: Path) -> Iterator[None]:
    """Turn "there is a link, or no folder" of the operating system into LinkedError, which names no patient; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _LINKED:
            raise LinkedError(
                f"a symbolic link or a file stands where the portal has a folder or an image, and is not followed: find {below} -type l"
            ) from error
        raise


def _enter(folder: Path, below: Path | None) -> int:
    """A descriptor of `folder`, reached from `below` without following a link. Raises LinkedError, OSError."""
    if below is None:
        return os.open(folder, _FOLDER)
    descriptor = os.open(below, _FOLDER)
    for part in folder.relative_to(below).parts:
        try:
            with linked(below):
                inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


@contextmanager
def _reached(path: Path, below: Path | None) -> Iterator[tuple[Path | str, int | None]]:
    """How to call `path`, and the open folder that it is called so in."""
    if below is None:
        yield path, None
        return
    descriptor = _enter(path.parent, below)
    try:
        with linked(below):
            yield path.name, descriptor
    finally:
        os.close(descriptor)


def opened(path: Path, below: Path | None = None) -> BufferedReader:
    """A file to read, which is no link. Raises LinkedError, OSError."""
    with linked(below or path.parent), _reached(path, below) as (name, folder):
        return os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder), "rb")


def fsync_dir(folder: Path, below: Path | None = None) -> None:
    """Make the names in `folder` durable."""
    step("fsync_dir", folder)
    descriptor = _enter(folder, below)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_dirs(folder: Path, mode: int = 0o750, below: Path | None = None) -> None:
    """Create `folder` and its missing parents, each made durable in its parent."""
    missing = []
    probe = folder
    while not _is_there(probe, below):
        missing.append(probe)
        probe = probe.parent
    for path in reversed(missing):
        make_dir(path, mode, below)


def make_dir(folder: Path, mode: int = 0o750, below: Path | None = None) -> None:
    """Create `folder` in its parent, durably; one that is there is fine."""
    step("mkdir", folder)
    with translated(), _reached(folder, below) as (name, parent), suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=parent)
    fsync_dir(folder.parent, below)


def _is_there(folder: Path, below: Path | None) -> bool:
    if below is None:
        return folder.is_dir()
    try:
        os.close(_enter(folder, below))
    except FileNotFoundError:
        return False
    return True


def write_new(path: Path, chunks: Iterable[bytes | memoryview], mode: int = 0o640) -> None:
    """Write `chunks` to a new file and fsync it; the name itself is not durable until its folder is.

    Raises FileExistsError where the name is taken, StorageFullError where there is no room; leaves nothing behind then.
    """
    step("write", path)
    with translated():
        descriptor = os.open(path, _NEW, mode)
        try:
            with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - opens a descriptor, not a path
                for chunk in chunks:
                    _write_all(file.fileno(), chunk)
                step("fsync", path)
                os.fsync(file.fileno())
        except BaseException:
            with suppress(FileNotFoundError):
                path.unlink()
            raise


def _write_all(descriptor: int, chunk: bytes | memoryview) -> None:
    view = memoryview(chunk).cast("B")
    while view.nbytes:
        view = view[os.write(descriptor, view) :]


class NewFile:
    """A new file that grows by writes, for data that arrives in pieces; `sync` it before its rename, or `abandon` it.

    Raises FileExistsError where the name is taken, StorageFullError where there is no room.
    """

    def __init__(self, path: Path, mode: int = 0o640, below: Path | None = None) -> None:
        step("write", path)
        self.path = path
        with translated(), _reached(path, below) as (name, folder):
            self.descriptor = os.open(name, _NEW, mode, dir_fd=folder)

    def write(self, chunk: bytes | memoryview) -> None:
        """Append the whole chunk."""
        with translated():
            _write_all(self.descriptor, chunk)

    def sync(self) -> None:
        """Make the content durable and close the file; the name is durable once its folder is."""
        step("fsync", self.path)
        with translated():
            os.fsync(self.descriptor)
        self._close()

    def abandon(self) -> None:
        """Close the file and remove its name, whatever state it is in."""
        self._close()
        with suppress(OSError):
            self.path.unlink()

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def rename(source: Path, target: Path, *, source_too: bool = True, below: Path | None = None) -> None:
    """Rename within one file system and make both folders durable; replaces an existing file.

    Without `source_too` a power cut may bring the old name back beside the new one: for sources that are swept at start.
    """
    step("rename", target)
    with translated(), _reached(source, below) as (old, origin), _reached(target, below) as (new, folder):
        os.rename(old, new, src_dir_fd=origin, dst_dir_fd=folder)
    fsync_dir(target.parent, below)
    if source_too and source.parent != target.parent:
        fsync_dir(source.parent, below)


def link_new(source: Path, target: Path, below: Path | None = None) -> None:
    """Give `source` the further name `target`, never replacing one: FileExistsError where it is taken."""
    step("link", target)
    with translated(), _reached(source, below) as (old, origin), _reached(target, below) as (new, folder):
        os.link(old, new, src_dir_fd=origin, dst_dir_fd=folder, follow_symlinks=False)


def unlink(path: Path, below: Path | None = None) -> None:
    """Remove a name; one that is already gone is fine. Where it is a link, what it leads to stays."""
    step("unlink", path)
    with suppress(FileNotFoundError), _reached(path, below) as (name, folder):
        os.unlink(name, dir_fd=folder)


def remove_folder(folder: Path, below: Path | None = None) -> None:
    """Remove an empty folder; one that is not empty, gone, or a link stays as it is."""
    with suppress(OSError, LinkedError), _reached(folder, below) as (name, parent):
        os.rmdir(name, dir_fd=parent)


def replace_file(path: Path, content: bytes, mode: int = 0o640) -> None:
    """Put `content` at `path` in one step: a reader, or a start after a power cut, sees the old or the new, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with suppress(FileNotFoundError):
        temporary.unlink()
    write_new(temporary, [content], mode)
    rename(temporary, path)


def replace_volatile(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put `content` at `path` in one step for readers of this moment; not durable, for files on /run only."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content)
    temporary.chmod(mode)
    temporary.replace(path)
