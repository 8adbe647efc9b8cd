"""Entry point of ddwd-courier: deliver studies whose route has `also` to other destinations, by jobs of the gateway."""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor

from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.config.routing import Destination
from ddwd.config.schema import Config
from ddwd.core.audit import Audit
from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import DdwdError, PeerDownError, PeerRefusedError
from ddwd.daemon import file_watch
from ddwd.daemon.loop import Loop, TickResult, enter
from ddwd.delivery.destination_queue import DestinationQueue
from ddwd.delivery.dispatcher import DeliveryDispatcher, Recipients
from ddwd.delivery.transports import transport_to
from ddwd.extractor.change_feed import ChangeFeed
from ddwd.extractor.sweep import Sweep
from ddwd.orthanc.client import Orthanc
from ddwd.provisioning import credentials
from ddwd.store.delivery_log import DeliveryLog
from ddwd.store.status_files import COURIER, CourierStatus, DestinationStatus

log = logging.getLogger("ddwd.delivery")

_BREATH_SECONDS = 0.5
"""Between two turns, however often a watched file is written: no other part waits for the courier."""
_BEYOND_STABLE = 1.0
"""Seconds more than Orthanc waits before it calls a study stable, which is the last change that names its images."""


class CourierDaemon:
    """The dispatcher and its loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._paths = Paths(config)
        self._clock = SystemClock()
        self._routes = {one.name: one for one in config.routes}
        self._deliveries = DeliveryLog(self._paths.deliveries)
        self._login = credentials.own(config.credentials_file).login("gateway")
        self.loop = Loop(self._turn, config.poll_interval, breath=_BREATH_SECONDS)
        self._pool = ThreadPoolExecutor(len(config.destinations) + 1, thread_name_prefix="destination")
        self._dispatcher: DeliveryDispatcher | None = None

    def run(self) -> None:
        """Run until stopped; deliveries that are not proved yet are compared again after the next start."""
        self._paths.courier_status.parent.mkdir(parents=True, exist_ok=True)  # systemd-tmpfiles has made it
        try:
            file_watch.serve(self.loop, self._paths.doorbell("gateway").parent, self._paths.deliveries)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _begin(self) -> DeliveryDispatcher:
        """Return the dispatcher. It reads changes from the newest one on, since it first sweeps all studies. Raises PeerDownError, PeerRefusedError."""
        gateway = self._gateway()
        feed = ChangeFeed(gateway, gateway.last_seq(), self._clock, self._config.stable_age)
        recipients = Recipients(self._gateway(), self._routes, self._deliveries)
        sweep = Sweep([self._gateway()], recipients.incomplete, lambda: (), self._pool, self._clock)
        queues = [self._queue(one) for one in self._config.destinations]
        return DeliveryDispatcher(feed, sweep, recipients, queues, self._pool, self._clock, self.loop.wake)

    def _queue(self, destination: Destination) -> DestinationQueue:
        """Return a queue with its own connection: a destination that hangs delays no other."""
        gateway = self._gateway()
        transport = transport_to(destination, gateway)
        settle = self._config.stable_age + _BEYOND_STABLE
        return DestinationQueue(
            transport, gateway, self._routes, self._deliveries, Audit(), self._clock, settle
        )

    def _gateway(self) -> Orthanc:
        return Orthanc("gateway", self._config.gateway.url, *self._login)

    def _turn(self) -> TickResult:
        try:
            if self._dispatcher is None:
                self._dispatcher = self._begin()
            statuses = self._dispatcher.turn(hasten=self._deliveries.take_retry_request())
        except (PeerDownError, PeerRefusedError) as error:
            return TickResult(str(error))
        except (OSError, DdwdError) as error:
            log.warning("%s", getattr(error, "strerror", None) or error)
            return TickResult("the delivery log cannot be used", wait=5.0)
        status = CourierStatus(stamp(self._clock.utc()), tuple(statuses))
        COURIER.write_status(self._paths.courier_status, status)
        return TickResult(
            _summary(statuses), healthy=not self._dispatcher.is_hung, wait=self._dispatcher.wait()
        )


def _summary(statuses: list[DestinationStatus]) -> str:
    away = [one.name for one in statuses if one.state == "away"]
    waiting = sum(one.images for one in statuses)
    return f"{waiting} images wait" + (f"; away: {', '.join(away)}" if away else "")


def main() -> int:
    """Run until stopped; return the exit status."""
    return enter("ddwd-courier", lambda: CourierDaemon(load()).run(), wanted=_wanted)


def _wanted() -> bool:
    config = load()
    return bool(config.destinations) and config.has("gateway")


if __name__ == "__main__":
    sys.exit(main())
