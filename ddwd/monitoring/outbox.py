"""Send messages in a thread of their own, one for each channel, with growing pauses while it does not answer.

Bounded: the oldest messages are dropped, since the newest describe the present state. A restart of the monitor loses queued messages,
not conditions: those that still hold are reported again.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

from ddwd.core.errors import DdwdError
from ddwd.core.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddwd.monitoring.alerts import Message

log = logging.getLogger("ddwd.monitoring")

_KEPT = 20
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 30.0, 1800.0
_MOST_TRIES = 105
"""About two days: after that the message is dropped."""


class Outbox:
    """The queue of one channel; `put` never waits."""

    def __init__(self, name: str, send: Callable[[Message], None]) -> None:
        self._name = name
        self._send = send
        self._waiting: queue.Queue[Message] = queue.Queue(_KEPT)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"ddwd-{name}", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Queue the message."""
        while True:
            try:
                self._waiting.put_nowait(message)
            except queue.Full:
                self._waiting.get_nowait()
            else:
                return

    def stop(self) -> None:
        """End soon, without waiting for queued messages."""
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
        backoff = Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
        while backoff.failures < _MOST_TRIES:
            try:
                self._send(message)
            except DdwdError as error:
                seconds = backoff.failed()
                log.warning("%s: not sent, tried again in %.0f s: %s", self._name, seconds, error)
            else:
                return
            if self._stopping.wait(seconds):
                return
