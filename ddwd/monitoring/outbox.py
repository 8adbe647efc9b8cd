"""Messages that are due, sent in a thread of their own, each way by itself, with growing pauses while it is away.

Bounded: the oldest give way, for the newest tell how things stand now. What waits is lost with the monitor's restart, but the
conditions are not: what still holds is told again.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

from ddwd.core.errors import DdwdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddwd.monitoring.alerts import Message

log = logging.getLogger("ddwd.monitoring")

_KEPT = 20
_PAUSES = (30.0, 60.0, 300.0, 900.0, 1800.0)


class Outbox:
    """One way out; `put` never waits."""

    def __init__(self, name: str, send: Callable[[Message], None]) -> None:
        self._name = name
        self._send = send
        self._waiting: queue.Queue[Message] = queue.Queue(_KEPT)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"ddwd-{name}", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Have it sent."""
        while True:
            try:
                self._waiting.put_nowait(message)
            except queue.Full:
                self._waiting.get_nowait()
            else:
                return

    def stop(self) -> None:
        """End soon; what waits is not waited for."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                message = self._waiting.get(timeout=1.0)
            except queue.Empty:
                continue
            self._deliver(message)

    def _deliver(self, message: Message) -> None:
        """Try until it is taken, or the monitor stops."""
        for pause in (*_PAUSES, *(_PAUSES[-1] for _ in range(100))):
            try:
                self._send(message)
            except DdwdError as error:
                log.warning("%s: not sent, tried again in %.0f s: %s", self._name, pause, error)
            else:
                return
            if self._stopping.wait(pause):
                return
