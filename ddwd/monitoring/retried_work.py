"""Run work that depends on another machine in a thread of its own, and again after each failure, so that the monitor never waits for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ddwd.core.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable


class RetriedWork(threading.Thread):
    """A thread that calls `work` each time it is woken, and again after a failure, which `work` reports by returning False.

    The seconds between two tries grow from `first` to `longest`; `work` handles its own errors.
    """

    def __init__(self, name: str, work: Callable[[], bool], first: float, longest: float) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._backoff = Backoff(first, longest)
        self._wake = threading.Event()
        self._stopping = threading.Event()

    @property
    def is_stopping(self) -> bool:
        """Whether `work` should end soon."""
        return self._stopping.is_set()

    def wake(self) -> None:
        """Have the work done soon; after a failure when its wait is over."""
        self._wake.set()

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        """Work until stopped."""
        while True:
            self._wake.wait()
            if self.is_stopping:
                return
            self._wake.clear()
            if self._work():
                self._backoff.succeeded()
            else:
                self._stopping.wait(self._backoff.failed())
                self._wake.set()
