"""Serve a loop that inotify wakes when a file in a watched folder is written; a missed event delays work by at most one interval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from ddwd.daemon.loop import Loop

_WRITTEN = frozenset({"modified", "created", "closed", "moved"})


class _WakeOnWrite(FileSystemEventHandler):
    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Wake the loop; called in the observer's thread."""
        if event.event_type in _WRITTEN:
            self._wake()


def serve(loop: Loop, *folders: Path) -> None:
    """Serve the loop until it is stopped; a file that is written in one of `folders` wakes it."""
    loop.listen()
    observer = Observer()
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        observer.schedule(_WakeOnWrite(loop.wake), str(folder))
    observer.start()
    try:
        loop.run()
    finally:
        observer.stop()
