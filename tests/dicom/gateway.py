"""A stand-in for ORTHANC1's DICOM server: one thread per connection, and what it does with an image is the test's choice.

It does as DCMTK does in Orthanc: an object that cannot be parsed is dropped without an answer, a release is answered behind what came
before it. tests/integration/test_acceptor.py holds the acceptor against the real one.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from ddwd.dicom import association_pdu as pdu
from ddwd.dicom.command import read_store, store_response
from ddwd.dicom.pdu_stream import CommandEnd, Control, DataSetEnd, PduScanner
from tests.hostile import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddwd.dicom.command import StoreRequest

SYNTAXES = {wire.EXPLICIT, wire.IMPLICIT}
CLASSES = {wire.CT, wire.VERIFICATION}
DROP, CLOSE, ABORT, HANG = "drop", "close", "abort", "hang"


class Gateway:
    """Listens on `port`; `on_store` returns a status, or one of DROP, CLOSE, ABORT, HANG, for each image."""

    def __init__(self) -> None:
        self.on_store: Callable[[StoreRequest], int | str] = lambda _request: 0
        self.on_release: Callable[[], bool] = lambda: True
        self.stored: list[tuple[str, int]] = []
        self.requests: list[bytes] = []
        self.open = self.hangs = 0
        self.classes = set(CLASSES)
        self.released = threading.Event()
        self.reads = threading.Event()
        self.reads.set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._connections: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Close the port and each connection: what a kill does."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.released.set()
        self.reads.set()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def start(self) -> None:
        """Listen on the same port again."""
        self._server = socket.create_server(("127.0.0.1", self.port))
        self.released.clear()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self.open += 1
        with suppress(OSError, ValueError), connection:
            self._converse(connection)
        self.open -= 1
        self._connections.discard(connection)

    def _converse(self, connection: socket.socket) -> None:
        scanner, request = PduScanner(), None
        while chunk := connection.recv(65536):
            self.reads.wait()
            for piece in scanner.feed(memoryview(chunk)):
                goes_on = True
                if isinstance(piece, Control):
                    goes_on = self._control(connection, piece)
                elif isinstance(piece, CommandEnd):
                    request = read_store(piece.command, longest_uid=1024)
                    if request is None:
                        connection.sendall(wire.pdu(wire.pdv(piece.context_id, 3, _echo_response())))
                elif isinstance(piece, DataSetEnd) and request is not None:
                    goes_on = self._store(connection, request, piece)
                if not goes_on:
                    return

    def _control(self, connection: socket.socket, piece: Control) -> bool:
        if piece.kind == pdu.REQUEST:
            self.requests.append(piece.body)
            connection.sendall(pdu.pdu(pdu.ACCEPT, self._answer(piece.body)))
            return True
        if piece.kind == pdu.RELEASE_REQUEST and self.on_release():
            connection.sendall(pdu.release_response())
        return False

    def _answer(self, body: bytes) -> bytes:
        items = wire.item(0x10, b"1.2.840.10008.3.1.1.1")
        for context, proposal in pdu.read_request(body).proposals.items():
            syntaxes = [one for one in proposal.transfer_syntaxes if one in SYNTAXES]
            accepted = proposal.abstract_syntax in self.classes and bool(syntaxes)
            syntax = wire.item(0x40, (syntaxes[0] if accepted else "").encode())
            items += wire.item(0x21, bytes([context, 0, 0 if accepted else 3, 0]) + syntax)
        return body[:68] + items + wire.item(0x50, wire.item(0x51, struct.pack(">L", 131072)))

    def _store(self, connection: socket.socket, request: StoreRequest, piece: DataSetEnd) -> bool:
        """Return whether the connection goes on."""
        outcome = self.on_store(request)
        if outcome == HANG:
            self.hangs += 1
            self.released.wait()
            outcome = 0
        if isinstance(outcome, int):
            self.stored.append((request.sop_instance, piece.size))
            connection.sendall(store_response(request, outcome, piece.context_id, 0))
        if outcome == ABORT:
            connection.sendall(pdu.abort())
        return outcome not in {CLOSE, ABORT}


def _echo_response() -> bytes:
    return wire.command(
        wire.uid(0x0002, wire.VERIFICATION),
        wire.short(0x0100, 0x8030),
        wire.short(0x0120, 9),
        wire.short(0x0800, 0x0101),
        wire.short(0x0900, 0),
    )
