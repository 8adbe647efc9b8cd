"""Reach folders and files so that no other user of the machine can redirect or block this process.

A user who may write to a folder can put a link, a pipe or another folder in the place of a name at any moment, also between a check
and the step after it. So no step goes by a path: root opens each folder in the one above it, the step itself is relative to the open
folder, and owner and mode are set on open descriptors. A symbolic link is followed only in a folder whose names no other user can change.
Reading never blocks: a pipe or a device in the place of a file is an error.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from ddwd.core.errors import LinkedError

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a folder is opened in the one above it."""
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a file is opened for reading: without waiting for the writer of a pipe."""
_PASSAGE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LINKED = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO})
_GIVEN = frozenset({stat.S_IFREG, stat.S_IFDIR})
_MOST_LINKS = 40
"""As many as the kernel follows on the way to one file (path_resolution(7))."""
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def _is_root() -> bool:
    return os.geteuid() == 0


def _ours() -> set[int]:
    """Return the users who may put links where this process follows them: root and its own user."""
    return {0, os.geteuid()}


@contextmanager
def linked(below: Path) -> Iterator[None]:
    """Raise LinkedError, whose text has no patient data, for what is no folder or regular file; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _LINKED:
            raise _no_file(below) from error
        raise


def _no_file(below: Path) -> LinkedError:
    return LinkedError(
        "a symbolic link, a pipe or a file is where the portal has a folder or an image, and is not followed: "
        f"find {below} ! -type f ! -type d"
    )


def enter(folder: Path, below: Path | None = None) -> int:
    """Return a descriptor of `folder`, opened from `below` down without following a link. Raises LinkedError and OSError.

    `below` itself may be a link of the operator's. For root, `below` or else `folder` is reached by `walk`.
    """
    top = folder if below is None else below
    descriptor = walk(top) if _is_root() else os.open(top, FOLDER & ~os.O_NOFOLLOW)
    for part in folder.relative_to(top).parts:
        try:
            with linked(top):
                inner = os.open(part, FOLDER, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


def walk(path: Path, flags: int = FOLDER) -> int:
    """Open the file or folder at `path` from / down; a link is followed only where no other user could have put it.

    Raises LinkedError for any other link, and OSError.
    """
    waiting = list(reversed(path.absolute().parts))
    descriptor = os.open("/", _PASSAGE)
    links = 0
    try:
        while waiting:
            name = waiting.pop()
            try:
                inner = os.open(name, (_PASSAGE if waiting else flags) | os.O_NOFOLLOW, dir_fd=descriptor)
            except OSError as error:
                if error.errno not in _LINKED or (links := links + 1) > _MOST_LINKS:
                    raise OSError(error.errno, error.strerror, str(path)) from error
                waiting.extend(reversed(_target(name, descriptor, path).parts))
                continue
            os.close(descriptor)
            descriptor = inner
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _target(name: str, folder: int, path: Path) -> Path:
    """Return where a link points to. Raises LinkedError if another user may have put it, and NotADirectoryError if it is no link."""
    try:
        target = os.readlink(name, dir_fd=folder)
    except OSError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error
    if _is_open_to_others(os.fstat(folder)):
        raise _no_file(path)
    return Path(target)


def _is_open_to_others(folder: os.stat_result) -> bool:
    """Return whether a user besides root and this one may change the names in a folder."""
    return folder.st_uid not in _ours() or bool(folder.st_mode & _OTHERS_WRITE)


def foreign(path: Path, ours: Container[int] | None = None) -> Path | None:
    """Return the first place on the way to `path`, itself included, that another user owns, can replace or can write to; None if none is.

    `ours` are the users that count as no other: by default root and that of this process. Raises OSError. Only where it is None, steps
    below a folder may go by a path, or a file may be run.
    """
    users, whole = _ours() if ours is None else ours, path.absolute()
    status, is_safe = whole.stat(), True  # a circle of links ends here
    for place in [*reversed(whole.parents), whole]:
        status = place.lstat()
        if not is_safe or status.st_uid not in users:
            return place
        if stat.S_ISLNK(status.st_mode):
            return foreign(place.parent / place.readlink() / whole.relative_to(place), users)
        # in a folder as /tmp, a name belongs to the user who made it
        is_safe = not status.st_mode & _OTHERS_WRITE or bool(status.st_mode & stat.S_ISVTX)
    return whole if stat.S_ISREG(status.st_mode) and status.st_mode & _OTHERS_WRITE else None


@contextmanager
def reached(path: Path, below: Path | None = None) -> Iterator[tuple[Path | str, int | None]]:
    """Yield the name to open `path` by, and the descriptor of the folder that the name is relative to.

    The descriptor is None, and the name the path, for any user but root without `below`: such a step has no right that the user who
    put a link there lacks. Raises LinkedError and OSError.
    """
    if below is None and not _is_root():
        yield path, None
        return
    descriptor = enter(path.parent, below)
    try:
        with linked(below or path.parent):
            yield path.name, descriptor
    except OSError as error:
        if error.filename == path.name:
            error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def opened(path: Path, below: Path | None = None) -> BufferedReader:
    """Open a regular file for reading, not through a link. Raises LinkedError for a pipe or a device too, and OSError."""
    with linked(below or path.parent), reached(path, below) as (name, folder):
        descriptor = os.open(name, FILE, dir_fd=folder)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind == stat.S_IFREG:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise _no_file(below or path.parent)


def read(path: Path, most: int = -1) -> bytes:
    """Return the content of a regular file, at most so many bytes. Raises LinkedError and OSError as `opened`."""
    with opened(path) as file:
        return file.read(most)


def give(path: Path, user: int, group: int, mode: int) -> None:
    """Set owner, group and mode of a file or folder where they differ. Raises LinkedError and OSError."""
    descriptor = walk(path, FILE)
    try:
        if stat.S_IFMT(os.fstat(descriptor).st_mode) not in _GIVEN:
            raise _no_file(path.parent)
        give_open(descriptor, user, group, mode)
    finally:
        os.close(descriptor)


def give_open(descriptor: int, user: int, group: int, mode: int) -> None:
    """Set owner, group and mode of an open file or folder where they differ. Raises OSError."""
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (user, group):
        os.fchown(descriptor, user, group)
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        os.fchmod(descriptor, mode)
