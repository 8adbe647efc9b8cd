"""Make files durable, always in this order: write, fsync the file, rename, fsync the folder. No other module does.

Every durable step calls `step(name, path)`, which tests replace to raise at the n-th step, as a power cut would end it. A
failed fsync is never repeated on the same descriptor: the page cache may already have dropped the data.
With `below`, no symbolic link is followed below that folder: each folder is opened relative to its parent, and a link raises
LinkedError. A planted link can therefore not redirect a file. `below` itself belongs to the operator and may be a link.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from ddwd.core.errors import LinkedError, StorageFullError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_LINKED = frozenset({errno.ELOOP, errno.ENOTDIR})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


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


@contextmanager
def linked(below: Path) -> Iterator[None]:
    """Raise LinkedError, whose text has no patient data, for ELOOP and ENOTDIR; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _LINKED:
            raise LinkedError(
                f"a symbolic link or a file is where the portal has a folder or an image, and is not followed: find {below} -type l"
            ) from error
        raise


def _enter(folder: Path, below: Path | None) -> int:
    """Return a descriptor of `folder`, opened from `below` down without following a link. Raises LinkedError and OSError."""
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
    """Yield the name to open `path` by, and the descriptor of the folder that the name is relative to (None: `path` as it is)."""
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
    """Open a file for reading, not through a link. Raises LinkedError and OSError."""
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
    if not _is_there(folder, below):
        make_dirs(folder.parent, mode, below)
        make_dir(folder, mode, below)


def make_dir(folder: Path, mode: int = 0o750, below: Path | None = None) -> None:
    """Create `folder` in its parent, durably; an existing folder is no error."""
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


class NewFile:
    """A new file for data that arrives in pieces: call `sync` before its rename, or `abandon`.

    Raises FileExistsError if the name is taken and StorageFullError if there is no space.
    """

    def __init__(self, path: Path, mode: int = 0o640, below: Path | None = None) -> None:
        step("write", path)
        self.path = path
        with translated(), _reached(path, below) as (name, folder):
            self.descriptor = os.open(name, _NEW, mode, dir_fd=folder)

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
        with suppress(OSError):
            self.path.unlink()

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def write_new(
    path: Path, chunks: Iterable[bytes | memoryview], mode: int = 0o640, below: Path | None = None
) -> None:
    """Write `chunks` to a new file and fsync it; its name is durable only once the folder is fsynced.

    Raises FileExistsError if the name is taken and StorageFullError if there is no space; no file is left then.
    """
    file = NewFile(path, mode, below)
    try:
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
    with translated(), _reached(source, below) as (old, origin), _reached(target, below) as (new, folder):
        os.rename(old, new, src_dir_fd=origin, dst_dir_fd=folder)
    fsync_dir(target.parent, below)
    if source_too and source.parent != target.parent:
        fsync_dir(source.parent, below)


def link_new(source: Path, target: Path, below: Path | None = None) -> None:
    """Make `target` a hard link to `source`. Raises FileExistsError if the name is taken: no file is replaced."""
    step("link", target)
    with translated(), _reached(source, below) as (old, origin), _reached(target, below) as (new, folder):
        os.link(old, new, src_dir_fd=origin, dst_dir_fd=folder, follow_symlinks=False)


def unlink(path: Path, below: Path | None = None) -> None:
    """Remove a name; a missing one is no error. If it is a link, its target stays."""
    step("unlink", path)
    with suppress(FileNotFoundError), _reached(path, below) as (name, folder):
        os.unlink(name, dir_fd=folder)


def remove_folder(folder: Path, below: Path | None = None) -> None:
    """Remove an empty folder; leave one that is not empty, is missing or is a link."""
    with suppress(OSError, LinkedError), _reached(folder, below) as (name, parent):
        os.rmdir(name, dir_fd=parent)


def replace_file(path: Path, content: bytes, mode: int = 0o640, *, exact_mode: bool = False) -> None:
    """Write `content` to `path` in one step: a reader, also after a power cut, sees all of the old or all of the new content.

    With `exact_mode`, the umask does not restrict `mode`: for a reader that is another user.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.unlink(missing_ok=True)
    write_new(temporary, [content], mode)
    try:
        if exact_mode:
            temporary.chmod(mode)
        rename(temporary, path)
    except (OSError, StorageFullError):
        with suppress(OSError):
            temporary.unlink()
        raise


def replace_volatile(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` to `path` in one step, but not durably: for files on /run only."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content)
    temporary.chmod(mode)
    temporary.replace(path)
