"""Receive buffer between a socket and the PDUs of one association."""

from __future__ import annotations

import select
import socket
import ssl
import time

_READ_AHEAD = 64 * 1024
"""Bytes that one read may take beyond the current PDU."""


class ReceiveBuffer:
    """Bytes of the peer between the socket and the PDUs: a small object with its command takes one read instead of four.

    Only small PDUs are read ahead; the body of a large one is read to its end and no further. The buffer grows with the peer's PDUs: a
    connection that sends none, or small ones, costs little.
    """

    def __init__(self, largest: int) -> None:
        """`largest` is the length in bytes of the largest PDU with its header."""
        self._largest = largest
        self._buffer = bytearray()
        self._start = 0
        self.size = 0

    def take(self, peer: socket.socket, length: int, deadline: float) -> memoryview:
        """Return exactly `length` bytes, valid until the next take. Raises OSError if the peer closes or is too slow."""
        if self.size < length:
            self._make_room(length)
        while self.size < length:
            self._receive(peer, max(length - self.size, _READ_AHEAD - self.size), deadline)
        start = self._start
        self._start += length
        self.size -= length
        return memoryview(self._buffer)[start : start + length]

    def look(self, peer: ssl.SSLSocket) -> bool:
        """Return whether bytes arrived, or their end: a readable TLS socket may hold a record without any."""
        self._make_room(_READ_AHEAD)
        try:
            received = _receive_now(peer, memoryview(self._buffer)[self.size : _READ_AHEAD])
        except OSError:
            return True  # found again by the next take
        self.size += received or 0
        return received is not None

    def discard(self, peer: socket.socket) -> int:
        """Drop all bytes here, or read ahead once and drop that; return the number of bytes, 0 if the peer has closed."""
        dropped, self.size = self.size, 0
        if dropped:
            return dropped
        self._make_room(_READ_AHEAD)
        try:
            return _receive_now(peer, memoryview(self._buffer)[:_READ_AHEAD]) or 0
        except OSError:
            return 0

    def free(self) -> None:
        """Free the buffer: the rest of an association may stay in memory for a while after its end."""
        self._buffer = bytearray()
        self._start = self.size = 0

    def _make_room(self, length: int) -> None:
        """Move the bytes here to the front of a buffer that is long enough."""
        rest = self._buffer[self._start : self._start + self.size]
        if length > len(self._buffer):
            self._buffer = bytearray(_READ_AHEAD if length <= _READ_AHEAD else max(length, self._largest))
        self._buffer[: self.size] = rest
        self._start = 0

    def _receive(self, peer: socket.socket, most: int, deadline: float) -> None:
        received = _receive_now(peer, memoryview(self._buffer)[self.size : self.size + most])
        if received is None:
            rest = deadline - time.monotonic()
            if rest <= 0:
                raise TimeoutError("a PDU took too long")
            poller = select.poll()
            poller.register(peer, select.POLLIN)
            poller.poll(rest * 1000)
            return
        if not received:
            raise ConnectionError("closed in the middle of a PDU")
        self.size += received


def _receive_now(peer: socket.socket, view: memoryview) -> int | None:
    """Receive the bytes that are available, without waiting; return their number, None if there are none yet, 0 at the end."""
    if not isinstance(peer, ssl.SSLSocket):
        try:
            return peer.recv_into(view, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
    patience = peer.gettimeout()
    peer.settimeout(0)  # it knows no flags
    try:
        return peer.recv_into(view)
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None
    finally:
        peer.settimeout(patience)


def has_pending(peer: ssl.SSLSocket) -> bool:
    """Return whether decrypted bytes wait, which poll(2) does not report."""
    try:
        return peer.pending() > 0
    except (OSError, ValueError):  # closed meanwhile: poll reports it
        return False
