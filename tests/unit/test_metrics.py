"""The figures for Prometheus: sound, complete, and every one that the Grafana dashboard asks for."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ddwd.core.errors import StateError
from ddwd.monitoring.metrics import Metrics
from ddwd.status.events import AuditEvent
from ddwd.status.report import Heartbeat, VolumeState
from ddwd.store.statefile import decode
from ddwd.store.status_files import (
    AcceptorStatus,
    DestinationStatus,
    LostStatus,
    RetentionStatus,
    SelfTestResult,
    SenderStatus,
)
from tests.readme import REPO
from tests.unit.test_flow import report

if TYPE_CHECKING:
    from pathlib import Path


def _happened(event: str, **fields: str) -> AuditEvent:
    return AuditEvent("2026-01-02T03:04:05.000Z", event, "", "", "", fields)


LIFE = [
    _happened("received", aet="CT1", instances="12"),
    _happened("verified", bytes="5000", instances="12"),
    _happened("published", added="12", seconds="4.5", bytes="5000"),
    _happened("received", aet="CT1", instances="2"),
    _happened("verified", bytes="800", instances="2"),
    _happened("late-image", added="2", seconds="3.5", bytes="5800"),
    _happened("retired", place="gateway", instances="9", bytes="4000"),
    _happened("retrieve-failed"),
    _happened("quarantined"),
]
LAST_ROUND = {
    "ended_at": "2026-01-02T03:00:00Z",
    "problem": "",
    "places": {
        "gateway": {"studies": 1, "kept": [{"reason": "x", "studies": 2}, {"reason": "y", "studies": 3}]}
    },
}


def _figures(path: Path) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(path.read_text(encoding="utf-8"))
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    made = Metrics(tmp_path / "ddwd.prom")
    made.count(LIFE)
    volume = VolumeState("output", "/x", free=10**9, total=10**10, level="ok", hours_left=7.5)
    made.show(
        report(
            100,
            waiting=3,
            volumes=(volume,),
            quarantine=1,
            two_patients=2,
            lost=LostStatus(1, on_gateway=5, on_storage=2),
            self_test=SelfTestResult("2026-01-02T03:00:00Z", ok=True),
            retention=decode(RetentionStatus, {"last": LAST_ROUND, "now": None}),
            destinations=(DestinationStatus("teaching", state="away", images=12),),
        )
    )
    made.write()
    return made


def test_what_was_done_is_counted_once(metrics: Metrics, tmp_path: Path) -> None:
    found = _figures(tmp_path / "ddwd.prom")
    assert found["ddwd_images_received_total", "CT1"] == 14
    assert found["ddwd_images_published_total",] == 14
    assert found["ddwd_published_bytes_total",] == 5800
    assert found["ddwd_studies_published_total",] == 1
    assert found["ddwd_time_to_disk_seconds_count",] == 2
    assert found["ddwd_time_to_disk_seconds_sum",] == 8.0
    assert found["ddwd_retention_images_removed_total", "gateway"] == 9
    assert found["ddwd_retention_freed_bytes_total", "gateway"] == 4000
    assert found["ddwd_failures_total", "retrieve"] == 1
    assert found["ddwd_failures_total", "quarantined"] == 1
    assert found["ddwd_failures_total", "forward"] == 0


def test_how_things_stand_is_shown(metrics: Metrics, tmp_path: Path) -> None:
    found = _figures(tmp_path / "ddwd.prom")
    assert found["ddwd_backlog_images", "storage"] == 3
    assert found["ddwd_unit_up", "ddwd-scp"] == 1
    assert found["ddwd_orthanc_up", "gateway"] == 1
    assert found["ddwd_postgresql_up",] == 1
    assert found["ddwd_disk_free_bytes", "output"] == 10**9
    assert found["ddwd_disk_full_hours", "output"] == 7.5
    assert found["ddwd_retention_studies_kept", "gateway"] == 5
    assert found["ddwd_quarantine_images",] == 1
    assert found["ddwd_two_patients_studies",] == 2
    assert (found["ddwd_lost_images", "gateway"], found["ddwd_lost_images", "storage"]) == (5, 2)
    assert found["ddwd_self_test_ok",] == 1


def test_what_is_no_more_is_shown_no_more(metrics: Metrics, tmp_path: Path) -> None:
    metrics.show(report(100))
    metrics.write()
    assert not [name for name in _figures(tmp_path / "ddwd.prom") if name[0] == "ddwd_disk_full_hours"]


def test_a_flood_of_made_up_senders_does_not_grow_the_file(metrics: Metrics, tmp_path: Path) -> None:
    metrics.count(_happened("received", aet=f"AET{n}", instances="1") for n in range(1000))
    metrics.write()
    names = [name for name in _figures(tmp_path / "ddwd.prom") if name[0] == "ddwd_images_received_total"]
    assert len(names) <= 201


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"metrics\.textfile"):
        Metrics(tmp_path / "none" / "ddwd.prom").write()


def test_the_grafana_dashboard_asks_for_figures_that_exist(metrics: Metrics, tmp_path: Path) -> None:
    known = {name[0] for name in _figures(tmp_path / "ddwd.prom")} | {
        f"{family.name}" for family in text_string_to_metric_families((tmp_path / "ddwd.prom").read_text())
    }
    board = json.loads((REPO / "docs/grafana.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    names = {name for expr in asked for name in re.findall(r"ddwd_[a-z_]+", expr)}
    assert names <= known
    used = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in names}
    assert {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in known} == used
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_refusals_of_the_last_hour_are_counted_by_ae_title_whatever_their_reasons(
    metrics: Metrics, tmp_path: Path
) -> None:
    senders = (
        SenderStatus("CT1", "10.0.0.5", recent=70),
        SenderStatus("CT1", "10.0.0.6", recent=5),
        SenderStatus("MR1", "10.0.0.7"),
    )
    acceptor = Heartbeat("acceptor", 1.0, AcceptorStatus(associations=12, limit=600, senders=senders))
    metrics.show(report(acceptor=acceptor))
    metrics.write()
    found = _figures(tmp_path / "ddwd.prom")
    assert (found["ddwd_refusals_last_hour", "CT1"], found["ddwd_refusals_last_hour", "MR1"]) == (75, 0)
    assert (found["ddwd_associations",], found["ddwd_associations_limit",]) == (12, 600)
