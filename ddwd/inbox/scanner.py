"""Find the items of the drop folder and when each is complete: unchanged for some seconds, and open for writing in no process. Reads only.

By the names in the folder, the size and time of each file, and the monotonic clock: the age of a file does not count, since a copy may
keep the times of the original. Hidden names and `*.part` wait until they are renamed, an empty folder until it has files. No link is
followed.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from watchdog.observers.inotify_c import Inotify, InotifyConstants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from watchdog.observers.inotify_c import InotifyEvent

    from ddwd.core.clock import Clock

log = logging.getLogger("ddwd.inbox")

SENT, REJECTED, WAITING = "sent", "rejected", "waiting"
"""The portal's own folders in the drop folder."""
_OURS = frozenset({SENT, REJECTED, WAITING})
_UNFINISHED = ".part"
_EVENTS = (
    InotifyConstants.IN_MODIFY
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_DELETE
)
_PATIENCE = 600.0
"""Seconds without a write after which a file counts as closed, so that a lost event does not hold it forever."""


@dataclass(frozen=True, slots=True)
class Item:
    """One name in the drop folder, with its `folders` and regular `files`, and `others`: links, pipes and the like."""

    path: Path
    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    others: tuple[Path, ...]
    signature: int

    @property
    def is_unfinished(self) -> bool:
        """Whether by its names more of it is to come."""
        return any(file.name.endswith(_UNFINISHED) for file in self.files) or not (self.files or self.others)


def read(path: Path) -> Item:
    """Examine one item. Raises OSError if it no longer exists or cannot be read."""
    folders: list[Path] = []
    files: list[Path] = []
    others: list[Path] = []
    facts: list[tuple[str, int, int, int]] = []

    def add(entry: Path) -> None:
        found = entry.lstat()
        facts.append((str(entry), found.st_size, found.st_mtime_ns, found.st_mode))
        (files if stat.S_ISREG(found.st_mode) else others).append(entry)

    if path.is_dir() and not path.is_symlink():
        for inner, below, names in os.walk(path, onerror=_raise):
            folders.append(Path(inner))
            below.sort()
            links = (name for name in below if os.path.islink(os.path.join(inner, name)))  # noqa: PTH114, PTH118 - many
            for name in sorted([*names, *links]):
                add(Path(inner, name))
    else:
        add(path)
    return Item(path, tuple(folders), tuple(files), tuple(others), hash(tuple(facts)))


def _raise(error: OSError) -> None:
    raise error


@dataclass
class InboxScanner:
    """The items of one drop folder; `writing` returns the files that are open for writing."""

    folder: Path
    settle: float
    clock: Clock
    writing: Callable[[], frozenset[Path]]
    items: list[Item] = field(default_factory=list)
    _seen: dict[Path, tuple[int, float]] = field(default_factory=dict)

    def look(self) -> None:
        """Bring `items` up to date. Raises OSError if the folder itself cannot be read."""
        self.items = list(self._readable())
        now = self.clock.monotonic()
        before, self._seen = self._seen, {}
        for item in self.items:
            signature, since = before.get(item.path, (None, now))
            self._seen[item.path] = (item.signature, since if signature == item.signature else now)

    def _readable(self) -> Iterator[Item]:
        for path in sorted(self.folder.iterdir()):
            if path.name in _OURS or path.name.startswith(".") or path.suffix == _UNFINISHED:
                continue
            try:
                yield read(path)
            except FileNotFoundError:  # removed again
                continue
            except OSError:  # no permission: the attempt to send it will report that
                yield Item(path, (path,), (), (path,), 0)

    def complete(self) -> list[Item]:
        open_files, now = self.writing(), self.clock.monotonic()
        return [
            item
            for item in self.items
            if now - self._seen[item.path][1] >= self.settle
            and not item.is_unfinished
            and not open_files.intersection(item.files)
        ]


@dataclass
class OpenFileTracker:
    """Tracks files that are open for writing, by inotify; calls `changed` for each event, in a thread of its own.

    The usual events of watchdog do not distinguish a write from a changed mode, so its lower layer is used. One instance serves all
    folders: the kernel allows few. A writer on another machine, a full queue and a write that began before the start are not detected:
    for these the scanner waits until the item has been unchanged for some seconds.
    """

    folder: Path
    clock: Clock
    changed: Callable[[], None]

    def __post_init__(self) -> None:
        self._open: dict[Path, float] = {}
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._watched = {self.folder}
        self._inotify = Inotify(os.fsencode(self.folder), event_mask=_EVENTS)
        threading.Thread(target=self._read, args=(self._inotify,), name="watch", daemon=True).start()

    def watch(self, folders: Iterable[Path]) -> None:
        """Watch these folders too. Without any, all watches but that of the drop folder end."""
        requested = set(folders)
        if not requested and len(self._watched) > 1:
            self._inotify.close()
            self._begin()
        for folder in sorted(requested - self._watched):
            try:
                self._inotify.add_watch(os.fsencode(folder))
                self._watched.add(folder)
            except OSError as error:  # removed, or too many watches: the scanner's wait must suffice
                log.info("a folder cannot be watched: %s", error.strerror)

    def writing(self) -> frozenset[Path]:
        """Return the files that were written to and not closed."""
        now = self.clock.monotonic()
        with self._lock:
            self._open = {path: at for path, at in self._open.items() if now - at < _PATIENCE}
            return frozenset(self._open)

    def _read(self, inotify: Inotify) -> None:
        while inotify is self._inotify:
            try:
                events = inotify.read_events()
            except (KeyError, OSError):  # watchdog does not know the folder (yet): these events are lost
                continue
            with self._lock:
                for event in events:
                    self._take(event)
            if events:
                self.changed()

    def _take(self, event: InotifyEvent) -> None:
        path = Path(os.fsdecode(event.src_path))
        if event.is_modify:
            self._open[path] = self.clock.monotonic()
        elif event.is_close_write or event.is_delete or event.is_moved_to:
            self._open.pop(path, None)
