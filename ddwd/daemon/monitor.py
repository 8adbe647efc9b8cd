"""Entry point of ddwd-monitor: looks at the portal every few seconds, writes metrics, sends alerts. Nothing of custody depends on it.

Reads what every view reads (units, Orthancs, heartbeats, the ledger's events); writes the metrics file and its own small state.
One part that fails is said once, and keeps no other from its work.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import DdwdError
from ddwd.daemon.loop import Beat, Loop
from ddwd.monitoring import alerts, notifiers
from ddwd.monitoring.audit_relay import Relay
from ddwd.monitoring.expected_senders import WEEKS, Habits
from ddwd.monitoring.metrics import Metrics
from ddwd.monitoring.outbox import Outbox
from ddwd.monitoring.rejected_associations import Refusals, Watch
from ddwd.provisioning import credentials
from ddwd.status import report as view
from ddwd.status.doctor import certificates, expiry_of
from ddwd.status.events import all_since, of_this_machine, tail_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from ddwd.config.loader import Config
    from ddwd.core.clock import Clock
    from ddwd.status.events import Happened
    from ddwd.status.report import Report

log = logging.getLogger("ddwd.monitoring")

_INTERVAL = 5.0
_CERTIFICATES_SECONDS = 600.0
_HABIT = timedelta(weeks=WEEKS + 1)


@dataclass
class Part:
    """One piece of the work; `trouble` is what was last said of it."""

    name: str
    step: Callable[[Report, list[Happened]], None]
    trouble: str = ""

    def take(self, report: Report, happened: list[Happened]) -> None:
        """Do it; say once what goes wrong."""
        try:
            self.step(report, happened)
            self.trouble = ""
        except (DdwdError, OSError) as error:
            said = str(error) if isinstance(error, DdwdError) else f"{type(error).__name__}: {error.strerror}"
            if said != self.trouble:
                log.warning("%s: %s", self.name, said)
            self.trouble = said


class Alerts:
    """Conditions become messages, which go out every way that is set."""

    def __init__(self, config: Config, paths: Paths, clock: Clock, audit: Audit) -> None:
        self._config = config
        self._path = paths.alerts
        self._clock = clock
        self._audit = audit
        self._habits: Habits | None = None
        self._certificates: dict[str, str] = {}
        self._next_certificates = float("-inf")
        self._book = alerts.load(self._path, config.alerts.after * 60.0)
        self._ways = [Outbox(name, send) for name, send in notifiers.ways(config).items()]

    def step(self, report: Report, happened: list[Happened]) -> None:
        """Take in what holds now, and have sent what is due."""
        now = self._clock.utc()
        silent = self._silent(now, happened) if self._config.alerts.silence else {}
        found = alerts.conditions(report, silent) | self._expiring()
        before = alerts.render(self._book)
        message = self._book.take(found, now.timestamp(), stamp(now))
        if message is not None:
            self._audit.record(Event.ALERT, message.subject)
            for way in self._ways:
                way.put(message)
        if alerts.render(self._book) != before:
            alerts.save(self._path, self._book)

    def _silent(self, now: datetime, happened: list[Happened]) -> dict[str, datetime]:
        """The modalities that should have sent; none while the ledger, which tells their habits, cannot be read."""
        if self._habits is None:
            habits = Habits()
            try:
                habits.happened(all_since(self._config, stamp(now - _HABIT)))
            except (DdwdError, OSError):
                return {}
            self._habits = habits
        self._habits.happened(happened)
        return self._habits.silent(now.astimezone())

    def _expiring(self) -> dict[str, str]:
        """Certificates that have expired or will soon; looked at now and then."""
        now = self._clock.monotonic()
        if now >= self._next_certificates:
            self._next_certificates = now + _CERTIFICATES_SECONDS
            login = credentials.read(self._config.credentials_file)
            found = certificates(self._config, login, self._clock.utc(), expiry_of)
            self._certificates = {
                f"certificate {one.text.split(' ')[0]}": f"{one.text}: {one.remedy}" for one in found
            }
        return self._certificates

    def stop(self) -> None:
        """End the threads."""
        for way in self._ways:
            way.stop()


class Monitor:
    """The parts, and what they look at."""

    def __init__(self, config: Config) -> None:
        self._config = config
        paths, clock = Paths(config), SystemClock()
        self._ports = view.real_ports()
        self._history = tail_of(config)
        self._metrics = Metrics(config.metrics.textfile)
        self._alerts = Alerts(config, paths, clock, Audit())
        refusals = Watch(Refusals(Audit(), clock), paths.refusals)
        self._relay = Relay(config, paths.audit_queue) if config.audit.host else None
        self._parts = [
            Part("alerts", self._alerts.step),
            Part("metrics", self._measure),
            Part("refusals", lambda _report, _happened: refusals.step()),
        ]
        if self._relay is not None:
            relay = self._relay
            self._parts.append(Part("audit", lambda _report, _happened: relay.step()))

    def turn(self) -> Beat:
        """Look once, and give it to every part."""
        report = view.collect(self._config, self._ports)
        try:
            happened = self._history()
        except (DdwdError, OSError) as error:
            log.warning(
                "the ledger cannot be read: %s", error.strerror if isinstance(error, OSError) else error
            )
            happened = []
        for part in self._parts:
            part.take(report, happened)
        troubled = [part.name for part in self._parts if part.trouble]
        state = f"in trouble: {', '.join(troubled)}" if troubled else "all parts work"
        return Beat(f"{len(report.wrong)} things wrong with the portal; {state}")

    def _measure(self, report: Report, happened: list[Happened]) -> None:
        self._metrics.happened(of_this_machine(self._config, happened))
        self._metrics.show(report)
        self._metrics.write()

    def stop(self) -> None:
        """End."""
        self._alerts.stop()
        if self._relay is not None:
            self._relay.stop()


def main() -> int:
    """Run until told to stop; the exit status is that of the error tree."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        monitor = Monitor(load())
    except DdwdError as error:
        sys.stderr.write(f"ddwd-monitor: {error}\n")
        return error.exit_status
    loop = Loop(monitor.turn, _INTERVAL)
    loop.listen()
    loop.run()
    monitor.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
