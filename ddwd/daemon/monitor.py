"""Entry point of ddwd-monitor: collect a report every few seconds, write metrics, send alerts. Custody does not depend on it.

Reads the same sources as the status (units, Orthancs, status files, the ledger's events); writes the metrics file, its own state, and the
status file with what only it notices.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from ddwd.config.loader import load, settings_files
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock, SystemClock, stamp
from ddwd.core.errors import DdwdError, reason_of
from ddwd.core.problem import Problem, verdict, with_all
from ddwd.daemon.loop import Loop, TickResult, enter
from ddwd.monitoring import alerts, notifiers
from ddwd.monitoring.alerts import WEEKS, ExpectedSenders
from ddwd.monitoring.audit_relay import AuditRelay
from ddwd.monitoring.chain_publisher import ChainPublisher
from ddwd.monitoring.metrics import Metrics
from ddwd.monitoring.rejected_associations import RejectionReporter, RejectionWatcher
from ddwd.provisioning import credentials
from ddwd.status import report as view
from ddwd.status import study_lookup
from ddwd.status.certificates import expiry_of
from ddwd.status.check_context import CheckContext
from ddwd.status.doctor import examine_standing
from ddwd.status.events import AuditEvent, all_since, of_this_machine, tail_of
from ddwd.status.flow import Flow
from ddwd.status.report import Report
from ddwd.store.status_files import MONITOR, MonitorStatus, NoticedProblem

log = logging.getLogger("ddwd.monitoring")

_INTERVAL = 5.0
_CHECKS_SECONDS = 60.0
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
    """Turns problems into messages and sends them by each channel."""

    def __init__(self, config: Config, paths: Paths, clock: Clock, audit: Audit) -> None:
        self._path = paths.alerts
        self._clock = clock
        self._audit = audit
        self._state = alerts.load(self._path, config.alerts.after * 60.0)
        self._outboxes = [notifiers.Outbox(name, send) for name, send in notifiers.channels(config).items()]

    def step(self, report: Report, _events: list[AuditEvent]) -> None:
        """Update the alerts with the present problems, and send the messages that are due."""
        now = self._clock.utc()
        before = alerts.FORMAT.render(self._state)
        message = self._state.update(alerts.conditions(report.problems), now.timestamp(), stamp(now))
        if message is not None:
            self._audit.record(Event.ALERT, message.subject)
            for outbox in self._outboxes:
                outbox.put(message)
        if alerts.FORMAT.render(self._state) != before:
            alerts.FORMAT.write(self._path, self._state)

    def stop(self) -> None:
        """Stop the threads."""
        for outbox in self._outboxes:
            outbox.stop()


class Watch:
    """Notices what no single report shows: silent modalities, hops that stand still, and what the standing checks find.

    The status file has it for every view, and since when each problem lasts.
    """

    def __init__(self, config: Config, paths: Paths, clock: Clock) -> None:
        self._config = config
        self._path = paths.monitor_status
        self._clock = clock
        self._flow = Flow()
        self._expected: ExpectedSenders | None = None
        self._checked: tuple[Problem, ...] = ()
        self._next_checks = float("-inf")
        self._since = dict((MONITOR.read_or_none(self._path) or MonitorStatus()).since)

    def complete(self, report: Report, events: list[AuditEvent]) -> Report:
        """Return the report with what was noticed, and write the status file."""
        at = stamp(self._clock.utc())
        noticed = (*self._silent(events), *self._hops(report), *self._checks(report))
        complete = replace(report, noticed=noticed, since={})
        keys = [one.key for one in with_all(complete.problems)]
        self._since = {key: self._since.get(key, at) for key in keys}
        rows = (
            NoticedProblem(one.code, one.cause, one.remedy, one.subject, one.study, one.count)
            for one in noticed
        )
        MONITOR.write_status(self._path, MonitorStatus(at, tuple(rows), self._since))
        return replace(complete, since=self._since)

    def _silent(self, events: list[AuditEvent]) -> list[Problem]:
        """Return the modalities that should have sent; none while the ledger, which has their habits, cannot be read."""
        if not self._config.alerts.silence:
            return []
        now = self._clock.utc()
        if self._expected is None:
            expected = ExpectedSenders()
            try:
                expected.learn(all_since(self._config, stamp(now - _LEARNED)))
            except (DdwdError, OSError):
                return []
            self._expected = expected
        self._expected.learn(events)
        return [alerts.silence(aet, last) for aet, last in self._expected.silent(now.astimezone()).items()]

    def _hops(self, report: Report) -> list[Problem]:
        """Return the hops that stand still or are slow, on the machine that has all of them."""
        if not self._config.has("extractor"):
            return []
        hops = self._flow.take(report, self._clock.monotonic())
        return [hop.problem for hop in hops if hop.problem is not None]

    def _checks(self, report: Report) -> tuple[Problem, ...]:
        """Run the standing checks, once a minute."""
        now = self._clock.monotonic()
        if now >= self._next_checks:
            self._next_checks = now + _CHECKS_SECONDS
            try:
                login = credentials.own(self._config.credentials_file)
                nodes = {node.name: study_lookup.orthanc(node, login) for node in self._config.known_nodes}
            except DdwdError:  # the report says that the login cannot be read
                nodes = {}
            # which files hold certificates does not depend on the passwords, which this unit has not
            context = CheckContext(
                self._config, report, nodes, credentials.generate(), expiry_of, self._clock, settings_files()
            )
            self._checked = examine_standing(context)
        return self._checked


class Monitor:
    """Runs all tasks on one report."""

    def __init__(self, config: Config) -> None:
        self._config = config
        paths, clock = Paths(config), SystemClock()
        self._sources = view.real_sources()
        self._history = tail_of(config)
        self._metrics = Metrics(config.metrics.textfile)
        self._alerts = Alerts(config, paths, clock, Audit())
        self._watch = Watch(config, paths, clock)
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
        report = self._watch.complete(report, events)
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
