"""The only code that makes files durable. One order: write, fsync the file, rename, fsync the folder.

Used by the SCP (received objects), publish, the ledger and the custody records. Every durable step passes
`step(name, path)`, a hook that tests replace to raise at the n-th step and so cut the power anywhere.
A failed fsync is never tried again on the same descriptor: the page cache may already have dropped the data.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ddwd.errors import StorageFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


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


def fsync_dir(folder: Path) -> None:
    """Make the names in `folder` durable."""
    step("fsync_dir", folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_dirs(folder: Path, mode: int = 0o750) -> None:
    """Create `folder` and its missing parents, each made durable in its parent."""
    missing = []
    probe = folder
    while not probe.is_dir():
        missing.append(probe)
        probe = probe.parent
    for path in reversed(missing):
        step("mkdir", path)
        with translated(), suppress(FileExistsError):
            path.mkdir(mode=mode)
        fsync_dir(path.parent)


def write_new(path: Path, chunks: Iterable[bytes | memoryview], mode: int = 0o640) -> None:
    """Write `chunks` to a new file and fsync it; the name itself is not durable until its folder is.

    Raises FileExistsError where the name is taken, StorageFullError where there is no room; leaves nothing behind then.
    """
    step("write", path)
    with translated():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
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

    def __init__(self, path: Path, mode: int = 0o640) -> None:
        step("write", path)
        self.path = path
        with translated():
            self.descriptor = os.open(
                path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode
            )

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


def rename(source: Path, target: Path, *, source_too: bool = True) -> None:
    """Rename within one file system and make both folders durable; replaces an existing file.

    Without `source_too` a power cut may bring the old name back beside the new one: for sources that are swept at start.
    """
    step("rename", target)
    with translated():
        source.rename(target)
    fsync_dir(target.parent)
    if source_too and source.parent != target.parent:
        fsync_dir(source.parent)


def link_new(source: Path, target: Path) -> None:
    """Give `source` the further name `target`, never replacing one: FileExistsError where it is taken."""
    step("link", target)
    with translated():
        os.link(source, target, follow_symlinks=False)


def unlink(path: Path) -> None:
    """Remove a name; one that is already gone is fine."""
    step("unlink", path)
    with suppress(FileNotFoundError):
        path.unlink()


def remove_folder(folder: Path) -> None:
    """Remove an empty folder; one that is not empty, or gone, stays as it is."""
    with suppress(OSError):
        folder.rmdir()


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
