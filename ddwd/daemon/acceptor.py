"""Entry point of ddwd-acceptor: accept the associations of modalities for ORTHANC1, write the status file (Paths.heartbeat('acceptor')).

Runs as user ddwd-acceptor: it reads what modalities send, and needs nothing of the portal but its settings and the key of its certificate.
"""

from __future__ import annotations

import logging
import os
from ipaddress import ip_address

from ddwd.acceptor.allowed_senders import admits
from ddwd.acceptor.hold_off import HoldOff
from ddwd.acceptor.limits import AssociationLimits, Limits
from ddwd.acceptor.listener import Acceptor, Service
from ddwd.acceptor.relay import Timing
from ddwd.acceptor.senders import Senders
from ddwd.config import tls
from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core import watchdog
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock, SystemClock, stamp
from ddwd.daemon.loop import Loop, TickResult, enter
from ddwd.orthanc.plugin.verdicts import Verdicts
from ddwd.provisioning.port_holders import cannot_start
from ddwd.store.status_files import ACCEPTOR, AcceptorStatus

log = logging.getLogger("ddwd.acceptor")

_INTERVAL = 1.0  # seconds between two writings of the status file
_DRAIN = 20.0  # seconds after SIGTERM in which images that are being received may be completed


class AcceptorDaemon:
    """The acceptor with its status file."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._clock = clock
        self._since = stamp(clock.utc())
        self._file = Paths(config).heartbeat("acceptor")
        self._fault = Paths(config).gateway_fault
        self._fault_at = self._last_fault()
        self._limits = AssociationLimits(
            Limits(config.gateway.associations, config.gateway.associations_each)
        )
        self._hold_off = HoldOff(clock)
        self._audit = Audit()
        self._senders = Senders(self._audit, clock)
        service = Service(
            config.gateway.aet,
            config.gateway.orthanc_port,
            lambda aet, address: admits(config.senders, aet, address),
            lambda address: any(ip_address(address) in network for network in config.network.quickack),
            Timing(answer=config.gateway.answer_within),
            verdicts=Verdicts(Paths(config).verdicts),
        )
        self._acceptor = Acceptor(service, self._limits, self._hold_off, self._senders)

    def run(self, config: Config) -> None:
        """Listen until stopped. Raises DdwdError."""
        context = tls.of_gateway(config)
        try:
            self._acceptor.listen(
                "", config.gateway.dicom_port, context if config.tls.gateway == "only" else None
            )
            if config.tls.gateway == "both":
                self._acceptor.listen("", config.tls.gateway_port, context)
        except OSError as error:
            raise cannot_start(error, config.gateway.dicom_port, config.tls.gateway_port) from error
        self._audit.record(Event.STARTED, "the acceptor starts")
        loop = Loop(self._beat, _INTERVAL)
        loop.serve()
        loop.extend(_DRAIN + 10)
        watchdog.install(loop.alive)
        if not self._acceptor.stop(_DRAIN):
            log.warning(
                "images that were being received were cut off; they were not acknowledged and will be sent again"
            )
        self._audit.record(Event.STOPPED, "the acceptor stops")

    def _last_fault(self) -> int:
        """Return when ORTHANC1's unit noted that it ended by a fault, in nanoseconds; 0 if it never did."""
        try:
            return self._fault.stat().st_mtime_ns
        except OSError:
            return 0

    def _beat(self) -> TickResult:
        if (fault_at := self._last_fault()) != self._fault_at:
            self._fault_at = fault_at
            for aet, address in self._hold_off.gateway_crashed():
                self._senders.held_off(aet, address)
        count = self._limits.open
        status = AcceptorStatus(
            at=stamp(self._clock.utc()),
            pid=os.getpid(),
            associations=count,
            limit=self._limits.total,
            held_off={address: round(seconds) for address, seconds in self._hold_off.held().items()},
            senders=self._senders.status(),
            since=self._since,
        )
        ACCEPTOR.write_status(self._file, status)
        return TickResult(f"{count} of {self._limits.total} associations")


def main() -> int:
    """Run until stopped; return the exit status."""
    return enter("ddwd-acceptor", _run)


def _run() -> None:
    config = load()
    AcceptorDaemon(config, SystemClock()).run(config)
