"""Do images flow: rates, what waits and the light of each hop, from Reports at known moments; and what was done today."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.core.model import OrthancId
from ddwd.status.dashboard import Today
from ddwd.status.events import AuditEvent
from ddwd.status.flow import BUCKET_SECONDS, HISTORY, Flow, Light
from ddwd.status.report import Heartbeat, OrthancState, Report, VolumeState
from ddwd.status.units import UNITS, Unit
from ddwd.store.status_files import (
    AcceptorStatus,
    Backlog,
    ExtractorStatus,
    InFlightStudy,
    ScpStatus,
    WorkTotals,
)

if TYPE_CHECKING:
    from ddwd.status.flow import HopRate


def report(images: int = 0, *, waiting: int = 0, **changes: Any) -> Report:
    """All hops have passed `images` of 1000 bytes; `waiting` of them are not on storage yet."""
    scp = ScpStatus(received=images, received_bytes=images * 1000)
    extractor = ExtractorStatus(
        totals=WorkTotals(instances=images, bytes=images * 1000), backlog=Backlog(storage=waiting)
    )
    made = Report(
        at="2026-01-02T03:04:05.000Z",
        units=tuple(Unit(name, "active", "running", 0, "") for name in UNITS),
        servers=tuple(
            OrthancState(name, aet, "1.12.7", "PostgreSQL", 1, images, images * 1000, 5.0)
            for name, aet in (("gateway", "ORTHANC1"), ("storage", "ORTHANC2"))
        ),
        hearts=(Heartbeat("scp", 1.0, scp), Heartbeat("extractor", 1.0, extractor)),
        volumes=(VolumeState("output, data", "/var/lib/ddwd", 10**11, 10**12, "ok"),),
        counts={},
        in_flight=(),
        recent=(),
        quarantine=0,
    )
    return replace(made, **changes)


def _play(*steps: tuple[float, Report]) -> dict[str, HopRate]:
    flow = Flow()
    hops: tuple[HopRate, ...] = ()
    for now, one in steps:
        hops = flow.take(one, now)
    return {hop.name: hop for hop in hops}


def test_the_hops_are_those_of_the_flow_in_its_order() -> None:
    assert [hop.name for hop in Flow().take(report(), 0.0)] == [
        "modality",
        "gateway",
        "storage",
        "scp",
        "disk",
    ]


def test_a_rate_is_that_of_the_last_seconds() -> None:
    hops = _play(*((float(second), report(10 * second)) for second in range(20)))
    for name in ("gateway", "storage", "scp", "disk"):
        assert hops[name].images_per_second == pytest.approx(10.0)
        assert hops[name].bytes_per_second == pytest.approx(10_000.0)
        assert hops[name].light is Light.OK
    ended = _play(*((float(second), report(10 * min(second, 5))) for second in range(20)))
    assert ended["disk"].images_per_second == 0


def test_counts_that_fall_are_no_negative_rate() -> None:
    hops = _play((0.0, report(1000)), (5.0, report(3)), (10.0, report(3)))
    assert hops["gateway"].images_per_second == 0
    assert min(hops["gateway"].history) == 0


def test_the_history_keeps_the_last_minutes() -> None:
    hops = _play(*((BUCKET_SECONDS * n, report(5 * n)) for n in range(3 * HISTORY)))
    assert len(hops["gateway"].history) == HISTORY
    assert set(hops["gateway"].history) == {1.0}
    silent = _play((0.0, report(0)), (1.0, report(5)), (BUCKET_SECONDS * 10, report(5)))
    assert [value for value in silent["gateway"].history if value] == [1.0]
    assert silent["gateway"].history[-11] == 1.0


def test_what_waits_while_nothing_moves_makes_the_light_wait() -> None:
    hops = _play(*((float(second), report(50, waiting=7)) for second in range(0, 40, 2)))
    assert hops["storage"].light is Light.WAITING
    assert "7 images wait" in hops["storage"].reason
    assert hops["disk"].light is Light.OK


def test_images_after_an_idle_hour_are_no_standstill() -> None:
    idle = [(float(second), report(50)) for second in range(0, 3600, 5)]
    arriving = [(3600.0 + second, report(50, waiting=3)) for second in range(14)]
    assert _play(*idle, *arriving)["storage"].light is Light.OK
    waiting = [(3600.0 + second, report(50, waiting=3)) for second in range(16)]
    assert _play(*idle, *waiting)["storage"].light is Light.WAITING


def test_what_waits_again_after_all_had_passed_is_timed_anew() -> None:
    hops = _play(
        (0.0, report(50)), (5.0, report(50, waiting=3)), (18.0, report(50)), (19.0, report(50, waiting=3)), (30.0, report(50, waiting=3))
    )  # fmt: skip
    assert hops["storage"].light is Light.OK


def test_ever_more_that_waits_makes_the_light_slow() -> None:
    hops = _play(*((float(second), report(second, waiting=20 * second)) for second in range(125)))
    assert hops["storage"].light is Light.SLOW


def test_bursts_that_pass_are_no_slow_hop_however_they_grow() -> None:
    def waiting(second: int) -> int:
        return max(0, 40 * (1 + second // 60) - 4 * (second % 60))

    hops = _play(*((float(second), report(10 * second, waiting=waiting(second))) for second in range(241)))
    assert hops["storage"].backlog == 200
    assert hops["storage"].light is Light.OK


@pytest.mark.parametrize(("images", "rate", "passes"), [(300, 40, 24), (600, 120, 24), (4000, 60, 24)])
def test_a_study_that_arrives_faster_than_it_passes_is_no_slow_hop(
    images: int, rate: int, passes: int
) -> None:
    flow = Flow()
    lights = set()
    for second in range(images // passes + 5):
        arrived, passed = min(images, rate * second), min(images, passes * second)
        hops = flow.take(report(passed, waiting=max(0, arrived - passed)), float(second))
        lights |= {hop.light for hop in hops}
    assert lights == {Light.OK}


def _hung(seconds: float = 1.8) -> Report:
    made = report()
    problem = f"storage does not answer on http://127.0.0.1:8043 within {seconds:g} s"
    return replace(
        made, servers=(made.servers[0], OrthancState("storage", "ORTHANC2", problem=problem, hangs=seconds))
    )


def test_a_server_that_hangs_is_shown_at_once_and_is_broken_after_some_seconds() -> None:
    steps = [(0.0, report()), (2.8, _hung())]
    first = _play(*steps)["storage"]
    assert (first.light, "does not answer" in first.reason) == (Light.WAITING, True)
    steps += [(second, _hung()) for second in (5.6, 8.4)]
    assert _play(*steps)["storage"].light is Light.BROKEN
    again = _play(*steps, (9.0, report()), (11.8, _hung()))["storage"]
    assert again.light is Light.WAITING


def test_a_unit_that_is_down_breaks_its_hop_and_is_named() -> None:
    units = tuple(Unit(name, "failed" if name == "ddwd-storage" else "active", "", 0, "") for name in UNITS)
    hops = _play((0.0, report()), (1.0, report(units=units)))
    assert {name for name, hop in hops.items() if hop.light is Light.BROKEN} == {"storage"}
    assert hops["storage"].reason == "ddwd-storage is failed"


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        (
            {
                "servers": (
                    OrthancState("gateway", "ORTHANC1", problem="away"),
                    OrthancState("storage", "ORTHANC2"),
                )
            },
            "gateway",
        ),
        ({"hearts": (Heartbeat("scp", None, problem="does not run"), Heartbeat("extractor", 1.0))}, "scp"),
        ({"hearts": (Heartbeat("scp", 1.0), Heartbeat("extractor", 99.0, problem="stale"))}, "disk"),
        ({"volumes": (VolumeState("output", "/x", problem="/x: only 1 B free"),)}, "disk"),
    ],
)
def test_whatever_is_broken_is_broken_from_the_first_look_on(changes: dict[str, Any], broken: str) -> None:
    hops = _play((0.0, report(**changes)))
    assert [name for name, hop in hops.items() if hop.light is Light.BROKEN] == [broken]
    assert hops[broken].reason


def test_paused_is_waiting_and_says_so() -> None:
    assert _play((0.0, report(paused=True)))["disk"].reason == "retrieving is paused by the operator"


def test_the_modality_is_the_latest_sender() -> None:
    rows = tuple(InFlightStudy(OrthancId(""), aet=aet, state="arriving") for aet in ("", "MR2"))
    assert _play((0.0, report(in_flight=rows)))["modality"].title == "MR2"
    assert _play((0.0, report()))["modality"].title == "modality"


def test_today_counts_studies_once_and_late_images_too() -> None:
    def happened(event: str, **fields: str) -> AuditEvent:
        return AuditEvent("2026-01-02T03:04:05.000Z", event, "", "", "", fields)

    today = Today("2026-01-02").plus(
        [
            happened("published", added="10"),
            happened("late-image", added="2"),
            happened("quarantined"),
            happened("received", instances="10"),
            happened("published", added="6", aet="DDWD_SELFTEST"),
        ]
    )
    assert today == Today("2026-01-02", 1, 12, 1)


def test_open_associations_and_their_limit_are_those_of_each_hop() -> None:
    made = report()
    acceptor = Heartbeat("acceptor", 1.0, AcceptorStatus(associations=12, limit=600))
    scp = Heartbeat("scp", 1.0, ScpStatus(associations=2, limit=96))
    storage = replace(made.servers[1], associations=4, limit=32)
    hops = _play(
        (
            0.0,
            replace(
                made, acceptor=acceptor, hearts=(scp, made.hearts[1]), servers=(made.servers[0], storage)
            ),
        )
    )
    assert [(hop.associations, hop.limit) for hop in hops.values()] == [
        (0, 0),
        (12, 600),
        (4, 32),
        (2, 96),
        (0, 0),
    ]


def test_without_the_acceptor_no_image_can_reach_orthanc1() -> None:
    hung = Heartbeat("acceptor", 99.0, problem="the heartbeat of the acceptor is stale")
    assert _play((0.0, report(acceptor=hung)))["gateway"].light is Light.BROKEN
    units = tuple(Unit(name, "failed" if name == "ddwd-acceptor" else "active", "", 0, "") for name in UNITS)
    assert _play((0.0, report(units=units)))["gateway"].reason == "ddwd-acceptor is failed"
