"""How many associations there may be, in all and of one address, and how many connections without one. Safe from several threads."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Associations at once, in all and of one address."""

    total: int = 600
    one_address: int = 300


class AssociationLimits:
    """Counts open associations."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """Return the number of open associations."""
        return self._open.total()

    @property
    def total(self) -> int:
        """Return the limit for all addresses together."""
        return self._limits.total

    def enter(self, address: str) -> str:
        """Count an association of an address; return why it may not be, empty if it may."""
        with self._lock:
            if self._open.total() >= self._limits.total:
                return f"all {self._limits.total} associations are in use"
            if self._open[address] >= self._limits.one_address:
                return f"{self._limits.one_address} associations of this address are open, as many as it may have"
            self._open[address] += 1
            return ""

    def leave(self, address: str) -> None:
        """Count the end of an association that `enter` has counted."""
        with self._lock:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]


class Negotiations:
    """Connections that have no association yet: a TLS handshake or an A-ASSOCIATE-RQ is under way.

    Where all places are taken, a new connection gets the place of another: the oldest one of the address that has the most. So a
    machine that opens one connection is let in however many others a few machines hold open.
    """

    def __init__(self, places: int = 128) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._open: dict[socket.socket, str] = {}
        """A descriptor of its own for each connection, oldest first, and its address: TLS takes the other one over."""

    @property
    def places(self) -> int:
        """Return how many there may be at once."""
        return self._places

    def begin(self, connection: socket.socket, address: str) -> tuple[socket.socket, str]:
        """Count a connection; return what `end` needs, and the address whose connection was closed for it, if any. Raises OSError."""
        handle = connection.dup()
        with self._lock:
            closed = self._make_room() if len(self._open) >= self._places else ""
            self._open[handle] = address
        return handle, closed

    def end(self, handle: socket.socket) -> None:
        """Count the end of a negotiation that `begin` has counted, if its place was not taken before."""
        with self._lock:
            if self._open.pop(handle, None) is not None:
                handle.close()

    def _make_room(self) -> str:
        held = Counter(self._open.values())
        most = max(held.values())
        oldest = next(handle for handle, address in self._open.items() if held[address] == most)
        address = self._open.pop(oldest)
        with suppress(OSError):  # it is gone already
            oldest.shutdown(socket.SHUT_RDWR)
        oldest.close()
        return address
