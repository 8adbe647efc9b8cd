"""The content of the dashboard as one frozen DashboardModel: the Report, the flow, today's counts; and the patients. Reads only.

`DashboardReader.read` is cheap enough for once a second: systemd is queried less often.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC
from typing import TYPE_CHECKING

from ddwd.config.paths import Paths
from ddwd.core.audit import Event
from ddwd.core.clock import stamp
from ddwd.core.errors import DdwdError
from ddwd.core.model import SELF_TEST_AET
from ddwd.status import report as reports
from ddwd.status.events import of_this_machine, tail_of
from ddwd.status.flow import Flow, HopRate
from ddwd.status.formatting import masked_id
from ddwd.status.senders import summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ddwd.config.schema import Config
    from ddwd.core.model import OrthancId
    from ddwd.core.problem import Problem
    from ddwd.orthanc.port import OrthancPort
    from ddwd.status.events import AuditEvent
    from ddwd.status.report import Report, ReportSources
    from ddwd.store.status_files import SenderStatus

_UNITS_SECONDS = 2.5
_MOST_PATIENTS = 500
_PUBLICATIONS = frozenset({Event.PUBLISHED.value, Event.LATE_IMAGE.value})
_FAILURES = frozenset({Event.QUARANTINED.value, Event.CONFLICT.value, Event.VANISHED.value})


@dataclass(frozen=True, slots=True)
class Today:
    """Counts since midnight, local time, without self tests: studies published, images in them, images that went to quarantine."""

    day: str
    studies: int = 0
    images: int = 0
    quarantined: int = 0

    def plus(self, events: Iterable[AuditEvent]) -> Today:
        """Return the counts with these events added."""
        studies, images, quarantined = self.studies, self.images, self.quarantined
        for event in events:
            if event.fields.get("aet") != SELF_TEST_AET:
                studies += event.event == Event.PUBLISHED.value
                images += int(event.fields.get("added") or 0) if event.event in _PUBLICATIONS else 0
                quarantined += event.event in _FAILURES
        return Today(self.day, studies, images, quarantined)


@dataclass(frozen=True, slots=True)
class DashboardModel:
    """The portal at one moment; `today` is None if this user may not read the ledger, `may_ask` is whether requests can be submitted."""

    report: Report
    hops: tuple[HopRate, ...]
    today: Today | None
    may_ask: bool

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems, what is broken first; empty if all is well."""
        return self.report.problems

    @property
    def senders(self) -> tuple[SenderStatus, ...]:
        """The senders, those that were refused in the last hour first, then by when they were last seen."""
        found = self.report.acceptor.acceptor.senders if self.report.acceptor else ()
        return tuple(sorted(found, key=lambda sender: not sender.recent))

    @property
    def senders_title(self) -> str:
        """Open associations and refusals, and the addresses that are held off."""
        if self.report.acceptor is None:
            return "senders: ORTHANC1 runs on another machine"
        acceptor = self.report.acceptor.acceptor
        held = f"; held off: {', '.join(acceptor.held_off)}" if acceptor.held_off else ""
        return f"senders: {summary(acceptor)}{held}"


class DashboardReader:
    """Builds each model; keeps the samples of the rates, and today's counts."""

    def __init__(self, config: Config, sources: ReportSources) -> None:
        self._config = config
        self._paths = Paths(config)
        self._clock = sources.clock
        self._real_systemctl = sources.systemctl
        self._units: tuple[float, str | None] = (float("-inf"), None)
        self._sources = replace(sources, systemctl=self._systemctl)
        self._flow = Flow()
        self._today: Today | None = None
        self._tail: Callable[[], list[AuditEvent]] | None = None

    def read(self) -> DashboardModel:
        """Return the portal now. Takes as long as the slowest Orthanc, and never longer than `ReportSources.patience`."""
        report = reports.collect(self._config, self._sources)
        hops = self._flow.take(report, self._clock.monotonic())
        return DashboardModel(report, hops, self._count_today(), os.access(self._paths.requests, os.W_OK))

    def _systemctl(self, arguments: Sequence[str]) -> str | None:
        now = self._clock.monotonic()
        if now - self._units[0] >= _UNITS_SECONDS:
            self._units = (now, self._real_systemctl(arguments))
        return self._units[1]

    def _count_today(self) -> Today | None:
        day = self._clock.utc().astimezone().date().isoformat()
        try:
            if self._tail is None or self._today is None or self._today.day != day:
                local = self._clock.utc().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
                self._tail = tail_of(self._config, since=stamp(local.astimezone(UTC)))
                self._today = Today(day)
            self._today = self._today.plus(of_this_machine(self._config, self._tail()))
        except (DdwdError, OSError):
            self._today = None
        return self._today


@dataclass(frozen=True, slots=True)
class Patient:
    """Patient ID and accession number of a study; empty if no Orthanc reports them."""

    patient_id: str = ""
    accession: str = ""

    @property
    def masked(self) -> str:
        """The patient ID with all but its last two characters hidden."""
        return masked_id(self.patient_id)


class Patients:
    """Patient ID and accession number of the latest studies: read from an Orthanc, kept in memory only.

    No world-readable file of the portal has them; a user who may read the Orthancs' passwords (group ddwd) may see them here.
    """

    def __init__(self, nodes: Sequence[OrthancPort]) -> None:
        self._nodes = nodes
        self._patients: dict[OrthancId, Patient] = {}

    def of(self, study: OrthancId) -> Patient:
        """Return the patient as far as `ask` has read it."""
        return self._patients.get(study, Patient())

    def ask(self, studies: Sequence[OrthancId]) -> None:
        """Read the patients of new studies. An Orthanc that does not answer is asked again next time."""
        for study in studies:
            if study not in self._patients and (found := self._read(study)) is not None:
                self._patients[study] = found
        while len(self._patients) > _MOST_PATIENTS:
            self._patients.pop(next(iter(self._patients)))

    def _read(self, study: OrthancId) -> Patient | None:
        for node in self._nodes:
            try:
                listing = node.study(study)
            except DdwdError:
                continue
            if listing is not None:
                return Patient(listing.patient_id.strip(), listing.accession.strip())
        return None
