"""Make files durable, always in this order: write, fsync the file, rename, fsync the folder. No other module does.

Every durable step calls `step(name, path)`, which tests replace to raise at the n-th step, as a power cut would end it. A
failed fsync is never repeated on the same descriptor: the page cache may already have dropped the data.
With `below`, no symbolic link is followed below that folder; `below` itself belongs to the operator and may be a link. For root none is
followed that another user may have put (safe_folder.py). A planted link can therefore not redirect a file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ddwd.core import safe_folder
from ddwd.core.errors import LinkedError, StorageFullError
from ddwd.core.safe_folder import enter, reached

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a file is made: never over another one, and not through a link."""


def _no_step(_name: str, _path: Path) -> None:
    pass


step: Callable[[str, Path], None] = _no_step


@contextmanager
def translated() -> Iterator[None]:
    """Raise StorageFullError for ENOSPC and EDQUOT; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFullError(
                f"no room left on the volume of {error.filename or 'the output'}"
            ) from error
        raise


def fsync_dir(folder: Path, below: Path | None = None) -> None:
    """Make the names in `folder` durable."""
    step("fsync_dir", folder)
    descriptor = enter(folder, below)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_dirs(folder: Path, mode: int = 0o750, below: Path | None = None, *, inherit: bool = False) -> None:
    """Create `folder` and its missing parents, each made durable in its parent; `inherit` as for `make_dir`."""
    if not _is_there(folder, below):
        make_dirs(folder.parent, mode, below, inherit=inherit)
        make_dir(folder, mode, below, inherit=inherit)


def make_dir(folder: Path, mode: int = 0o750, below: Path | None = None, *, inherit: bool = False) -> None:
    """Create `folder` in its parent, durably; an existing folder is no error.

    With `inherit` a new one has exactly that mode and, made by root, the owner of its parent.
    """
    step("mkdir", folder)
    with translated(), reached(folder, below) as (name, parent), suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=parent)
        if inherit:
            _inherit(name, parent, mode)
    fsync_dir(folder.parent, below)


def _inherit(name: Path | str, parent: int | None, mode: int) -> None:
    descriptor = os.open(name, safe_folder.FOLDER, dir_fd=parent)
    try:
        status = os.fstat(descriptor if parent is None else parent)
        safe_folder.give_open(descriptor, status.st_uid, status.st_gid, mode)
    finally:
        os.close(descriptor)


def _is_there(folder: Path, below: Path | None) -> bool:
    try:
        os.close(enter(folder, below))
    except FileNotFoundError:
        return False
    return True


class NewFile:
    """A new file for data that arrives in pieces: call `sync` before its rename, or `abandon`.

    Raises FileExistsError if the name is taken and StorageFullError if there is no space.
    """

    def __init__(self, path: Path, mode: int = 0o640, below: Path | None = None) -> None:
        step("write", path)
        self.path, self._below = path, below
        with translated(), reached(path, below) as (name, folder):
            self.descriptor = os.open(name, NEW, mode, dir_fd=folder)

    def write(self, chunk: bytes | memoryview) -> None:
        """Append the whole chunk."""
        view = memoryview(chunk).cast("B")
        with translated():
            while view.nbytes:
                view = view[os.write(self.descriptor, view) :]

    def sync(self) -> None:
        """Make the content durable and close the file; its name is durable only once the folder is fsynced."""
        step("fsync", self.path)
        with translated():
            os.fsync(self.descriptor)
            self._close()

    def abandon(self) -> None:
        """Close the file, if it is open, and remove it."""
        self._close()
        with suppress(OSError, LinkedError):
            _remove(self.path, self._below)

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def write_new(
    path: Path,
    chunks: Iterable[bytes | memoryview],
    mode: int = 0o640,
    below: Path | None = None,
    *,
    exact_mode: bool = False,
    owner: tuple[int, int] | None = None,
) -> None:
    """Write `chunks` to a new file and fsync it; its name is durable only once the folder is fsynced.

    With `exact_mode`, the umask does not restrict `mode`; `owner` are the numbers of user and group, if not those of the process.
    Raises FileExistsError if the name is taken and StorageFullError if there is no space; no file is left then.
    """
    file = NewFile(path, mode, below)
    try:
        if owner is not None:
            os.fchown(file.descriptor, *owner)
        if exact_mode:
            os.fchmod(file.descriptor, mode)
        for chunk in chunks:
            file.write(chunk)
        file.sync()
    except BaseException:
        file.abandon()
        raise


def append(path: Path, content: bytes) -> None:
    """Add `content` to the end of a file. What an error, or a disk that fills up, has left of it is cut off again.

    Raises StorageFullError and OSError.
    """
    step("append", path)
    # no buffer, which would be written again when the file is closed after an error
    with translated(), path.open("ab", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        try:
            view = memoryview(content)
            while view.nbytes:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.ftruncate(file.fileno(), length)
            raise


def cut(path: Path, length: int) -> None:
    """Shorten a file to `length` bytes."""
    step("cut", path)
    with path.open("rb+") as file:
        file.truncate(length)
        os.fsync(file.fileno())


def rename(source: Path, target: Path, *, source_too: bool = True, below: Path | None = None) -> None:
    """Rename within one file system and make both folders durable; replaces an existing file.

    Without `source_too` the old name may exist beside the new one after a power cut: for sources that are swept at start.
    """
    step("rename", target)
    with translated(), reached(source, below) as (old, origin), reached(target, below) as (new, folder):
        os.rename(old, new, src_dir_fd=origin, dst_dir_fd=folder)
    fsync_dir(target.parent, below)
    if source_too and source.parent != target.parent:
        fsync_dir(source.parent, below)


def link_new(source: Path, target: Path, below: Path | None = None) -> None:
    """Make `target` a hard link to `source`. Raises FileExistsError if the name is taken: no file is replaced."""
    step("link", target)
    with translated(), reached(source, below) as (old, origin), reached(target, below) as (new, folder):
        os.link(old, new, src_dir_fd=origin, dst_dir_fd=folder, follow_symlinks=False)


def unlink(path: Path, below: Path | None = None) -> None:
    """Remove a name; a missing one is no error. If it is a link, its target stays."""
    step("unlink", path)
    _remove(path, below)


def _remove(path: Path, below: Path | None = None) -> None:
    with suppress(FileNotFoundError), reached(path, below) as (name, folder):
        os.unlink(name, dir_fd=folder)


def remove_folder(folder: Path, below: Path | None = None) -> None:
    """Remove an empty folder; leave one that is not empty, is missing or is a link."""
    with suppress(OSError, LinkedError), reached(folder, below) as (name, parent):
        os.rmdir(name, dir_fd=parent)


def replace_file(
    path: Path,
    content: bytes,
    mode: int = 0o640,
    *,
    exact_mode: bool = False,
    owner: tuple[int, int] | None = None,
) -> None:
    """Write `content` to `path` in one step: a reader, also after a power cut, sees all of the old or all of the new content.

    With `exact_mode`, the umask does not restrict `mode`: for a reader that is another user. `owner` as for `write_new`.
    """
    temporary = _temporary(path)
    _remove(temporary)
    write_new(temporary, [content], mode, exact_mode=exact_mode, owner=owner)
    try:
        rename(temporary, path)
    except (OSError, StorageFullError):
        with suppress(OSError, LinkedError):
            _remove(temporary)
        raise


def replace_volatile(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` to `path` in one step, but not durably: for files on /run only."""
    temporary = _temporary(path)
    _remove(temporary)
    with reached(temporary) as (part, folder), reached(path) as (name, target):
        with os.fdopen(os.open(part, NEW, mode, dir_fd=folder), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
        os.rename(part, name, src_dir_fd=folder, dst_dir_fd=target)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")
