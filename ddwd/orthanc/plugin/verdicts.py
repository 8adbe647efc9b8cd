"""Tell ddwd-acceptor why an object was refused: Orthanc answers every refusal with the one status 0xA700. One datagram each, never waited for.

The filter, inside Orthanc, calls `report`; the acceptor, which is about to get Orthanc's answer, calls `Verdicts.take`.
"""

from __future__ import annotations

import json
import socket
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

_BYTES = 512
_KEPT = 1000


def report(path: str, sop_uid: str, verdict: str) -> None:
    """Send the verdict about an instance. Never raises: without it the sender gets Orthanc's own status."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        channel.sendto(json.dumps([sop_uid[:64], verdict]).encode(), path)


class Verdicts:
    """The end that receives; `take` is called with one thread's lock held."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        path.unlink(missing_ok=True)
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._channel.bind(str(path))
        path.chmod(
            0o622
        )  # whoever can enter the folder may send: a wrong verdict changes the text of a refusal, no more
        self._kept: OrderedDict[str, str] = OrderedDict()

    def close(self) -> None:
        """Receive no more."""
        self._channel.close()

    def take(self, sop_uid: str) -> str:
        """Return the verdict about an instance and forget it; empty if there is none."""
        with suppress(BlockingIOError):
            while True:
                with suppress(ValueError, TypeError):
                    instance, verdict = json.loads(self._channel.recv(_BYTES))
                    self._kept[str(instance)] = str(verdict)
                    if len(self._kept) > _KEPT:
                        self._kept.popitem(last=False)
        return self._kept.pop(sop_uid, "")
