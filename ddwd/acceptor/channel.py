"""One TCP connection of an association, plain or TLS: read without waiting, send with a limit."""

from __future__ import annotations

import select
import socket
import ssl
import struct
from contextlib import suppress

_SMALLEST, _LARGEST = 16 * 1024, 256 * 1024
"""Bytes that one read may take, of an idle connection and in the middle of a large message."""
_KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 20, socket.TCP_KEEPCNT: 3}
"""Seconds of silence before the kernel asks whether the peer is still there, seconds between two questions, and their number."""


class Channel:
    """A connection. `receive` never waits; wait for `descriptor` with poll(2), unless `has_pending`."""

    def __init__(
        self, connection: socket.socket, *, at_once: bool = False, send_seconds: float = 60.0
    ) -> None:
        """`send_seconds` is how long the peer may leave what is sent to it unread.

        With `at_once` the peer leaves Nagle's algorithm on: it waits for our acknowledgement before the rest of a message.
        """
        self._at_once = at_once
        self._send_seconds = send_seconds
        self._socket = connection
        self._is_tls = isinstance(connection, ssl.SSLSocket)
        self._buffer = bytearray(_SMALLEST)
        self._is_full = False
        self.descriptor = connection.fileno()
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
        if self._is_tls:
            connection.settimeout(send_seconds)
        else:
            limit = struct.pack("ll", int(send_seconds), int(send_seconds % 1 * 1e6))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            connection.settimeout(None)

    @property
    def has_pending(self) -> bool:
        """Return whether bytes wait that poll(2) does not see, or may wait since the last read had no room for more."""
        return self._is_full or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0)

    def receive(self) -> memoryview | None:
        """Return bytes that are there, sound until the next call; None if there are none yet, empty if the peer has closed. Raises OSError."""
        size = self._receive_into_buffer()
        if size is None:
            self._is_full = False
            return None
        self._is_full = size == len(self._buffer)
        if self._is_full and size < _LARGEST:
            received, self._buffer = memoryview(self._buffer), bytearray(_LARGEST)
            return received
        return memoryview(self._buffer)[:size]

    def rest(self) -> None:
        """Free the memory that large messages took: the connection is idle."""
        if len(self._buffer) > _SMALLEST:
            self._buffer = bytearray(_SMALLEST)

    def _receive_into_buffer(self) -> int | None:
        if not self._is_tls:
            try:
                return self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
        self._socket.settimeout(0)
        try:
            return self._socket.recv_into(self._buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except ssl.SSLEOFError:
            return 0
        finally:
            self._socket.settimeout(self._send_seconds)

    def receive_within(self, seconds: float) -> memoryview:
        """Wait for bytes; empty if the peer has closed. Raises TimeoutError and OSError."""
        poller = select.poll()
        poller.register(self.descriptor, select.POLLIN)
        while True:
            if not self.has_pending and not poller.poll(seconds * 1000):
                raise TimeoutError("no bytes in time")
            if (received := self.receive()) is not None:
                return received

    def acknowledge_at_once(self) -> None:
        """Acknowledge what came without the kernel's delay of 40 ms, for a peer that waits for it."""
        if not self._at_once:
            return
        with suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def send(self, content: bytes | memoryview) -> None:
        """Send all of it. Raises OSError."""
        self._socket.sendall(content)

    def close(self) -> None:
        """Close the connection: what was sent before is still delivered."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
