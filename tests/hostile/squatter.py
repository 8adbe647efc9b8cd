"""A local user without rights who takes each of these ports whenever it is free, and writes down what comes. Standard library alone.

`python3 squatter.py HOLD LEAVE PORT ...` holds a port for HOLD seconds, then leaves it for LEAVE seconds, so that its service can start again. Prints
`took PORT`, `met PORT` for an accepted connection and `heard PORT BYTES` for what it sends, until standard input ends.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from contextlib import suppress


class Squatter:
    """The ports, and when each may be taken or is to be left."""

    def __init__(self, hold: float, leave: float, ports: list[int]) -> None:
        self._hold = hold
        self._leave = leave
        self._free_again = dict.fromkeys(ports, 0.0)
        self._held: dict[int, tuple[socket.socket, float]] = {}
        self._selector = selectors.DefaultSelector()

    def turn(self) -> None:
        """Take what is free, note what has come, leave what was held long enough."""
        now = time.monotonic()
        for port, free_again in self._free_again.items():
            if port not in self._held and now >= free_again:
                with suppress(OSError):
                    self._take(port, now)
        for key, _ in self._selector.select(0.005):
            self._listen(key)
        for port, (listener, since) in list(self._held.items()):
            if now - since > self._hold:
                self._selector.unregister(listener)
                listener.close()
                del self._held[port]
                self._free_again[port] = now + self._leave

    def _take(self, port: int, now: float) -> None:
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", port))
            listener.listen(64)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        self._held[port] = listener, now
        self._selector.register(listener, selectors.EVENT_READ, (port, True))
        _say("took", port)

    def _listen(self, key: selectors.SelectorKey) -> None:
        port, is_listener = key.data
        source = key.fileobj
        assert isinstance(source, socket.socket)
        if is_listener:
            with suppress(OSError):
                one = source.accept()[0]
                one.setblocking(False)
                self._selector.register(one, selectors.EVENT_READ, (port, False))
                _say("met", port)
            return
        found = b""
        with suppress(OSError):
            found = source.recv(65536)
        if found:
            _say("heard", port, len(found))
        else:
            self._selector.unregister(source)
            source.close()


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(hold: float, leave: float, ports: list[int]) -> None:
    """Run until standard input ends."""
    squatter = Squatter(hold, leave, ports)
    ended = selectors.DefaultSelector()
    ended.register(sys.stdin, selectors.EVENT_READ)
    while not ended.select(0):
        squatter.turn()


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), [int(word) for word in sys.argv[3:]])
