"""Metrics for Prometheus, as a text file that node_exporter reads. Counts events of the ledger and exports the Report; decides nothing.

Counters begin at zero with each start of the monitor, which Prometheus handles.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import prometheus_client as prometheus

from ddwd.core.audit import Event
from ddwd.core.errors import StateError
from ddwd.core.problem import with_all
from ddwd.store.status_files import AcceptorStatus, LostStatus

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ddwd.status.chain import ChainState
    from ddwd.status.events import AuditEvent
    from ddwd.status.report import Report

_FAILURES = {
    Event.FORWARD_FAILED: "forward",
    Event.RETRIEVE_FAILED: "retrieve",
    Event.CONFLICT: "conflict",
    Event.QUARANTINED: "quarantined",
    Event.VANISHED: "vanished",
    Event.REPAIRED: "repaired",
}
_COUNTERS = (
    ("ddwd_images_received", "Images received, by calling AE title.", "aet"),
    ("ddwd_images_published", "Images that were published on disk."),
    ("ddwd_published_bytes", "Bytes of images that were verified and published."),
    ("ddwd_studies_published", "Studies that became complete on disk."),
    ("ddwd_failures", "Failures, by kind.", "kind"),
    ("ddwd_retention_images_removed", "Images that retention removed.", "place"),
    ("ddwd_retention_freed_bytes", "Bytes that retention removed.", "place"),
)
_GAUGES = (
    (
        "ddwd_problems",
        "Problems of the portal, with their consequences, by code and severity.",
        "code",
        "severity",
    ),
    ("ddwd_backlog_images", "Images that wait before a hop.", "hop"),
    ("ddwd_destination_up", "1 where the destination answered last time.", "destination"),
    ("ddwd_destination_backlog_images", "Images that wait for the destination.", "destination"),
    ("ddwd_studies_in_flight", "Studies in flight, by stage.", "stage"),
    ("ddwd_quarantine_images", "Images in quarantine."),
    ("ddwd_two_patients_studies", "Studies whose StudyInstanceUID has two PatientIDs, not yet decided."),
    (
        "ddwd_lost_images",
        "Images that an Orthanc had and is missing, though retention did not remove them.",
        "node",
    ),
    ("ddwd_associations", "Open associations of senders."),
    ("ddwd_associations_limit", "Associations of senders that may be open at once."),
    ("ddwd_refusals_last_hour", "Refusals in the last hour, by calling AE title.", "aet"),
    ("ddwd_unit_up", "1 where the systemd unit is active, or not needed.", "unit"),
    ("ddwd_orthanc_up", "1 where the Orthanc answers.", "node"),
    ("ddwd_orthanc_images", "Images that the Orthanc holds.", "node"),
    ("ddwd_postgresql_up", "1 where the PostgreSQL server of the indexes takes connections."),
    ("ddwd_heartbeat_age_seconds", "Age of a daemon's heartbeat.", "daemon"),
    ("ddwd_disk_free_bytes", "Free bytes of a volume.", "volume"),
    ("ddwd_disk_full_hours", "Hours until a volume is full, where it fills up.", "volume"),
    ("ddwd_paused", "1 while the operator has paused the retrieval."),
    ("ddwd_retention_studies_kept", "Studies whose time is over and that were kept.", "place"),
    ("ddwd_retention_round_timestamp_seconds", "When the last round of retention ended."),
    ("ddwd_chain_entries", "Signed entries of the chain."),
    ("ddwd_chain_ok", "1 where every event is entered and signed."),
    ("ddwd_chain_published_timestamp_seconds", "When a head of the chain was last published."),
    ("ddwd_self_test_ok", "1 where the last self test passed."),
    ("ddwd_self_test_timestamp_seconds", "When the last self test was."),
)
"""Each name, its help text and its label, if any."""
_SECONDS = (1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300, 900, 3600)
_MOST_SENDERS = 200


class Metrics:
    """Counters from events, gauges from the Report; `write` replaces the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._senders: set[str] = set()
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = prometheus.CollectorRegistry()
        counter = partial(prometheus.Counter, registry=registry)
        gauge = partial(prometheus.Gauge, registry=registry)
        self._counters = {name: counter(name, text, labels) for name, text, *labels in _COUNTERS}
        self._gauges = {name: gauge(name, text, labels) for name, text, *labels in _GAUGES}
        self._seconds = prometheus.Histogram(
            "ddwd_time_to_disk_seconds",
            "Seconds from a study's newest image to its publication.",
            buckets=_SECONDS,
            registry=registry,
        )
        for kind in _FAILURES.values():
            self._counters["ddwd_failures"].labels(kind)

    def count(self, events: Iterable[AuditEvent]) -> None:
        """Count these events."""
        for event in events:
            if event.event == Event.RECEIVED:
                self._add(
                    "ddwd_images_received", event, "instances", self._sender(event.fields.get("aet", ""))
                )
            elif event.event == Event.VERIFIED:
                self._add("ddwd_published_bytes", event, "bytes")
            elif event.event in {Event.PUBLISHED, Event.LATE_IMAGE}:
                self._add("ddwd_images_published", event, "added")
                self._counters["ddwd_studies_published"].inc(event.event == Event.PUBLISHED)
                self._seconds.observe(_number(event, "seconds"))
            elif event.event == Event.RETIRED:
                place = event.fields.get("place", "")
                self._add("ddwd_retention_images_removed", event, "instances", place)
                self._add("ddwd_retention_freed_bytes", event, "bytes", place)
            elif event.event in _FAILURES:
                self._counters["ddwd_failures"].labels(_FAILURES[Event(event.event)]).inc()

    def _add(self, name: str, event: AuditEvent, field: str, *label: str) -> None:
        counter = self._counters[name]
        (counter.labels(*label) if label else counter).inc(_number(event, field))

    def _sender(self, aet: str) -> str:
        """Return the label of the AE title; the number of labels is bounded, since anyone may use any AE title."""
        if len(self._senders) < _MOST_SENDERS:
            self._senders.add(aet)
        return aet if aet in self._senders else "(others)"

    def show(self, report: Report) -> None:
        """Set the gauges; clear those of objects that no longer exist."""
        for name, _, *labels in _GAUGES:
            if labels:
                self._gauges[name].clear()
        self._show_problems(report)
        self._show_parts(report)
        for heart in report.hearts[-1:]:
            for hop in ("storage", "disk", "publish"):
                self._set("ddwd_backlog_images", getattr(heart.extractor.backlog, hop), hop)
        for row in report.destinations:
            self._set("ddwd_destination_up", row.state == "ok", row.name)
            self._set("ddwd_destination_backlog_images", row.images, row.name)
        for stage, count in report.counts.items():
            self._set("ddwd_studies_in_flight", count, stage)
        self._show_senders(report.acceptor.acceptor if report.acceptor else AcceptorStatus())
        self._set("ddwd_quarantine_images", report.quarantine or 0)
        self._set("ddwd_two_patients_studies", report.two_patients)
        lost = report.lost or LostStatus()
        self._set("ddwd_lost_images", lost.on_gateway, "gateway")
        self._set("ddwd_lost_images", lost.on_storage, "storage")
        self._show_chain(report.chain)
        self._set("ddwd_paused", report.paused)
        if report.self_test is not None:
            self._set("ddwd_self_test_ok", report.self_test.ok)
            self._set("ddwd_self_test_timestamp_seconds", _seconds(report.self_test.at))
        if report.retention is not None and (last := report.retention.last) is not None:
            self._set("ddwd_retention_round_timestamp_seconds", _seconds(last.ended_at))
            for place, tally in last.places.items():
                self._set("ddwd_retention_studies_kept", sum(kept.studies for kept in tally.kept), place)

    def _show_problems(self, report: Report) -> None:
        counts = Counter((one.code.value, one.severity.name.lower()) for one in with_all(report.problems))
        for (code, severity), count in counts.items():
            self._set("ddwd_problems", count, code, severity)

    def _show_chain(self, chain: ChainState | None) -> None:
        if chain is not None:
            self._set("ddwd_chain_entries", chain.facts.entries)
            self._set("ddwd_chain_ok", not chain.problem)
            if chain.facts.published_at:
                self._set("ddwd_chain_published_timestamp_seconds", _seconds(chain.facts.published_at))

    def _show_senders(self, acceptor: AcceptorStatus) -> None:
        self._set("ddwd_associations", acceptor.associations)
        self._set("ddwd_associations_limit", acceptor.limit)
        refusals: Counter[str] = Counter()
        for sender in acceptor.senders:
            refusals[self._sender(sender.aet)] += sender.recent
        for aet, count in refusals.items():
            self._set("ddwd_refusals_last_hour", count, aet)

    def _show_parts(self, report: Report) -> None:
        for unit in report.units:
            self._set("ddwd_unit_up", unit.is_well, unit.name)
        self._set("ddwd_postgresql_up", not report.database)
        for server in report.servers:
            self._set("ddwd_orthanc_up", not server.problem, server.name)
            if not server.problem:
                self._set("ddwd_orthanc_images", server.instances, server.name)
        for heart in report.hearts:
            if heart.age is not None:
                self._set("ddwd_heartbeat_age_seconds", heart.age, heart.daemon)
        for volume in report.volumes:
            self._set("ddwd_disk_free_bytes", volume.free, volume.use)
            if volume.hours_left is not None:
                self._set("ddwd_disk_full_hours", volume.hours_left, volume.use)

    def _set(self, name: str, value: float, *label: str) -> None:
        gauge = self._gauges[name]
        (gauge.labels(*label) if label else gauge).set(value)

    def write(self) -> None:
        """Replace the file in one step. Raises StateError if that fails."""
        try:
            prometheus.write_to_textfile(str(self._path), self.registry)
            self._path.chmod(0o644)
        except OSError as error:
            raise StateError(f"{self._path}: {error.strerror}; see metrics.textfile in ddwd.yaml") from error


def _number(event: AuditEvent, field: str) -> float:
    try:
        return float(event.fields.get(field) or 0)
    except ValueError:
        return 0.0


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
