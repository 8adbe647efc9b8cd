"""Keeps the dashboard fresh: a thread that looks when the extractor's status changes (inotify), and every few seconds without.

It hands each DashboardModel on as it is; whatever goes wrong while looking is handed on as one line, and it looks again.
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
    """`look` makes a DashboardModel; `deliver` takes it, or a line about why there is none; both run in the feed's thread."""

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
        """Begin to look."""
        if self._observer is not None:
            self._observer.schedule(_Bell(self.poke), str(self._folder))
            self._observer.start()
        self._thread.start()

    def stop(self) -> None:
        """End soon; a look that hangs is not waited for."""
        self._stopping.set()
        self._wanted.set()
        if self._observer is not None:
            self._observer.stop()

    def poke(self) -> None:
        """Look now, or as soon as the last look is half a second ago."""
        self._wanted.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wanted.clear()
            try:
                found: DashboardModel | str = self._look()
            except Exception as error:  # noqa: BLE001 - a dashboard that died tells nothing
                found = f"the dashboard cannot look ({type(error).__name__}); it tries again"
            if self._stopping.is_set():
                return
            self._deliver(found)
            self._stopping.wait(_LEAST_SECONDS)
            self._wanted.wait(_IDLE_SECONDS - _LEAST_SECONDS)


class _Bell(FileSystemEventHandler):
    """Rings at any change in the folder."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring

    def on_any_event(self, event: FileSystemEvent) -> None:
        """See FileSystemEventHandler; what is only read rings nothing."""
        if event.event_type in {"created", "moved", "modified"}:
            self._ring()
