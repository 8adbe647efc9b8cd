"""The C-STORE SCP: takes what ORTHANC2 sends and answers 0x0000 only once the object is durable in the spool.

Stage between retrieve (which asks) and verify (which reads the spool). Anything that goes wrong is a failure status, never a
warning: an Orthanc takes warnings for success. The whole life of a C-STORE happens in its association's reactor thread.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, cast

from pynetdicom import AE, evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from ddwd.config import tls
from ddwd.config.paths import Paths
from ddwd.core import durable, watchdog
from ddwd.core.clock import SystemClock
from ddwd.core.errors import LinkedError, StorageFullError
from ddwd.dicom import contexts
from ddwd.dicom.command import StoreRequest, read_store, store_response
from ddwd.dicom.head import UnreadableError
from ddwd.dicom.incoming import Incoming, Spool
from ddwd.dicom.move_scu import echo
from ddwd.dicom.upper_layer import MAX_PDU, Announced, Fragments, Limits, Peer, UpperLayer, no_delay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from pynetdicom.association import Association

    from ddwd.config.loader import Config, Scp
    from ddwd.core.clock import Clock
    from ddwd.dicom.head import Head

log = logging.getLogger("ddwd.scp")

# Statuses of the Storage Service Class (PS3.4 table B.2-1).
SUCCESS, OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
INPUT_OUTPUT, UNEXPECTED = 0xC001, 0xC002

_COMMAND, _LAST = 0x01, 0x02  # bits of the message control header (PS3.8 section E.2)
_COMMAND_BYTES = 64 * 1024
"""Cap of one command set; the largest sound C-STORE-RQ has a few hundred bytes."""
_LOOK = 0.05
"""Seconds between two looks at what a stop waits for."""
_IDLE_WAIT = 0.2
"""Seconds between two looks of an association's own thread at its timers; messages wake it at once."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What peers together may claim: open connections, and seconds of silence on an established association."""

    connections: int = 96
    silence: float = 300.0
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the SCP did since its start; `progressed` is time.monotonic() of the last bytes that came.

    `strangers` are connections from elsewhere than this machine, closed before a byte was read.
    """

    associations: int = 0
    received: int = 0
    received_bytes: int = 0
    refused: int = 0
    last_received: datetime | None = None
    progressed: float = 0.0
    strangers: int = 0


class _RefusedError(Exception):
    """The object is not taken, with this status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Tally:
    """Counters that several reactors share."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._received = self._bytes = self._refused = self._strangers = 0
        self._last: datetime | None = None
        self._progressed = time.monotonic()

    def seen(self, size: int) -> None:
        """Bytes of a data set came."""
        with self._lock:
            self._bytes += size
            self._progressed = time.monotonic()

    def answered(self, status: int) -> None:
        """A C-STORE was answered."""
        with self._lock:
            if status == SUCCESS:
                self._received += 1
                self._last = self._clock.utc()
            else:
                self._refused += 1

    def turned_away(self) -> None:
        """A connection from elsewhere was closed."""
        with self._lock:
            self._strangers += 1

    def counts(self, associations: int) -> Counts:
        """A consistent copy."""
        with self._lock:
            return Counts(
                associations,
                self._received,
                self._bytes,
                self._refused,
                self._last,
                self._progressed,
                self._strangers,
            )


class _Nowhere(BytesIO):
    """Where the data set of a message goes that is no C-STORE: none of the services here needs one."""

    def write(self, content: Any) -> int:
        """Forget it."""
        return len(content)


class _Dimse(DIMSEServiceProvider):
    """Receives messages: a C-STORE is served here, in the reactor's thread; all else by pynetdicom, in the association's own.

    A message is its command set, then its data set if there is one, all in one presentation context (PS3.8 annex E).
    """

    dul: _Reactor

    def __init__(self, assoc: Association, spool: Spool, tally: _Tally) -> None:
        super().__init__(assoc)
        self._spool = spool
        self._tally = tally
        self._silence = assoc.network_timeout or 0
        self._command = bytearray()
        self._context_id = 0
        self._request: StoreRequest | None = None
        self._object: Incoming | None = None
        self.established = threading.Event()
        self.is_busy = False
        self.heard = time.monotonic()

    def get_msg(self, block: bool = False) -> Any:
        """The next message for the association's thread, waiting a little where pynetdicom would poll."""
        try:
            return self.msg_queue.get(timeout=self.dimse_timeout if block else _IDLE_WAIT)
        except queue.Empty:
            return None, None

    def receive_primitive(self, primitive: Any) -> None:
        """Take the fragments that came by pynetdicom's state machine."""
        self.receive(primitive.presentation_data_value_list)

    def receive(self, fragments: Sequence[tuple[int, Any]]) -> None:
        """Take the fragments of one P-DATA-TF: pairs of a context ID and a control header with what follows it."""
        self.heard = time.monotonic()
        try:
            for context_id, fragment in fragments:
                self._take(context_id, fragment[0], fragment[1:])
        except Exception as error:  # noqa: BLE001 - a message that cannot be decoded aborts its association, no more
            log.warning("an invalid DIMSE message ends an association (%s)", type(error).__name__)
            self.drop()
            self.dul.event_queue.put("Evt19")

    def drop(self) -> None:
        """Remove an object that did not come whole."""
        unfinished, self._object = self._object, None
        if unfinished is not None:
            unfinished.discard()

    def _take(self, context_id: int, control: int, content: Any) -> None:
        if self.is_busy and context_id != self._context_id:
            raise ValueError("a message in more than one presentation context")
        self.is_busy, self._context_id = True, context_id
        has_command = self._request is not None or self.message is not None
        if bool(control & _COMMAND) is has_command:
            raise ValueError("a data set before its command set, or a command set within a message")
        if not has_command:
            self._command += content
            if len(self._command) > _COMMAND_BYTES:
                raise ValueError("a command set without an end")
            if control & _LAST:
                self._begin()
        elif self._object is not None:
            self._object.write(content)
            if control & _LAST:
                self._answer()
        elif control & _LAST:
            self._pass_on(control, b"")

    def _begin(self) -> None:
        """The command set is whole."""
        command, self._command = bytes(self._command), bytearray()
        self._request = read_store(command)
        if self._request is None:
            self._pass_on(_COMMAND | _LAST, command)
            return
        context = self.assoc._accepted_cx.get(self._context_id)
        if context is None:
            raise ValueError("a C-STORE-RQ outside the accepted contexts")
        names = (self._request.sop_class, self._request.sop_instance, str(context.transfer_syntax[0]))
        self._object = Incoming(self._spool, names, self._tally.seen)
        if not self._request.has_data_set:
            self._answer()

    def _pass_on(self, control: int, content: bytes) -> None:
        """Have pynetdicom decode a message that is no C-STORE-RQ; of its data set it only hears that it ended."""
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.data_set = _Nowhere()
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((self._context_id, bytes((control,)) + content))
        if self.message.decode_msg(primitive, self.assoc):
            message, self.message = self.message, None
            self.msg_queue.put((self._context_id, cast("Any", message.message_to_primitive())))
            self.is_busy = False

    def _answer(self) -> None:
        """The object is whole."""
        if not self.established.wait(self._silence):
            raise ValueError("a C-STORE-RQ before the association was established")
        request, self._request = cast("StoreRequest", self._request), None
        status = self._verdict(request)
        self._tally.answered(status)
        self.dul.transmit(store_response(request, status, self._context_id, self.maximum_pdu_size))
        self.is_busy = False

    def _verdict(self, request: StoreRequest) -> int:
        """Keep the object, or say by a status why not; every failure ends here."""
        incoming, self._object = cast("Incoming", self._object), None
        try:
            with durable.translated():
                head = incoming.head()
                _check(head, request)
                incoming.keep(head)
        except _RefusedError as error:
            status, reason = error.status, str(error)
        except UnreadableError as error:
            status, reason = CANNOT_UNDERSTAND, str(error)
        except StorageFullError as error:
            status, reason = OUT_OF_RESOURCES, str(error)
        except LinkedError as error:
            status, reason = INPUT_OUTPUT, str(error)
        except OSError as error:
            status, reason = INPUT_OUTPUT, error.strerror or type(error).__name__
        except Exception as error:  # noqa: BLE001 - the edge: a defect of ours must not be the loss of an image
            status, reason = UNEXPECTED, type(error).__name__
        else:
            return SUCCESS
        finally:
            incoming.discard()
        log.error("refused a C-STORE with 0x%04X: %s; instance %s", status, reason, request.sop_instance)
        return status


def _check(head: Head, request: StoreRequest) -> None:
    """The identifiers must be there and agree with the command set (PS3.4 section B.2.3: 0xA900)."""
    if not request.is_whole:
        raise _RefusedError(MISMATCH, "the command set lacks a mandatory element")
    if not (head.study_uid and head.series_uid and head.sop_uid):
        raise _RefusedError(MISMATCH, "the data set lacks a study, series or SOP instance UID")
    if head.sop_uid != request.sop_instance:
        raise _RefusedError(MISMATCH, "the SOP instance UIDs of command and data set differ")
    if head.sop_class and head.sop_class != request.sop_class:
        raise _RefusedError(MISMATCH, "the SOP class UIDs of command and data set differ")


class _Reactor(UpperLayer):
    """The upper layer of an accepted association; tells the SCP when it has ended."""

    def __init__(self, assoc: Association, scp: StoreScp, limits: Limits) -> None:
        super().__init__(assoc, limits)
        self._scp = scp
        self.dimse: _Dimse | None = None

    def accepts(self, fragments: Fragments) -> bool:
        """Serve what came at once, in this thread."""
        if self.dimse is None:
            return False
        self.dimse.receive(fragments.values)
        return True

    def released(self) -> None:
        """Free what the association held."""
        if self.dimse is not None:
            self.dimse.established.set()
            self.dimse.drop()
        self._scp.closed(self.assoc)


class _Handler(RequestHandler):
    """Gives each accepted connection our reactor and DIMSE provider."""

    server: _Server

    def _create_association(self) -> Association:
        association = super()._create_association()
        self.server.scp.opened(association)
        return association


class _Server(ThreadedAssociationServer):
    """The listener: turns strangers away before a byte of theirs is read."""

    scp: StoreScp
    request_queue_size = 64
    daemon_threads = True

    def shutdown(self) -> None:
        """Refuse connections from now on and end: what the listener waits on is closed, so that it does not sleep its half second out."""
        with suppress(OSError):
            cast("socket.socket", self.socket).shutdown(socket.SHUT_RDWR)
        super().shutdown()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether this source may speak, and whether there is room for it."""
        return self.scp.admits(str(client_address[0])) and self._readied(request)

    @staticmethod
    def _readied(request: socket.socket) -> bool:
        no_delay(request)
        return True

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve the connection, behind the TLS handshake where there is one: in its own thread, so that nobody waits for a slow peer."""
        secured = self.scp.secured(request, str(client_address[0]))
        if secured is not None:
            super().finish_request(secured, client_address)


class StoreScp:
    """The running SCP. `start` it, `stop` it; `counts` at any time."""

    def __init__(self, config: Config, clock: Clock | None = None, bounds: Bounds | None = None) -> None:
        self._scp: Scp = config.scp
        self._bounds = bounds or Bounds()
        self._spool = Spool(Paths(config), config.disk.reserve)
        self._tally = _Tally(clock or SystemClock())
        self._open: dict[Association, None] = {}
        self._changed = threading.Condition()
        self._entity = self._make_entity()
        self._server: _Server | None = None
        self._tls = tls.of_scp(config)
        self._handshakes = threading.BoundedSemaphore(self._bounds.connections)
        self._to_self = tls.to_scp(config, "scp")
        self._tell: Callable[[str, str], None] = _untold

    def on_refused(self, tell: Callable[[str, str], None]) -> None:
        """Before the start: have each refused association told, by the AE titles it called itself and us."""
        self._tell = tell

    @property
    def port(self) -> int:
        """The port that is listened on, also where port 0 was asked for."""
        if self._server is None:
            raise RuntimeError("the SCP is not running")
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Sweep what a dead run left, then listen. Raises OSError where the port is taken or the spool cannot be made."""
        contexts.configure()
        swept = self._spool.prepare()
        if swept:
            log.info("removed %d unfinished objects of an earlier run; none was acknowledged", swept)
        server = self._entity.make_server(
            (self._scp.host, self._scp.port),
            contexts=contexts.supported(),
            evt_handlers=[
                (evt.EVT_ESTABLISHED, _note_established),
                (evt.EVT_REJECTED, _note_rejected, [self._tell]),
            ],
            server_class=_Server,
            request_handler=_Handler,
        )
        self._server = cast("_Server", server)
        self._server.scp = self
        self._entity._servers.append(self._server)
        threading.Thread(
            target=self._server.serve_forever, args=(0.5,), name="ddwd-listener", daemon=True
        ).start()

    def stop(self, grace: float = 20.0) -> bool:
        """Refuse new associations; end each open one once the object at hand has its verdict; cut the rest after `grace` seconds.

        True where no object was cut off.
        """
        server, self._server = self._server, None
        if server is None:
            return True
        server.shutdown()
        until = time.monotonic() + grace
        ended: set[Association] = set()
        while (rest := self._still_open()) and time.monotonic() < until:
            watchdog.alive()
            for association in rest:
                if association not in ended and not _is_busy(association):
                    ended.add(association)
                    association.abort(block=False)
            with self._changed:
                self._changed.wait(_LOOK)
        for association in rest:
            _cut(association)
        return not any(association not in ended for association in rest)

    def _still_open(self) -> list[Association]:
        with self._changed:
            return list(self._open)

    def counts(self) -> Counts:
        """What was done since the start."""
        return self._tally.counts(len(self._open))

    def answers(self, timeout: float = 5.0) -> bool:
        """Whether a C-ECHO over a real connection is answered."""
        return self._server is not None and echo(
            Peer(self._scp.host, self.port, self._scp.aet, "DDWD_SELF", self._to_self), timeout
        )

    def admits(self, source: str) -> bool:
        """Whether a connection from this address may be accepted now. Makes room at the cost of who says nothing."""
        if not self._is_here(source):
            log.warning("refused a connection from %s: only this machine may speak to the SCP", source)
            self._tally.turned_away()
            self._tell("?", f"{self._scp.aet} from {source}, which is not this machine")
            return False
        with self._changed:
            if len(self._open) < self._bounds.connections:
                return True
            idle = self._idlest()
            if idle is not None:
                del self._open[idle]
        if idle is None:
            log.warning("refused a connection: all %d are in use", self._bounds.connections)
            return False
        _cut(idle)
        return True

    def secured(self, connection: socket.socket, source: str) -> socket.socket | None:
        """The connection as it is to be read: after the TLS handshake where TLS is on; None, and closed, where that failed."""
        if self._tls is None:
            return connection
        if not self._handshakes.acquire(blocking=False):
            connection.close()
            return None
        try:
            connection.settimeout(self._bounds.limits.negotiation)
            return self._tls.wrap_socket(connection, server_side=True)
        except OSError as error:
            reason = getattr(error, "reason", None) or "no handshake"
            log.warning("refused a connection from %s: TLS: %s", source, reason)
            self._tell("?", f"{self._scp.aet} without a certificate of the portal's authority")
            connection.close()
            return None
        finally:
            self._handshakes.release()

    def _is_here(self, source: str) -> bool:
        """Whether an address is this machine's, where ORTHANC2 runs: of the loopback, or the one that is listened on."""
        address = ip_address(source)
        inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        listening = None if self._server is None else str(self._server.server_address[0])
        return (inner or address).is_loopback or source == listening

    def _idlest(self) -> Association | None:
        """Who has yet to request an association, else the one that has been silent the longest, with no message under way."""
        waiting = next((one for one in self._open if not one.is_established), None)
        quiet = (one for one in self._open if not _is_busy(one))
        return waiting or min(quiet, key=_heard, default=None)

    def opened(self, association: Association) -> None:
        """Equip a new association."""
        association.network_timeout = self._bounds.silence
        dimse = _Dimse(association, self._spool, self._tally)
        reactor = _Reactor(association, self, self._bounds.limits)
        reactor.dimse = dimse
        reactor.to_user_queue = Announced(dimse.msg_queue)
        association.dul, association.dimse = reactor, dimse
        with self._changed:
            self._open[association] = None

    def closed(self, association: Association) -> None:
        """Forget an association that has ended."""
        with self._changed:
            self._open.pop(association, None)
            self._changed.notify_all()

    def _make_entity(self) -> AE:
        entity = AE(self._scp.aet)
        entity.implementation_class_uid, entity.implementation_version_name = contexts.implementation()
        entity.require_called_aet = True
        entity.maximum_pdu_size = MAX_PDU
        entity.maximum_associations = (
            1_000_000  # it counts threads of closed connections too; admits() is the bound
        )
        entity.acse_timeout = self._bounds.limits.negotiation
        entity.dimse_timeout = entity.network_timeout = self._bounds.silence
        return entity


def serve(config: Config) -> StoreScp:
    """Start the SCP of this configuration."""
    scp = StoreScp(config)
    scp.start()
    return scp


def _note_established(event: evt.Event) -> None:
    dimse = event.assoc.dimse
    if isinstance(dimse, _Dimse):
        dimse.established.set()


def _untold(_calling: str, _called: str) -> None:
    """Nobody wants to know of refused associations."""


def _note_rejected(event: evt.Event, tell: Callable[[str, str], None]) -> None:
    """Log who was turned away by name; what it called itself and us is no patient data, and may be anything."""
    request = event.assoc.requestor.primitive
    calling, called = (
        (repr(request.calling_ae_title), repr(request.called_ae_title)) if request else ("?", "?")
    )
    log.warning(
        "rejected an association of %s at %s, which called %s", calling, event.assoc.requestor.address, called
    )
    tell(calling.strip("'\""), called.strip("'\""))


def _is_busy(association: Association) -> bool:
    """Whether a message is on its way in, or being answered."""
    return isinstance(association.dimse, _Dimse) and association.dimse.is_busy


def _heard(association: Association) -> float:
    """When the last message came, or the connection (time.monotonic)."""
    return association.dimse.heard if isinstance(association.dimse, _Dimse) else 0.0


def _cut(association: Association) -> None:
    """Close the connection of an association that has not got anywhere."""
    connection = association.dul.socket.socket if association.dul.socket else None
    if connection is not None:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
