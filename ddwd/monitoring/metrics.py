"""Metrics for Prometheus, as a text file that node_exporter reads. Counts events of the ledger and exports the Report; decides nothing.

Counters begin at zero with each start of the monitor, which Prometheus handles.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import prometheus_client as prometheus

from ddwd.core.audit import Event
from ddwd.core.errors import StateError
from ddwd.store.status_files import Backlog

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

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
_SECONDS = (1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300, 900, 3600)
_MOST_SENDERS = 200
_OTHERS = "(others)"


class Metrics:
    """Counters from events, gauges from the Report; `write` replaces the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._senders: set[str] = set()
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = prometheus.CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> prometheus.Counter:
            return prometheus.Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> prometheus.Gauge:
            return prometheus.Gauge(name, text, labels, registry=registry)

        self._received = counter("ddwd_images_received", "Images received, by calling AE title.", "aet")
        self._images = counter("ddwd_images_published", "Images that were made visible on disk.")
        self._bytes = counter("ddwd_published_bytes", "Bytes of images that were compared and made visible.")
        self._studies = counter("ddwd_studies_published", "Studies that became complete on disk.")
        self._failures = counter("ddwd_failures", "What went wrong, by kind.", "kind")
        self._seconds = prometheus.Histogram(
            "ddwd_time_to_disk_seconds",
            "Seconds from a study's newest image to its publication.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._backlog = gauge("ddwd_backlog_images", "Images that wait before a hop.", "hop")
        self._reached = gauge(
            "ddwd_destination_up", "1 where the destination answered last time.", "destination"
        )
        self._unsent = gauge(
            "ddwd_destination_backlog_images", "Images that wait for the destination.", "destination"
        )
        self._flight = gauge("ddwd_studies_in_flight", "Studies on their way, by stage.", "stage")
        self._quarantine = gauge("ddwd_quarantine_images", "Entries of the quarantine.")
        self._unit = gauge("ddwd_unit_up", "1 where the systemd unit is active, or not needed.", "unit")
        self._orthanc = gauge("ddwd_orthanc_up", "1 where the Orthanc answers.", "node")
        self._held = gauge("ddwd_orthanc_images", "Images that the Orthanc holds.", "node")
        self._age = gauge("ddwd_heartbeat_age_seconds", "Age of a daemon's heartbeat.", "daemon")
        self._free = gauge("ddwd_disk_free_bytes", "Free bytes of a volume.", "volume")
        self._hours = gauge(
            "ddwd_disk_full_hours", "Hours until a volume is full, where it fills up.", "volume"
        )
        self._paused = gauge("ddwd_paused", "1 while the operator has paused the fetching.")
        self._retired = counter("ddwd_retention_images_removed", "Images that retention removed.", "place")
        self._freed = counter("ddwd_retention_freed_bytes", "Bytes that retention removed.", "place")
        self._stay = gauge(
            "ddwd_retention_studies_kept", "Studies whose time is over and that have to stay.", "place"
        )
        self._round = gauge(
            "ddwd_retention_round_timestamp_seconds", "When the last round of retention ended."
        )
        self._test = gauge("ddwd_self_test_ok", "1 where the last self test passed.")
        self._tested = gauge("ddwd_self_test_timestamp_seconds", "When the last self test was.")
        for kind in _FAILURES.values():
            self._failures.labels(kind)

    def count(self, events: Iterable[AuditEvent]) -> None:
        """Count these events."""
        for one in events:
            self._count_one(one)

    def _count_one(self, one: AuditEvent) -> None:
        if one.event == Event.RECEIVED:
            self._received.labels(self._sender(one.fields.get("aet", ""))).inc(_number(one, "instances"))
        elif one.event == Event.VERIFIED:
            self._bytes.inc(_number(one, "bytes"))
        elif one.event in {Event.PUBLISHED, Event.LATE_IMAGE}:
            self._images.inc(_number(one, "added"))
            self._studies.inc(one.event == Event.PUBLISHED)
            self._seconds.observe(_number(one, "seconds"))
        elif one.event == Event.RETIRED:
            self._retired.labels(one.fields.get("place", "")).inc(_number(one, "instances"))
            self._freed.labels(one.fields.get("place", "")).inc(_number(one, "bytes"))
        elif one.event in _FAILURES:
            self._failures.labels(_FAILURES[Event(one.event)]).inc()

    def _sender(self, aet: str) -> str:
        """Return the label of the AE title; the number of labels is bounded, since anyone may use any AE title."""
        if len(self._senders) < _MOST_SENDERS:
            self._senders.add(aet)
        return aet if aet in self._senders else _OTHERS

    def show(self, report: Report) -> None:
        """Set the gauges; clear those of objects that no longer exist."""
        for gauge in (
            self._backlog,
            self._flight,
            self._unit,
            self._hours,
            self._age,
            self._free,
            self._held,
            self._reached,
            self._unsent,
            self._stay,
        ):
            gauge.clear()
        self._show_parts(report)
        self._show_volumes(report)
        for heart in report.hearts[-1:]:
            self._show_backlog(heart.extractor.backlog)
        for row in report.destinations:
            self._reached.labels(row.name).set(row.state == "ok")
            self._unsent.labels(row.name).set(row.images)
        for stage, count in report.counts.items():
            self._flight.labels(stage).set(count)
        self._quarantine.set(report.quarantine or 0)
        self._paused.set(report.paused)
        self._show_test(report)
        self._show_retention(report)

    def _show_backlog(self, backlog: Backlog) -> None:
        self._backlog.labels("storage").set(backlog.storage)
        self._backlog.labels("disk").set(backlog.disk)
        self._backlog.labels("publish").set(backlog.publish)

    def _show_parts(self, report: Report) -> None:
        for unit in report.units:
            self._unit.labels(unit.name).set(unit.is_well)
        for server in report.servers:
            self._orthanc.labels(server.name).set(not server.problem)
            if not server.problem:
                self._held.labels(server.name).set(server.instances)
        for heart in report.hearts:
            if heart.age is not None:
                self._age.labels(heart.daemon).set(heart.age)

    def _show_volumes(self, report: Report) -> None:
        for volume in report.volumes:
            self._free.labels(volume.use).set(volume.free)
            if volume.hours_left is not None:
                self._hours.labels(volume.use).set(volume.hours_left)

    def _show_test(self, report: Report) -> None:
        if report.self_test is not None:
            self._test.set(report.self_test.ok)
            self._tested.set(datetime.fromisoformat(report.self_test.at).timestamp())

    def _show_retention(self, report: Report) -> None:
        if report.retention is not None and (last := report.retention.last) is not None:
            self._round.set(datetime.fromisoformat(last.ended_at).timestamp())
            for place, tally in last.places.items():
                self._stay.labels(place).set(sum(kept.studies for kept in tally.kept))

    def write(self) -> None:
        """Replace the file in one step. Raises StateError if that fails."""
        try:
            prometheus.write_to_textfile(str(self._path), self.registry)
            self._path.chmod(0o644)
        except OSError as error:
            raise StateError(f"{self._path}: {error.strerror}; see metrics.textfile in ddwd.yaml") from error


def _number(one: AuditEvent, field: str) -> float:
    try:
        return float(one.fields.get(field) or 0)
    except ValueError:
        return 0.0
