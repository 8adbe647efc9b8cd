"""Entry point of ddwd-courier: brings studies whose rule has `also` to other destinations, by jobs of the gateway's. Nothing depends on it."""

from __future__ import annotations

import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ddwd.config.paths import Paths
from ddwd.core import durable
from ddwd.core.audit import Audit
from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import DdwdError, PeerDownError, PeerRefusedError
from ddwd.daemon import file_watch
from ddwd.daemon.loop import Beat, Loop
from ddwd.daemon.service_main import enter
from ddwd.delivery.destination_queue import Lane
from ddwd.delivery.dispatcher import Courier, Recipients
from ddwd.delivery.transports import way_to
from ddwd.extractor.change_feed import ChangeFeed
from ddwd.extractor.sweep import Sweep
from ddwd.orthanc.client import Orthanc
from ddwd.provisioning import credentials
from ddwd.store.delivery_log import DeliveryLog

if TYPE_CHECKING:
    from ddwd.config.loader import Config
    from ddwd.config.routing import Destination
    from ddwd.delivery.standing import Standing

log = logging.getLogger("ddwd.delivery")

_BREATH_SECONDS = 0.5
"""Between two turns, however often the bell rings: nothing waits for the courier."""
_BEYOND_STABLE = 1.0
"""Seconds more than Orthanc waits before it calls a study stable, which is the last change that tells of its images."""


class Daemon:
    """The parts, and the loop they run in."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._paths = Paths(config)
        self._clock = SystemClock()
        self._routes = {one.name: one for one in config.routes}
        self._deliveries = DeliveryLog(self._paths.deliveries)
        self._login = credentials.read(config.credentials_file).login("gateway")
        self.loop = Loop(self._turn, config.poll_interval, breath=_BREATH_SECONDS)
        self._pool = ThreadPoolExecutor(len(config.destinations) + 1, thread_name_prefix="lane")
        self._courier: Courier | None = None

    def run(self) -> None:
        """Run until told to stop; what was not proved yet is compared again after the next start."""
        self._paths.courier_status.parent.mkdir(parents=True, exist_ok=True)  # systemd-tmpfiles has made it
        bells = [self._paths.doorbell("gateway").parent, self._paths.deliveries]
        ears = file_watch.listen(bells, self.loop.wake)
        self.loop.listen()
        try:
            self.loop.run()
        finally:
            self._pool.shutdown(cancel_futures=True)
            ears.stop()

    def _begin(self) -> Courier:
        """The parts; from the newest change on, for a round over everything comes first. Raises PeerDownError, PeerRefusedError."""
        gateway = self._gateway()
        feed = ChangeFeed(gateway, gateway.last_seq(), self._clock)
        recipients = Recipients(self._gateway(), self._routes, self._deliveries)
        sweep = Sweep([self._gateway()], recipients.lacking, lambda: (), self._pool, self._clock)
        lanes = [self._lane(one) for one in self._config.destinations]
        return Courier(feed, sweep, recipients, lanes, self._pool, self._clock, self.loop.wake)

    def _lane(self, destination: Destination) -> Lane:
        """With a connection of its own: a destination that hangs holds up the requests of no other."""
        gateway = self._gateway()
        way = way_to(destination, gateway)
        settle = self._config.stable_age + _BEYOND_STABLE
        return Lane(way, gateway, self._routes, self._deliveries, Audit(), self._clock, settle)

    def _gateway(self) -> Orthanc:
        return Orthanc("gateway", self._config.gateway.url, *self._login)

    def _turn(self) -> Beat:
        try:
            if self._courier is None:
                self._courier = self._begin()
            standings = self._courier.turn(hasten=self._deliveries.take_retry_request())
            self._show(standings)
        except (PeerDownError, PeerRefusedError) as error:
            return Beat(str(error))
        except (OSError, DdwdError) as error:
            log.warning("%s", getattr(error, "strerror", None) or error)
            return Beat("what was delivered cannot be looked up", wait=5.0)
        return Beat(_said(standings), healthy=not self._courier.is_hung, wait=self._courier.wait())

    def _show(self, standings: list[Standing]) -> None:
        body = {"at": stamp(self._clock.utc()), "destinations": [one.as_dict() for one in standings]}
        durable.replace_volatile(self._paths.courier_status, json.dumps(body).encode())


def _said(standings: list[Standing]) -> str:
    away = [one.name for one in standings if one.state == "away"]
    waiting = sum(one.images for one in standings)
    return f"{waiting} images wait" + (f"; away: {', '.join(away)}" if away else "")


def main() -> int:
    """Run until told to stop; with `--wanted` only tell whether the settings want it. The exit status."""
    return enter(
        "ddwd-courier",
        lambda config: bool(config.destinations) and config.has("gateway"),
        lambda config: Daemon(config).run(),
    )


if __name__ == "__main__":
    sys.exit(main())
