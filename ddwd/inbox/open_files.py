"""Track files of the drop folder that are open for writing, by inotify's modify and close-write events.

Its usual events do not tell a write from a changed mode, so what lies below them is used. One instance for all folders: the kernel
allows few. What it cannot tell (a writer on another machine, a full queue, a start in the middle) the seconds of settling must.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from watchdog.observers.inotify_c import Inotify, InotifyConstants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from watchdog.observers.inotify_c import InotifyEvent

    from ddwd.core.clock import Clock

log = logging.getLogger("ddwd.inbox")

_EVENTS = (
    InotifyConstants.IN_MODIFY
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_DELETE
)
_PATIENCE = 600.0
"""Seconds without a write after which a file counts as closed, so that a lost event does not hold it forever."""


class OpenFileTracker:
    """Watches from its construction on; calls `changed` for each event, in a thread of its own."""

    def __init__(self, folder: Path, clock: Clock, changed: Callable[[], None]) -> None:
        self._folder = folder
        self._clock = clock
        self._changed = changed
        self._open: dict[Path, float] = {}
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._watched = {self._folder}
        self._inotify = Inotify(os.fsencode(self._folder), event_mask=_EVENTS)
        threading.Thread(target=self._read, args=(self._inotify,), name="watch", daemon=True).start()

    def watch(self, folders: Iterable[Path]) -> None:
        """Look into these folders too. Once there are none, those that were are no longer held."""
        wanted = set(folders)
        if not wanted and len(self._watched) > 1:
            self._inotify.close()
            self._begin()
        for folder in sorted(wanted - self._watched):
            try:
                self._inotify.add_watch(os.fsencode(folder))
                self._watched.add(folder)
            except OSError as error:  # gone, or too many: the seconds of settling must do
                log.info("a folder cannot be watched: %s", error.strerror)

    def writing(self) -> frozenset[Path]:
        """The files that were written to and not closed."""
        now = self._clock.monotonic()
        with self._lock:
            self._open = {path: at for path, at in self._open.items() if now - at < _PATIENCE}
            return frozenset(self._open)

    def _read(self, inotify: Inotify) -> None:
        while inotify is self._inotify:
            try:
                events = inotify.read_events()
            except (KeyError, OSError):  # its book of folders is behind: nothing is known of these events
                continue
            with self._lock:
                for event in events:
                    self._take(event)
            if events:
                self._changed()

    def _take(self, event: InotifyEvent) -> None:
        path = Path(os.fsdecode(event.src_path))
        if event.is_modify:
            self._open[path] = self._clock.monotonic()
        elif event.is_close_write or event.is_delete or event.is_moved_to:
            self._open.pop(path, None)
