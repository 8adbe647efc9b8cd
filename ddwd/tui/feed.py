"""Refresh the dashboard: a thread that reads the portal's state when the extractor's status changes (inotify), and every few seconds.

An error is delivered as one line, and the thread goes on.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddwd.status.dashboard import DashboardModel

_IDLE_SECONDS = 1.0
"""With the seconds that an Orthanc has to answer less than 3: so soon is a hop that does not answer shown as such."""
_LEAST_SECONDS = 0.5


class Feed(FileSystemEventHandler):
    """`read` makes a DashboardModel; `deliver` receives it, or a line that says why there is none. Both run in the feed's thread."""

    def __init__(
        self,
        read: Callable[[], DashboardModel],
        deliver: Callable[[DashboardModel | str], object],
        folder: Path,
    ) -> None:
        self._read = read
        self._deliver = deliver
        self._folder = folder
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._observer = Observer() if folder.is_dir() else None
        self._thread = threading.Thread(target=self._run, name="ddwd-top-feed", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        if self._observer is not None:
            self._observer.schedule(self, str(self._folder))
            self._observer.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread soon; do not wait for a read that hangs."""
        self._stopping.set()
        self._changed.set()
        if self._observer is not None:
            self._observer.stop()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Read at once, or half a second after the last time; the opening of a file is no change."""
        if event.event_type in {"created", "moved", "modified"}:
            self._changed.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._changed.clear()
            try:
                found: DashboardModel | str = self._read()
            except Exception as error:  # noqa: BLE001 - an error must not end the dashboard
                found = f"the state of the portal cannot be read ({type(error).__name__}); retrying"
            if self._stopping.is_set():
                return
            self._deliver(found)
            self._stopping.wait(_LEAST_SECONDS)
            self._changed.wait(_IDLE_SECONDS - _LEAST_SECONDS)
