"""Wake a loop by inotify when a file in a watched folder is written; polling finds what an event missed.

A missed event delays work by at most one POLL_INTERVAL, so no failure here is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from watchdog.observers.api import BaseObserver

_RINGS = frozenset({"modified", "created", "closed", "moved"})


class _Ear(FileSystemEventHandler):
    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called in the observer's thread."""
        if event.event_type in _RINGS:
            self._wake()


def listen(folders: Iterable[Path], wake: Callable[[], None]) -> BaseObserver:
    """Call `wake` whenever a file in one of the folders is written; the caller stops the observer."""
    observer = Observer()
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        observer.schedule(_Ear(wake), str(folder))
    observer.start()
    return observer
