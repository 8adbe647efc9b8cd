"""Refresh the dashboard: a thread that looks when the extractor's status changes (inotify), and at least every few seconds.

It passes each DashboardModel on. An error while looking is passed on as one line, and the thread looks again.
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

_IDLE_SECONDS = 2.5
_LEAST_SECONDS = 0.5


class Feed:
    """`look` makes a DashboardModel; `deliver` receives it, or a line that says why there is none. Both run in the feed's thread."""

    def __init__(
        self,
        look: Callable[[], DashboardModel],
        deliver: Callable[[DashboardModel | str], None],
        folder: Path,
    ) -> None:
        self._look = look
        self._deliver = deliver
        self._folder = folder
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._observer = None if not folder.is_dir() else Observer()
        self._thread = threading.Thread(target=self._run, name="ddwd-top-feed", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        if self._observer is not None:
            self._observer.schedule(_ChangeHandler(self.poke), str(self._folder))
            self._observer.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread soon; do not wait for a look that hangs."""
        self._stopping.set()
        self._wanted.set()
        if self._observer is not None:
            self._observer.stop()

    def poke(self) -> None:
        """Look now, or half a second after the last look."""
        self._wanted.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wanted.clear()
            try:
                found: DashboardModel | str = self._look()
            except Exception as error:  # noqa: BLE001 - an error must not end the dashboard
                found = f"the dashboard cannot look ({type(error).__name__}); it tries again"
            if self._stopping.is_set():
                return
            self._deliver(found)
            self._stopping.wait(_LEAST_SECONDS)
            self._wanted.wait(_IDLE_SECONDS - _LEAST_SECONDS)


class _ChangeHandler(FileSystemEventHandler):
    """Call `changed` at any change in the folder."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        """See FileSystemEventHandler; reading a file is no change."""
        if event.event_type in {"created", "moved", "modified"}:
            self._changed()
