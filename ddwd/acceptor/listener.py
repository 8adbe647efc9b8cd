"""Listen for modalities, accept or reject each association, and run its relay in a thread of its own."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.acceptor import reasons
from ddwd.acceptor.association import Association
from ddwd.acceptor.channel import Channel
from ddwd.acceptor.gateway_link import GatewayDownError, GatewayLink, GatewayRejectedError
from ddwd.acceptor.hold_off import CRASHES
from ddwd.acceptor.limits import Negotiations
from ddwd.acceptor.relay import Relay, Timing
from ddwd.acceptor.senders import Refusal
from ddwd.acceptor.turns import Turns
from ddwd.dicom import association_pdu as pdu
from ddwd.dicom import contexts
from ddwd.dicom.association_pdu import ContextResult
from ddwd.dicom.pdu_stream import Control, PduScanner
from ddwd.store.status_files import RefusalKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddwd.acceptor.hold_off import HoldOff
    from ddwd.acceptor.limits import AssociationLimits
    from ddwd.acceptor.senders import Senders
    from ddwd.dicom.association_pdu import Proposal, Rejection, Request
    from ddwd.orthanc.plugin.verdicts import Verdicts

log = logging.getLogger("ddwd.acceptor")

_BACKLOG = 4096
_SILENT_SECONDS = 3600
"""Seconds after which the kernel hands over a connection that has not sent a byte: until then it costs nothing."""
_REQUEST_SECONDS = 10.0
"""Seconds for the TLS handshake, and for the A-ASSOCIATE-RQ."""


class _RejectedError(Exception):
    """The association is rejected."""

    def __init__(self, rejection: Rejection, reason: str) -> None:
        super().__init__(reason)
        self.rejection = rejection


@dataclass(frozen=True, slots=True)
class Service:
    """For which Orthanc associations are accepted, and of whom.

    `may_send` answers for an AE title and an address, `is_acknowledged_at_once` for an address; `patience` is the seconds that ORTHANC1 may
    be down, as it is while it restarts.
    """

    aet: str
    orthanc_port: int
    may_send: Callable[[str, str], bool]
    is_acknowledged_at_once: Callable[[str], bool]
    timing: Timing = field(default_factory=Timing)
    patience: float = 8.0
    verdicts: Verdicts | None = None
    """Why ORTHANC1's admission filter refuses an image."""


class Acceptor:
    """Accepts associations for ORTHANC1. `listen` on each port, `stop` at the end."""

    def __init__(
        self, service: Service, limits: AssociationLimits, hold_off: HoldOff, senders: Senders
    ) -> None:
        self._service = service
        self._limits = limits
        self._hold_off = hold_off
        self._senders = senders
        self._stopping = os.eventfd(0, os.EFD_CLOEXEC)
        self._is_stopping = threading.Event()
        self._listeners: list[socket.socket] = []
        self._relays: dict[threading.Thread, Relay | None] = {}
        self._lock = threading.Lock()
        self._negotiations = Negotiations()
        self.turns = Turns(service.timing.turn)

    def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen there; return the port. Raises OSError."""
        listener = socket.create_server((host, port), backlog=_BACKLOG)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _SILENT_SECONDS)
        self._listeners.append(listener)
        threading.Thread(
            target=self._accept, args=(listener, tls), name=f"accept-{port}", daemon=True
        ).start()
        return int(listener.getsockname()[1])

    def stop(self, grace: float) -> bool:
        """Accept nothing any more; end each association after the message under way; return whether all ended within `grace` seconds."""
        self._is_stopping.set()
        os.eventfd_write(self._stopping, 1)
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        until = time.monotonic() + grace
        with self._lock:
            threads = list(self._relays)
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in threads)

    def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        while not self._is_stopping.is_set():
            try:
                connection, (address, *_) = listener.accept()
                negotiation, closed = self._negotiations.begin(connection, str(address))
            except OSError as error:
                if self._is_stopping.wait(0.1):
                    return
                log.warning("cannot accept a connection: %s", error.strerror)
                continue
            if closed:
                reason = (
                    "closed for another connection: it had sent no A-ASSOCIATE-RQ yet, as too many others"
                )
                self._senders.refused("", closed, Refusal(RefusalKind.CONNECTION, reason))
            thread = threading.Thread(
                target=self._serve,
                args=(connection, negotiation, str(address), tls),
                name=f"modality-{address}",
                daemon=True,
            )
            with self._lock:
                self._relays[thread] = None
                thread.start()

    def _serve(
        self,
        connection: socket.socket,
        negotiation: socket.socket,
        address: str,
        tls: ssl.SSLContext | None,
    ) -> None:
        """Run one connection from its first byte to its end."""
        try:
            with suppress(OSError):
                try:
                    associated = self._associate(connection, address, tls)
                finally:
                    self._negotiations.end(negotiation)
                if associated is not None:
                    self._relay(address, *associated)
        finally:
            connection.close()
            with self._lock:
                del self._relays[threading.current_thread()]

    def _relay(self, address: str, aet: str, relay: Relay) -> None:
        with self._lock:
            self._relays[threading.current_thread()] = relay
        try:
            relay.run(self._stopping)
        finally:
            self._senders.ended(aet, address)
            self._limits.leave(address)

    def _associate(
        self, connection: socket.socket, address: str, tls: ssl.SSLContext | None
    ) -> tuple[str, Relay] | None:
        """Accept or reject the association; return the calling AE title and the relay, None if it is rejected. Raises OSError."""
        try:
            modality = Channel(
                _secured(connection, tls), at_once=self._service.is_acknowledged_at_once(address)
            )
        except _HandshakeError as error:
            self._senders.refused("", address, Refusal(error.kind, str(error)))
            return None
        aet = ""
        try:
            body = _read_request(modality)
            request = pdu.read_request(body)
            aet = request.calling
            return aet, self._relay_for(modality, request, body, address)
        except _RejectedError as error:
            answer, refusal = pdu.reject(error.rejection), Refusal(RefusalKind.ASSOCIATION, str(error))
        except ValueError as error:
            kind = RefusalKind.ASSOCIATION if aet else RefusalKind.CONNECTION
            answer, refusal = pdu.abort(), Refusal(kind, str(error))
        modality.send(answer)
        self._senders.refused(aet, address, refusal)
        return None

    def _relay_for(self, modality: Channel, request: Request, body: bytes, address: str) -> Relay:
        """Return the relay of an association that is accepted. Raises _RejectedError, OSError."""
        self._check(request, address)
        if reason := self._limits.enter(address):
            raise _RejectedError(pdu.LIMIT_EXCEEDED, reason)
        gateway = GatewayLink(
            self._service.orthanc_port,
            pdu.with_called(body, self._service.aet),
            self._service.patience,
            self._service.timing.answer,
            self._is_stopping.is_set,
        )
        try:
            try:
                answer = gateway.open()
            except GatewayDownError as error:
                raise _RejectedError(pdu.CONGESTION, f"ORTHANC1 is down ({error})") from error
            except GatewayRejectedError as error:
                raise _RejectedError(pdu.Rejection(*error.body[1:4]), str(error)) from error
            answer = _corrected(answer, request.proposals)
            answers = pdu.read_answers(answer)
            modality.send(pdu.pdu(pdu.ACCEPT, answer))
        except BaseException:
            gateway.close()
            self._limits.leave(address)
            raise
        self._senders.associated(request.calling, address)
        if refusal := reasons.of_contexts(request.proposals, answers):
            self._senders.refused(request.calling, address, refusal)
        association = Association(
            request.calling, address, answers, self._senders, self._hold_off, self._verdict
        )
        return Relay(modality, gateway, request.longest, association, self._service.timing, self.turns)

    def _verdict(self, sop_uid: str) -> str:
        if self._service.verdicts is None or not sop_uid:
            return ""
        with self._lock:
            return self._service.verdicts.take(sop_uid)

    def _check(self, request: Request, address: str) -> None:
        """Raises _RejectedError."""
        if not request.calling:
            raise _RejectedError(pdu.CALLING_NOT_RECOGNIZED, "it has no calling AE title")
        if request.called.upper() != self._service.aet.upper():
            raise _RejectedError(
                pdu.CALLED_NOT_RECOGNIZED,
                f"it called {request.called or 'no AE title'}, not {self._service.aet}",
            )
        if not self._service.may_send(request.calling, address):
            raise _RejectedError(pdu.CALLING_NOT_RECOGNIZED, "it is not in senders")
        if seconds := self._hold_off.seconds(address):
            reason = (
                f"held off for {seconds / 60:.0f} minutes more: its images ended ORTHANC1 {CRASHES} times"
            )
            raise _RejectedError(pdu.LIMIT_EXCEEDED, reason)


class _HandshakeError(Exception):
    """The TLS handshake failed: as `kind` says, for the certificate of the sender, or otherwise."""

    def __init__(self, kind: RefusalKind, reason: str) -> None:
        super().__init__(f"TLS: {reason}")
        self.kind = kind


def _secured(connection: socket.socket, tls: ssl.SSLContext | None) -> socket.socket:
    """Return the connection behind the TLS handshake, if there is one. Raises _HandshakeError."""
    connection.settimeout(_REQUEST_SECONDS)
    if tls is None:
        return connection
    try:
        return tls.wrap_socket(connection, server_side=True)
    except ssl.SSLCertVerificationError as error:
        raise _HandshakeError(RefusalKind.CERTIFICATE, error.verify_message) from error
    except OSError as error:
        reason = getattr(error, "reason", None) or "no handshake"
        raise _HandshakeError(RefusalKind.CONNECTION, reason) from error


def _read_request(modality: Channel) -> bytes:
    """Return the body of the A-ASSOCIATE-RQ. Raises ValueError, OSError."""
    scanner = PduScanner()
    until = time.monotonic() + _REQUEST_SECONDS
    while received := modality.receive_within(max(until - time.monotonic(), 0)):
        for piece in scanner.feed(received):
            if not isinstance(piece, Control) or piece.kind != pdu.REQUEST:
                raise ValueError("it did not begin with an A-ASSOCIATE-RQ")
            return piece.body
    raise ConnectionError("closed before the A-ASSOCIATE-RQ")


def _corrected(answer: bytes, proposals: Mapping[int, Proposal]) -> bytes:
    """Return the A-ASSOCIATE-AC with true results.

    Orthanc accepts the contexts of queries and aborts at the first one; and it says that the abstract syntax is not supported where it takes
    it in other transfer syntaxes only.
    """
    body = bytearray(answer)
    for context, one in pdu.read_answers(answer).items():
        abstract = proposals[context].abstract_syntax if context in proposals else ""
        if abstract in reasons.NOT_OFFERED:
            body[one.offset] = ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
        elif one.result == ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED and contexts.is_storage(abstract):
            body[one.offset] = ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED
    return bytes(body)
