"""The C-STORE SCP: receives what ORTHANC2 sends and answers 0x0000 only once the object is durable in the spool.

Stage between retrieve (which requests) and verify (which reads the spool). Any error is a failure status, never a warning: an
Orthanc takes a warning for success. A C-STORE is received and answered in its association's reactor thread.
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
"""Seconds between two checks of the open associations during a stop."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits for all peers together: open connections, and seconds of silence on an established association."""

    connections: int = 96
    silence: float = 300.0
    limits: Limits = field(default_factory=Limits)


class _Reactor(UpperLayer):
    """The upper layer of an accepted association; reports its end to the SCP."""

    def __init__(self, assoc: Association, scp: StoreScp, limits: Limits, service: StoreService) -> None:
        super().__init__(assoc, limits)
        self._scp = scp
        self._service = service

    def accepts(self, fragments: Fragments) -> bool:
        """Serve the fragments at once, in this thread."""
        self._service.receive(fragments.values)
        return True

    def released(self) -> None:
        """Free what the association held."""
        self._service.established.set()
        self._service.drop()
        self._scp.closed(self.assoc)


class _Handler(RequestHandler):
    """Gives each accepted connection our reactor and DIMSE provider."""

    server: _Listener

    def _create_association(self) -> Association:
        association = super()._create_association()
        self.server.scp.opened(association)
        return association


class _Listener(ThreadedAssociationServer):
    """The listener; closes connections of other machines before it reads a byte of them."""

    scp: StoreScp
    request_queue_size = 64
    daemon_threads = True

    def shutdown(self) -> None:
        """Refuse connections from now on and end. The socket is shut down so that the listener does not wait for its next poll."""
        with suppress(OSError):
            cast("socket.socket", self.socket).shutdown(socket.SHUT_RDWR)
        super().shutdown()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether this source may connect, and whether a connection is free."""
        if not self.scp.admits(str(client_address[0])):
            return False
        no_delay(request)
        return True

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve the connection, by TLS if it is on. The handshake is in the connection's own thread: no other peer waits for a slow one."""
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
        self._open: dict[Association, StoreService] = {}
        self._changed = threading.Condition()
        self._server: _Listener | None = None
        self._tls = tls.of_scp(config)
        self._handshakes = threading.BoundedSemaphore(self._bounds.connections)
        self._to_self = tls.to_scp(config, "scp")
        self._report: Callable[[str, str], None] = lambda _calling, _called: None

    def on_refused(self, report: Callable[[str, str], None]) -> None:
        """Before the start: have each refused association reported, by its calling and called AE titles."""
        self._report = report

    @property
    def port(self) -> int:
        """The port that is listened on, also where port 0 was configured."""
        if self._server is None:
            raise RuntimeError("the SCP is not running")
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Remove unfinished objects of an earlier run, then listen. Raises OSError if the port is in use or the spool cannot be made."""
        contexts.configure()
        if swept := self._spool.prepare():
            log.info("removed %d unfinished objects of an earlier run; none was acknowledged", swept)
        entity = AE(self._scp.aet)
        entity.implementation_class_uid, entity.implementation_version_name = contexts.IMPLEMENTATION
        entity.require_called_aet = True
        entity.maximum_pdu_size = MAX_PDU
        entity.maximum_associations = 1_000_000  # counts closed connections too; admits() is the bound
        entity.acse_timeout = self._bounds.limits.negotiation
        entity.dimse_timeout = entity.network_timeout = self._bounds.silence
        server = entity.make_server(
            (self._scp.host, self._scp.port),
            contexts=contexts.supported(),
            evt_handlers=[
                (evt.EVT_ESTABLISHED, _note_established),
                (evt.EVT_REJECTED, _note_rejected, [self._report]),
            ],
            server_class=_Listener,
            request_handler=_Handler,
        )
        self._server = cast("_Listener", server)
        self._server.scp = self
        entity._servers.append(self._server)
        threading.Thread(
            target=self._server.serve_forever, args=(0.5,), name="ddwd-listener", daemon=True
        ).start()

    def stop(self, grace: float = 20.0) -> bool:
        """Refuse new associations; end each open one once its current object is answered; cut the others after `grace` seconds.

        Return whether no object was cut off.
        """
        server, self._server = self._server, None
        if server is None:
            return True
        server.shutdown()
        until = time.monotonic() + grace
        ended: set[Association] = set()
        while (rest := self._still_open()) and time.monotonic() < until:
            watchdog.alive()
            for association, service in rest.items():
                if association not in ended and not service.is_busy:
                    ended.add(association)
                    association.abort(block=False)
            with self._changed:
                self._changed.wait(_LOOK)
        for association in rest:
            _cut(association)
        return not any(association not in ended for association in rest)

    def _still_open(self) -> dict[Association, StoreService]:
        with self._changed:
            return dict(self._open)

    def counts(self) -> Counts:
        """Return the counts since the start."""
        return self._counter.counts(len(self._open), self._bounds.connections)

    def answers(self, timeout: float = 5.0) -> bool:
        """Return whether a C-ECHO over a real connection is answered."""
        if self._server is None:
            return False
        return echo(Peer(self._scp.host, self.port, self._scp.aet, "DDWD_SELF", self._to_self), timeout)

    def admits(self, source: str) -> bool:
        """Return whether a connection from this address may be accepted now. May close an idle association to free a connection."""
        if not self._is_here(source):
            log.warning("refused a connection from %s: only this machine may connect to the SCP", source)
            self._counter.turned_away()
            self._report("?", f"{self._scp.aet} from {source}, which is not this machine")
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
        """Return the connection, after the TLS handshake if TLS is on; None, and closed, if the handshake failed."""
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
            self._report("?", f"{self._scp.aet} without a certificate of the portal's authority")
            connection.close()
            return None
        finally:
            self._handshakes.release()

    def _is_here(self, source: str) -> bool:
        """Return whether an address is of this machine, where ORTHANC2 runs: of the loopback, or the one that is listened on."""
        address = ip_address(source)
        inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        listening = None if self._server is None else str(self._server.server_address[0])
        return (inner or address).is_loopback or source == listening

    def _idlest(self) -> Association | None:
        """Return a connection without an association yet, else the association that is silent the longest, with no message under way."""
        waiting = next((association for association in self._open if not association.is_established), None)
        idle = (association for association, service in self._open.items() if not service.is_busy)
        return waiting or min(idle, key=lambda association: self._open[association].last_at, default=None)

    def opened(self, association: Association) -> None:
        """Equip a new association."""
        association.network_timeout = self._bounds.silence
        service = StoreService(association, self._spool, self._counter)
        reactor = _Reactor(association, self, self._bounds.limits, service)
        reactor.to_user_queue = Announced(service.msg_queue)
        association.dul, association.dimse = reactor, service
        with self._changed:
            self._open[association] = service

    def closed(self, association: Association) -> None:
        """Forget an association that has ended."""
        with self._changed:
            self._open.pop(association, None)
            self._changed.notify_all()


def _note_established(event: evt.Event) -> None:
    cast("StoreService", event.assoc.dimse).established.set()


def _note_rejected(event: evt.Event, report: Callable[[str, str], None]) -> None:
    """Log and report a rejected association. Its AE titles are no patient data, and may be any text."""
    request = event.assoc.requestor.primitive
    calling, called = (
        (repr(request.calling_ae_title), repr(request.called_ae_title)) if request else ("?", "?")
    )
    log.warning(
        "rejected an association of %s at %s, which called %s", calling, event.assoc.requestor.address, called
    )
    report(calling.strip("'\""), called.strip("'\""))


def _cut(association: Association) -> None:
    """Close the connection of an association that did not end."""
    connection = association.dul.socket.socket if association.dul.socket else None
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
