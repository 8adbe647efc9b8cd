"""The C-STORE SCP: takes what ORTHANC2 sends and answers 0x0000 only once the object is durable in the spool.

Stage between retrieve (which asks) and verify (which reads the spool). Anything that goes wrong is a failure status, never a
warning: an Orthanc takes warnings for success. The whole life of a C-STORE happens in its association's reactor thread.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, cast

from pynetdicom import AE, evt
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from ddwd.config import tls
from ddwd.config.paths import Paths
from ddwd.core import watchdog
from ddwd.core.clock import SystemClock
from ddwd.dicom import contexts
from ddwd.dicom.incoming import IncomingStore
from ddwd.dicom.move_scu import echo
from ddwd.dicom.store_service import Counts, ReceiveCounter, StoreService
from ddwd.dicom.upper_layer import MAX_PDU, Announced, Fragments, Limits, Peer, UpperLayer, no_delay

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynetdicom.association import Association

    from ddwd.config.schema import Config, Scp
    from ddwd.core.clock import Clock

log = logging.getLogger("ddwd.scp")

_LOOK = 0.05
"""Seconds between two looks at what a stop waits for."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What peers together may claim: open connections, and seconds of silence on an established association."""

    connections: int = 96
    silence: float = 300.0
    limits: Limits = field(default_factory=Limits)


class _Reactor(UpperLayer):
    """The upper layer of an accepted association; reports its end to the SCP."""

    def __init__(self, assoc: Association, scp: StoreScp, limits: Limits) -> None:
        super().__init__(assoc, limits)
        self._scp = scp
        self.dimse: StoreService | None = None

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

    server: _Listener

    def _create_association(self) -> Association:
        association = super()._create_association()
        self.server.scp.opened(association)
        return association


class _Listener(ThreadedAssociationServer):
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
        """Serve the connection, behind the TLS handshake where there is one: in its own thread, so that no other peer waits for a slow one."""
        secured = self.scp.secured(request, str(client_address[0]))
        if secured is not None:
            super().finish_request(secured, client_address)


class StoreScp:
    """The running SCP. `start` it, `stop` it; `counts` at any time."""

    def __init__(self, config: Config, clock: Clock | None = None, bounds: Bounds | None = None) -> None:
        self._scp: Scp = config.scp
        self._bounds = bounds or Bounds()
        self._spool = IncomingStore(Paths(config), config.disk.reserve)
        self._counter = ReceiveCounter(clock or SystemClock())
        self._open: dict[Association, None] = {}
        self._changed = threading.Condition()
        self._entity = self._make_entity()
        self._server: _Listener | None = None
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
            server_class=_Listener,
            request_handler=_Handler,
        )
        self._server = cast("_Listener", server)
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
        return self._counter.counts(len(self._open))

    def answers(self, timeout: float = 5.0) -> bool:
        """Whether a C-ECHO over a real connection is answered."""
        return self._server is not None and echo(
            Peer(self._scp.host, self.port, self._scp.aet, "DDWD_SELF", self._to_self), timeout
        )

    def admits(self, source: str) -> bool:
        """Whether a connection from this address may be accepted now. Makes room at the cost of who says nothing."""
        if not self._is_here(source):
            log.warning("refused a connection from %s: only this machine may speak to the SCP", source)
            self._counter.turned_away()
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
        dimse = StoreService(association, self._spool, self._counter)
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
    if isinstance(dimse, StoreService):
        dimse.established.set()


def _untold(_calling: str, _called: str) -> None:
    """No-op callback for refused associations."""


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
    return isinstance(association.dimse, StoreService) and association.dimse.is_busy


def _heard(association: Association) -> float:
    """When the last message came, or the connection (time.monotonic)."""
    return association.dimse.heard if isinstance(association.dimse, StoreService) else 0.0


def _cut(association: Association) -> None:
    """Close the connection of an association that has not got anywhere."""
    connection = association.dul.socket.socket if association.dul.socket else None
    if connection is not None:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
