"""The association with ORTHANC1 behind the association of one modality; it is open only while images flow.

Each open association holds a thread of Orthanc for turns of a second: many idle ones would delay every image of others. So it is released
after a second of idleness and requested again, with the same A-ASSOCIATE-RQ, before the next message. What the modality negotiated
stays valid: the answer must be the same.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from ddwd.acceptor.channel import Channel
from ddwd.dicom import association_pdu as pdu
from ddwd.dicom.pdu_stream import Control, PduScanner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ddwd.dicom.pdu_stream import CommandEnd, Data, DataSetEnd

_ANSWER_SECONDS = 10.0
_RETRY_SECONDS = 0.2


class GatewayDownError(Exception):
    """ORTHANC1 does not answer."""


class GatewayLostError(GatewayDownError):
    """ORTHANC1 has ended an association that was open."""


class GatewayRejectedError(Exception):
    """ORTHANC1 has rejected the association; `body` is that of its A-ASSOCIATE-RJ."""

    def __init__(self, body: bytes) -> None:
        super().__init__("ORTHANC1 rejects the association")
        self.body = body


class GatewayLink:
    """The connection to ORTHANC1 for one modality. Not thread-safe."""

    def __init__(
        self, port: int, request: bytes, patience: float, send_seconds: float, stopping: Callable[[], bool]
    ) -> None:
        """`request` is the body of the A-ASSOCIATE-RQ.

        `patience` is how many seconds ORTHANC1 may be down, `send_seconds` how long it may leave unread what is sent to it.
        """
        self._port = port
        self._request = pdu.pdu(pdu.REQUEST, request)
        self._patience = patience
        self._send_seconds = send_seconds
        self._stopping = stopping
        self._channel: Channel | None = None
        self._scanner = PduScanner()
        self._accepted: dict[int, str] | None = None
        self._is_releasing = False

    @property
    def descriptor(self) -> int | None:
        """The descriptor to wait for; None while there is no association."""
        return self._channel.descriptor if self._channel else None

    @property
    def is_open(self) -> bool:
        """Return whether there is an association that takes messages."""
        return self._channel is not None and not self._is_releasing

    def open(self) -> bytes:
        """Request the association; return the body of the A-ASSOCIATE-AC. Raises GatewayDownError, GatewayRejectedError."""
        until = time.monotonic() + self._patience
        while True:
            try:
                return self._associate()
            except GatewayDownError:
                if time.monotonic() >= until or self._stopping():
                    raise
            time.sleep(_RETRY_SECONDS)

    def _associate(self) -> bytes:
        self.close()
        try:
            connection = socket.create_connection(("127.0.0.1", self._port), timeout=_ANSWER_SECONDS)
            channel = self._channel = Channel(connection, send_seconds=self._send_seconds)
            channel.send(self._request)
            answer = self._answer(channel)
        except OSError as error:
            self.close()
            raise GatewayDownError(error.strerror or "no answer in time") from error
        if answer.kind != pdu.ACCEPT:
            self.close()
            if answer.kind == pdu.REJECT:
                raise GatewayRejectedError(answer.body)
            raise GatewayDownError("ORTHANC1 aborts the association")
        accepted = {
            context: one.transfer_syntax
            for context, one in pdu.read_answers(answer.body).items()
            if one.result == pdu.ACCEPTED
        }
        if self._accepted is not None and accepted != self._accepted:
            self.close()
            raise GatewayDownError("ORTHANC1 does not accept any more what it accepted before")
        self._accepted = accepted
        return answer.body

    def _answer(self, channel: Channel) -> Control:
        until = time.monotonic() + _ANSWER_SECONDS
        while True:
            received = channel.receive_within(max(until - time.monotonic(), 0))
            if not received:
                raise ConnectionError("closed")
            for piece in self._scanner.feed(received):
                if isinstance(piece, Control):
                    return piece

    def send(self, content: memoryview) -> None:
        """Pass bytes of a message on. Raises GatewayDownError, GatewayRejectedError."""
        if self._channel is None or self._is_releasing:
            self.open()
        try:
            if self._channel is not None:
                self._channel.send(content)
        except OSError as error:
            raise GatewayLostError(error.strerror) from error

    def receive(self) -> Iterator[Data | CommandEnd | DataSetEnd | Control] | None:
        """Return the pieces that came; None if there are none yet. Raises GatewayDownError if the connection has ended."""
        if self._channel is None:
            return None
        try:
            received = self._channel.receive()
        except OSError as error:
            raise GatewayLostError(error.strerror) from error
        if received is None:
            return None
        if not received:
            raise GatewayLostError("it closed the connection")
        return self._scanner.feed(received)

    def release(self) -> None:
        """Request the release; the response comes by `receive`, behind the answer to a message that is under way. Raises GatewayDownError."""
        self.send(memoryview(pdu.release_request()))
        self._is_releasing = True

    def release_or_close(self) -> None:
        """Request the release of an idle association."""
        try:
            self.release()
        except GatewayDownError:
            self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._channel is not None:
            self._channel.close()
        self._channel = None
        self._scanner = PduScanner()
        self._is_releasing = False
