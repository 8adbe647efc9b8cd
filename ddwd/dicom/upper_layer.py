"""DICOM upper layer (PS3.8) without pynetdicom's polling: it waits for the socket or for a PDU to send.

Used by the SCP and all SCUs. pynetdicom's reactor sleeps 1 ms whenever it is idle, which is most of the time of a small
C-STORE; here it waits in poll(2). It also limits the length of a PDU and the time that a peer may take to send it.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pynetdicom import AE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu_primitives import P_DATA

from ddwd.core.errors import PeerDownError, PeerRefusedError
from ddwd.dicom import contexts
from ddwd.dicom.receive_buffer import ReceiveBuffer, has_pending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pynetdicom.association import Association
    from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
    from pynetdicom.presentation import PresentationContext

log = logging.getLogger("ddwd.dicom")

MAX_PDU = 256 * 1024
"""Largest P-DATA-TF that we offer to take, in bytes (PS3.8 section D.1)."""

_ASSOCIATION_PDU = 1024 * 1024
"""Limit for all other PDUs: the largest valid A-ASSOCIATE-RQ (128 contexts with 45 syntaxes each) has about 400 KiB."""
_TRANSIENT = 2  # PS3.8 table 9-21: result of an A-ASSOCIATE-RJ
_TICK = 0.2
"""Seconds after which an idle reactor checks its timers."""
_LOST_SECONDS = 20
"""Seconds after which an association ends whose peer no longer acknowledges (notice_loss)."""
_HEADER = struct.Struct(">BxL")
_PDV = struct.Struct(">LB")
_P_DATA_TF = 0x04
_LEFT_OVER = 1024 * 1024
"""Bytes that are still read from a peer after our last PDU, so that it can read that one; then the connection is closed."""
_ESTABLISHED = "Sta6"  # PS3.8 table 9-5: association established and ready for data transfer
_CLOSING = "Sta13"  # the same: awaiting the close of the transport connection
_EVENT_PDATA, _EVENT_CLOSED, _EVENT_INVALID = "Evt10", "Evt17", "Evt19"  # PS3.8 table 9-10


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that one PDU may take to arrive, before and after the association is established."""

    negotiation: float = 5.0
    transfer: float = 60.0


class Fragments:
    """A received P-DATA-TF: views into the receive buffer, valid only until the next PDU is read."""

    def __init__(self, body: memoryview) -> None:
        self.values: list[tuple[int, Any]] = []
        while body:
            length, context_id = _PDV.unpack_from(body)
            end = 4 + length
            if length < 2 or end > len(body):  # noqa: PLR2004 - a context ID and a control header
                raise ValueError("a presentation data value overruns its PDU")
            self.values.append((context_id, body[5:end]))
            body = body[end:]

    def to_primitive(self) -> P_DATA:
        """Return the P-DATA indication (PS3.8 section 7.6)."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.extend(self.values)
        return primitive


class UpperLayer(DULServiceProvider):
    """The reactor of one association, event driven and limited; replaces the one of pynetdicom."""

    def __init__(self, assoc: Association, limits: Limits | None = None) -> None:
        super().__init__(assoc)
        former = assoc.dul
        self.daemon = True
        self._run_loop_delay = 0
        self._limits = limits or Limits()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.connection = former.socket.socket if former.socket else None
        self._bell_lock = threading.Lock()
        self._poller: select.poll | None = None
        self._received = ReceiveBuffer(_HEADER.size + MAX_PDU)
        self._left_over = 0
        self.socket = former.socket
        self.event_queue = former.event_queue
        self.artim_timer.timeout = former.artim_timer.timeout
        self._idle_timer.timeout = former._idle_timer.timeout

    def run_reactor(self) -> None:
        """Run until the association ends, then free its resources."""
        try:
            super().run_reactor()
        except InvalidEventError as error:
            # for example an acceptance after the peer closed the association: no answer is possible
            log.warning("an association ends: %s", error)
        finally:
            self._kill_thread = True
            self._received.free()
            self.released()
            with self._bell_lock:
                bell, self._bell = self._bell, -1
            os.close(bell)
            if self.connection is not None:
                self.connection.close()  # pynetdicom does not if the peer closed it first

    def released(self) -> None:
        """Hook: the reactor has ended, normally or by an error."""

    def wake(self) -> None:
        """End the reactor's wait."""
        with self._bell_lock:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    def send_pdu(self, primitive: Any) -> None:
        """Queue a primitive for the peer and wake the reactor."""
        super().send_pdu(primitive)
        self.wake()

    def kill_dul(self) -> None:
        """End the reactor."""
        super().kill_dul()
        self.wake()

    def stop_dul(self) -> bool:
        """End the reactor if the state machine is idle, and wait for it."""
        if self.state_machine.current_state != "Sta1":
            self.wake()
            return False
        self.kill_dul()
        self.join(timeout=_TICK * 5)
        return not self.is_alive()

    def accepts(self, fragments: Fragments) -> bool:
        """Hook: process a P-DATA-TF of an established association without pynetdicom's queues; return whether it was processed."""
        del fragments
        return False

    def transmit(self, content: bytes) -> None:
        """Send whole PDUs at once. Only for the reactor's own thread, which alone sends, between two PDUs of pynetdicom."""
        try:
            if self.connection is None:
                raise ConnectionError("closed")
            self.connection.sendall(content)
        except OSError:
            self.event_queue.put(_EVENT_CLOSED)

    def _is_transport_event(self) -> bool:
        if self.state_machine.current_state == _ESTABLISHED:
            self._exchange()
            return False
        if self.state_machine.current_state == _CLOSING:
            self._close()
            return True
        if not self._received.size and self.event_queue.empty() and not self._kill_thread:
            self._wait()
        if self._received.size:
            self._read_pdu_data()
            return True
        return super()._is_transport_event()

    def _exchange(self) -> None:
        """Read PDUs while no event and no PDU to send waits: the inner loop of an established association."""
        while not (self.event_queue.queue or self.to_provider_queue.queue or self._kill_thread):
            if not (self._received.size or self._wait()):
                return
            self._read_pdu_data()
            self._idle_timer.restart()

    def _close(self) -> None:
        """Discard what the peer still sends; close the connection once it pauses or has closed, or after _LEFT_OVER bytes.

        pynetdicom would decode it and answer every piece that is no PDU with another A-ABORT. A peer that sends and never reads would
        occupy a processor until the send buffer is full, and the thread for as long as one PDU may take to be sent.
        """
        peer = self.socket.socket if self.socket else None
        came = self._received.discard(peer) if peer is not None and self._wait() else 0
        self._left_over += came
        if self.socket and (not came or self._left_over > _LEFT_OVER):
            self.socket.close()

    def _wait(self) -> bool:
        """Wait for bytes, a primitive to send, or the next check of the timers; return whether there are bytes, or their end."""
        association_socket = self.socket.socket if self.socket else None
        if association_socket is None or association_socket.fileno() < 0:
            select.select([self._bell], [], [], 0.005)
            self._unring()
            return False
        if association_socket is not self.connection or self._poller is None:
            self._watch(association_socket)
        if isinstance(association_socket, ssl.SSLSocket) and has_pending(association_socket):
            return self._received.look(association_socket)
        found = cast("select.poll", self._poller).poll(_TICK * 1000)
        descriptors = [descriptor for descriptor, _ in found]
        if self._bell in descriptors:
            self._unring()
        if association_socket.fileno() not in descriptors:
            return False
        return not isinstance(association_socket, ssl.SSLSocket) or self._received.look(association_socket)

    def _watch(self, association_socket: socket.socket) -> None:
        """Poll this connection. A peer that stops reading delays a send for no longer than a PDU may take."""
        if isinstance(association_socket, ssl.SSLSocket):
            association_socket.settimeout(self._limits.transfer)
        else:
            seconds, fraction = divmod(self._limits.transfer, 1)
            association_socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(fraction * 1e6))
            )
            association_socket.settimeout(None)
        self.connection = association_socket
        self._poller = select.poll()
        self._poller.register(self._bell, select.POLLIN)
        self._poller.register(association_socket, select.POLLIN)

    def _unring(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def _read_pdu_data(self) -> None:
        """Read one PDU; refuse one that is too long before its body is read."""
        deadline = time.monotonic() + (
            self._limits.transfer if self.assoc.is_established else self._limits.negotiation
        )
        peer = self.socket.socket if self.socket else None
        try:
            if peer is None:
                raise ConnectionError("closed")
            kind, length = _HEADER.unpack(self._received.take(peer, _HEADER.size, deadline))
            if length > (MAX_PDU if kind == _P_DATA_TF else _ASSOCIATION_PDU):
                self.event_queue.put(_EVENT_INVALID)
                return
            body = self._received.take(peer, length, deadline)
        except OSError:
            self.event_queue.put(_EVENT_CLOSED)
            return
        self._take(kind, length, body)

    def _take(self, kind: int, length: int, body: memoryview) -> None:
        try:
            if kind == _P_DATA_TF:
                pdu, event = Fragments(body), _EVENT_PDATA
            else:
                pdu, event = self._decode_pdu(bytearray(_HEADER.pack(kind, length)) + body)  # type: ignore[assignment]
        except Exception:  # noqa: BLE001 - whatever the decoder raises for a hostile PDU, the PDU is invalid
            self.event_queue.put(_EVENT_INVALID)
            return
        # an established association only hands data on (action DT-2), and no event may be overtaken
        is_next = self.state_machine.current_state == _ESTABLISHED and not self.event_queue.queue
        if event == _EVENT_PDATA and is_next and self.accepts(pdu):
            return
        self._recv_pdu.put(pdu)  # type: ignore[arg-type]
        self.event_queue.put(event)


def no_delay(connection: socket.socket) -> None:
    """Switch Nagle off: every small DIMSE message would wait for a delayed acknowledgement (40 ms)."""
    with suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def notice_loss(association: Association) -> None:
    """Have the association end some 20 seconds after its peer stops acknowledging at the level of TCP.

    When packets are lost the kernel sends again at doubling intervals: a request during an outage would reach the peer minutes
    after its end. A peer that is only slow keeps acknowledging. Not for an SCU of large objects, whose peer may stop reading for longer.
    """
    transport = association.dul.socket
    if transport is None or transport.socket is None:
        return
    with suppress(OSError):
        options = {
            socket.TCP_USER_TIMEOUT: _LOST_SECONDS * 1000,
            socket.TCP_KEEPIDLE: _LOST_SECONDS // 2,
            socket.TCP_KEEPINTVL: _LOST_SECONDS // 4,
        }
        for option, value in options.items():
            transport.socket.setsockopt(socket.IPPROTO_TCP, option, value)
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class Checkpoint(threading.Event):
    """Where an association's own thread pauses during a request; replaces the one of pynetdicom.

    That one has a race: the thread has passed the checkpoint but is not marked as running yet. A request that begins then takes the
    thread for paused, and the thread takes the response off the queue: the requestor waits in vain until its time-out.
    Here passing and marking are one step.
    """

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association
        self._passing = threading.Lock()
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Pass and be marked as running, or go on waiting."""
        while True:
            is_set = super().wait(timeout)
            with self._passing:
                if self.is_set():
                    self._association._is_paused = False
                    return True
            if timeout is not None:
                return is_set

    def clear(self) -> None:
        """Let no caller pass."""
        with self._passing:
            super().clear()


class _Requestor(AE):
    """An application entity whose associations use UpperLayer and Checkpoint."""

    def _create_socket(self, assoc: Association, *args: Any, **kwargs: Any) -> Any:
        layer = assoc.dul = UpperLayer(assoc)
        assoc._reactor_checkpoint = Checkpoint(assoc)
        created = super()._create_socket(assoc, *args, **kwargs)
        layer.connection = cast("socket.socket", created.socket)
        no_delay(layer.connection)
        return created


@dataclass(frozen=True, slots=True)
class Peer:
    """A remote application entity, and our AE title towards it; by TLS if there is a context for it."""

    host: str
    port: int
    called: str
    calling: str
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        return f"{self.called} at {self.host}:{self.port}"


def associate(
    peer: Peer,
    proposal: Sequence[PresentationContext],
    *,
    connect: float = 10.0,
    silence: float = 60.0,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
) -> Association:
    """Request an association; `is_established` and `is_rejected` are its result (see check_established).

    `connect` and `silence` are seconds: for TCP and the A-ASSOCIATE-AC, and for any DIMSE response. `roles` are negotiated if
    they are not those of an SCU (PS3.7 section D.3.3.4).
    """
    contexts.configure()
    entity = _Requestor(peer.calling)
    entity.implementation_class_uid, entity.implementation_version_name = contexts.IMPLEMENTATION
    entity.connection_timeout = entity.acse_timeout = connect
    entity.dimse_timeout = silence
    entity.network_timeout = None
    return entity.associate(
        peer.host,
        peer.port,
        contexts=list(proposal),
        ae_title=peer.called,
        max_pdu=MAX_PDU,
        ext_neg=list(roles),
        tls_args=None if peer.tls is None else (peer.tls, peer.host),
    )


def check_established(association: Association, peer: Peer) -> None:
    """Raise PeerRefusedError if the peer rejected the association for good, PeerDownError if there is none for another reason.

    A transient rejection (PS3.8 section 9.3.4) is a peer that is down or busy: trying again can help.
    """
    if association.is_rejected:
        answer = association.acceptor.primitive
        if answer is not None and answer.result == _TRANSIENT:
            raise PeerDownError(f"{peer} takes no associations now ({answer.reason_str.lower()})")
        raise PeerRefusedError(f"{peer} rejected the association of {peer.calling}: check both AE titles")
    if not association.is_established:
        raise PeerDownError(f"{peer} does not answer")


class Announced(queue.Queue[Any]):
    """A queue that also notifies another one, for a thread that can wait on one queue only."""

    def __init__(self, bell: queue.Queue[Any]) -> None:
        super().__init__()
        self._bell = bell

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add the item, then notify."""
        super().put(item, block, timeout)
        self._bell.put((None, None))
