"""What lies in the drop folder, and when each of it is complete: unchanged for some seconds, and open for writing in no process. Reads only.

By the names in the folder, the size and time of each file, and the monotonic clock: a copy that keeps old times is no older for it.
Hidden names and `*.part` wait until they are renamed; an empty folder waits for what will come into it. No link is followed.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ddwd.core.clock import Clock

SENT, REJECTED, WAITING = "sent", "rejected", "waiting"
OURS = frozenset({SENT, REJECTED, WAITING})
"""Folders of the portal's own in the drop folder."""
_UNFINISHED = ".part"


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
        return any(one.name.endswith(_UNFINISHED) for one in self.files) or not (self.files or self.others)


def read(path: Path) -> Item:
    """Look at one item. Raises OSError where it is gone or may not be looked at."""
    folders: list[Path] = []
    files: list[Path] = []
    others: list[Path] = []
    facts: list[tuple[str, int, int, int]] = []

    def note(one: Path) -> None:
        found = one.lstat()
        facts.append((str(one), found.st_size, found.st_mtime_ns, found.st_mode))
        (files if stat.S_ISREG(found.st_mode) else others).append(one)

    if path.is_dir() and not path.is_symlink():
        for inner, below, names in os.walk(path, onerror=_raise):
            folders.append(Path(inner))
            below.sort()
            for name in sorted([*names, *(one for one in below if os.path.islink(os.path.join(inner, one)))]):  # noqa: PTH114, PTH118 - many
                note(Path(inner, name))
    else:
        note(path)
    return Item(path, tuple(folders), tuple(files), tuple(others), hash(tuple(facts)))


def _raise(error: OSError) -> None:
    raise error


class InboxScanner:
    """The items of one drop folder; `writing` returns the files that are open for writing."""

    def __init__(
        self, folder: Path, settle: float, clock: Clock, writing: Callable[[], frozenset[Path]]
    ) -> None:
        self._folder = folder
        self._settle = settle
        self._clock = clock
        self._writing = writing
        self._seen: dict[Path, tuple[int, float]] = {}
        self.items: list[Item] = []

    def look(self) -> None:
        """Bring `items` up to date. Raises OSError where the folder itself cannot be read."""
        self.items = list(self._readable())
        now = self._clock.monotonic()
        before, self._seen = self._seen, {}
        for item in self.items:
            signature, since = before.get(item.path, (None, now))
            self._seen[item.path] = (item.signature, since if signature == item.signature else now)

    def _readable(self) -> Iterator[Item]:
        for path in sorted(self._folder.iterdir()):
            if path.name in OURS or path.name.startswith(".") or path.name.endswith(_UNFINISHED):
                continue
            try:
                yield read(path)
            except FileNotFoundError:  # taken away again
                continue
            except OSError:  # it may not be looked into: the attempt to send it will report that
                yield Item(path, (path,), (), (path,), 0)

    def complete(self) -> list[Item]:
        """Those that nothing more will come to."""
        open_files, now = self._writing(), self._clock.monotonic()
        return [
            item
            for item in self.items
            if now - self._seen[item.path][1] >= self._settle
            and not item.is_unfinished
            and not open_files.intersection(item.files)
        ]
