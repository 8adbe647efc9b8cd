"""Entry point of ddwd-monitor: collect a report every few seconds, write metrics, send alerts. Custody does not depend on it.

Reads the same sources as the status (units, Orthancs, status files, the ledger's events); writes the metrics file and its own state.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock, SystemClock, stamp
from ddwd.core.errors import DdwdError, reason_of
from ddwd.core.problem import Problem, verdict
from ddwd.daemon.loop import Loop, TickResult, enter
from ddwd.monitoring import alerts, notifiers
from ddwd.monitoring.alerts import WEEKS, ExpectedSenders
from ddwd.monitoring.audit_relay import AuditRelay
from ddwd.monitoring.chain_publisher import ChainPublisher
from ddwd.monitoring.metrics import Metrics
from ddwd.monitoring.rejected_associations import RejectionReporter, RejectionWatcher
from ddwd.provisioning import credentials
from ddwd.status import report as view
from ddwd.status.certificates import expiring, expiry_of
from ddwd.status.events import AuditEvent, all_since, of_this_machine, tail_of
from ddwd.status.report import Report

log = logging.getLogger("ddwd.monitoring")

_INTERVAL = 5.0
_CERTIFICATES_SECONDS = 600.0
_LEARNED = timedelta(weeks=WEEKS + 1)


@dataclass
class Task:
    """One task of the monitor, which stops no other when it fails; `problem` is the error that was last logged."""

    name: str
    step: Callable[[Report, list[AuditEvent]], None]
    problem: str = ""

    def run(self, report: Report, events: list[AuditEvent]) -> None:
        """Run the task; log an error once."""
        try:
            self.step(report, events)
            self.problem = ""
        except (DdwdError, OSError) as error:
            problem = reason_of(error)
            if problem != self.problem:
                log.warning("%s: %s", self.name, problem)
            self.problem = problem


class Alerts:
    """Turns conditions into messages and sends them by each channel."""

    def __init__(self, config: Config, paths: Paths, clock: Clock, audit: Audit) -> None:
        self._config = config
        self._path = paths.alerts
        self._clock = clock
        self._audit = audit
        self._expected: ExpectedSenders | None = None
        self._certificates: tuple[Problem, ...] = ()
        self._next_certificates = float("-inf")
        self._state = alerts.load(self._path, config.alerts.after * 60.0)
        self._outboxes = [notifiers.Outbox(name, send) for name, send in notifiers.channels(config).items()]

    def step(self, report: Report, events: list[AuditEvent]) -> None:
        """Update the alerts with the present conditions, and send the messages that are due."""
        now = self._clock.utc()
        silent = self._silent(now, events) if self._config.alerts.silence else {}
        silences = (alerts.silence(aet, last) for aet, last in silent.items())
        found = alerts.conditions((*report.problems, *silences, *self._expiring()))
        before = alerts.FORMAT.render(self._state)
        message = self._state.update(found, now.timestamp(), stamp(now))
        if message is not None:
            self._audit.record(Event.ALERT, message.subject)
            for outbox in self._outboxes:
                outbox.put(message)
        if alerts.FORMAT.render(self._state) != before:
            alerts.FORMAT.write(self._path, self._state)

    def _silent(self, now: datetime, events: list[AuditEvent]) -> dict[str, datetime]:
        """Return the modalities that should have sent; none while the ledger, which has their habits, cannot be read."""
        if self._expected is None:
            expected = ExpectedSenders()
            try:
                expected.learn(all_since(self._config, stamp(now - _LEARNED)))
            except (DdwdError, OSError):
                return {}
            self._expected = expected
        self._expected.learn(events)
        return self._expected.silent(now.astimezone())

    def _expiring(self) -> tuple[Problem, ...]:
        """Return certificates that have expired or will soon; checked every ten minutes."""
        now = self._clock.monotonic()
        if now >= self._next_certificates:
            self._next_certificates = now + _CERTIFICATES_SECONDS
            # which files hold certificates does not depend on the passwords, which this unit has not
            found = expiring(self._config, credentials.generate(), self._clock.utc(), expiry_of)
            self._certificates = tuple(one.problem for one in found)
        return self._certificates

    def stop(self) -> None:
        """Stop the threads."""
        for outbox in self._outboxes:
            outbox.stop()


class Monitor:
    """Runs all tasks on one report."""

    def __init__(self, config: Config) -> None:
        self._config = config
        paths, clock = Paths(config), SystemClock()
        self._sources = view.real_sources()
        self._history = tail_of(config)
        self._metrics = Metrics(config.metrics.textfile)
        self._alerts = Alerts(config, paths, clock, Audit())
        refusals = RejectionWatcher(RejectionReporter(Audit(), clock), paths.refusals)
        self._relay = AuditRelay(config, paths.audit_queue).start() if config.audit.host else None
        wants_heads = config.chain.publish_to or config.chain.timestamp_url
        self._publisher = ChainPublisher(config.chain, paths, clock).start() if wants_heads else None
        self._tasks = [
            Task("alerts", self._alerts.step),
            Task("metrics", self._measure),
            Task("refusals", lambda _report, _events: refusals.step()),
        ]
        if (publisher := self._publisher) is not None:
            self._tasks.append(Task("chain", lambda _report, _events: publisher.step()))
        if (relay := self._relay) is not None:
            self._tasks.append(Task("audit", lambda _report, _events: relay.step()))

    def turn(self) -> TickResult:
        """Collect a report and pass it to every task."""
        report = view.collect(self._config, self._sources)
        try:
            events = self._history()
        except (DdwdError, OSError) as error:
            log.warning("the ledger cannot be read: %s", getattr(error, "strerror", None) or error)
            events = []
        for task in self._tasks:
            task.run(report, events)
        failing = [task.name for task in self._tasks if task.problem]
        state = f"failing: {', '.join(failing)}" if failing else "all tasks work"
        return TickResult(f"the portal: {verdict(report.problems)}; {state}")

    def _measure(self, report: Report, events: list[AuditEvent]) -> None:
        self._metrics.count(of_this_machine(self._config, events))
        self._metrics.show(report)
        self._metrics.write()

    def stop(self) -> None:
        """Stop the threads."""
        self._alerts.stop()
        if self._publisher is not None:
            self._publisher.stop()
        if self._relay is not None:
            self._relay.stop()


def main() -> int:
    """Run until stopped; return the exit status."""
    return enter("ddwd-monitor", _run)


def _run() -> None:
    monitor = Monitor(load())
    Loop(monitor.turn, _INTERVAL).serve()
    monitor.stop()
