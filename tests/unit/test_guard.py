"""The flow stops hop by hop before a volume is full, and goes on by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ddwd.core import disk_space
from ddwd.core.audit import Event
from ddwd.core.disk_space import Space, SpaceLevel
from ddwd.extractor.decision import Blocker
from ddwd.store.statefile import encode
from tests.unit.fakes import image
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1024**3
RESERVE = 2 * GIB


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    return Portal(tmp_path)


@pytest.mark.parametrize(
    ("free", "level"),
    [
        (9.0, SpaceLevel.OK),
        (7.9, SpaceLevel.WARN),
        (3.9, SpaceLevel.NO_RETRIEVE),
        (2.9, SpaceLevel.NO_FORWARD),
        (1.9, SpaceLevel.REFUSE),
        (0.0, SpaceLevel.REFUSE),
    ],
)
def test_the_less_room_the_graver_the_stage(free: float, level: SpaceLevel) -> None:
    assert disk_space.level_of(Space(1, int(free * GIB), 100 * GIB, 900, 1000), RESERVE) is level


def test_of_a_small_volume_a_twentieth_is_kept() -> None:
    assert disk_space.reserve_of(10 * GIB, RESERVE) == GIB // 2
    assert disk_space.level_of(Space(1, 3 * GIB, 10 * GIB, 900, 1000), RESERVE) is SpaceLevel.OK


def test_inodes_run_out_like_bytes() -> None:
    assert disk_space.level_of(Space(1, 90 * GIB, 100 * GIB, 9, 1000), RESERVE) is SpaceLevel.REFUSE
    assert disk_space.level_of(Space(1, 90 * GIB, 100 * GIB, 0, 0), RESERVE) is SpaceLevel.OK


def test_a_stage_is_left_late() -> None:
    just_above = Space(1, int(4.1 * GIB), 100 * GIB, 900, 1000)
    assert disk_space.level_of(just_above, RESERVE) is SpaceLevel.WARN
    assert disk_space.level_of(just_above, RESERVE, SpaceLevel.NO_RETRIEVE) is SpaceLevel.NO_RETRIEVE


def test_no_image_is_retrieved_onto_a_read_only_volume_and_all_are_once_it_can_be_written(
    portal: Portal,
) -> None:
    portal.disk.read_only = {portal.paths.output.name}
    portal.deliver(image(number=1), image(number=2))
    portal.run(600)
    assert portal.mover.moved == []
    (study,) = portal.open.values()
    assert study.reason == f"the volume of {portal.paths.output} is read-only"
    assert study.blocker is Blocker.DISK
    told = [volume.read_only for volume in portal.guard.state() if volume.read_only]
    assert told == [(str(portal.paths.output),)]
    portal.disk.read_only = set()
    portal.run(10)
    assert portal.published() == names(image(number=1), image(number=2))
    assert not any(volume.read_only for volume in portal.guard.state())
    events = [event for event, _ in portal.events if event in {Event.DISK_LOW, Event.DISK_OK}]
    assert events == [Event.DISK_LOW, Event.DISK_OK]


def test_an_area_that_the_extractor_never_writes_to_may_be_read_only_for_it(portal: Portal) -> None:
    portal.disk.read_only = {"storage", "gateway"}
    portal.deliver(image())
    portal.run(10)
    assert portal.published() == names(image())


def test_no_image_is_retrieved_onto_a_volume_short_of_room_and_all_are_once_there_is_room(
    portal: Portal,
) -> None:
    portal.disk.free[portal.paths.output.name] = 3 * GIB
    portal.deliver(image(number=1), image(number=2))
    portal.run(600)
    assert portal.mover.moved == []
    (study,) = portal.open.values()
    assert "short of room" in study.reason
    assert study.blocker is Blocker.DISK
    assert portal.quarantine.entries() == []
    portal.disk.free.clear()
    portal.run(60)
    assert len(portal.published()) == 2
    assert [event for event, _ in portal.events if event.startswith("disk")] == [
        Event.DISK_LOW,
        Event.DISK_OK,
    ]


def test_nothing_is_forwarded_onto_a_storage_short_of_room_and_all_is_once_there_is_room(
    portal: Portal,
) -> None:
    portal.disk.free["storage"] = int(2.5 * GIB)
    portal.gateway.store(image(number=1), image(number=2))
    portal.run(600)
    assert portal.gateway.stowed == []
    assert portal.paths.forwarding_paused.exists()
    portal.disk.free.clear()
    portal.run(60)
    assert not portal.paths.forwarding_paused.exists()
    assert len(portal.published()) == 2


def test_the_hours_left_are_those_of_the_last_hour(portal: Portal) -> None:
    free = 100 * GIB // 2
    for _ in range(61):
        portal.disk.free["gateway"] = free
        portal.guard.look()
        portal.clock.advance(60)
        free -= GIB // 10
    rows = {row["path"]: row for row in encode(portal.guard.state())}
    assert rows["/gateway"]["hours_left"] == pytest.approx((44 - 2) / 6, rel=0.01)
    assert rows["/storage"]["hours_left"] is None


def test_a_folder_that_is_not_there_stops_nothing(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: Path) -> Space:
        raise FileNotFoundError(path)

    monkeypatch.setattr(portal.guard, "volumes", replace(portal.guard.volumes, measure=gone))
    portal.guard.look()
    assert portal.guard.may_retrieve
    assert portal.guard.shortage == ""


def test_what_is_told_is_what_that_volume_stops(portal: Portal) -> None:
    portal.disk.free["gateway"] = int(
        2.5 * GIB
    )  # too little to forward onto, but nothing is forwarded onto it
    portal.guard.look()
    assert portal.guard.shortage == ""
    portal.disk.free["storage"] = int(2.5 * GIB)
    portal.clock.advance(1)
    portal.guard.look()
    assert portal.guard.shortage == "the volume of /storage is short of room"
    rows = {row["path"]: row for row in encode(portal.guard.state())}
    assert (rows["/gateway"]["stops"], rows["/storage"]["stops"]) == ([], ["forward"])
    assert rows["/gateway"]["level"] == rows["/storage"]["level"] == "no-forward"


def test_a_volume_that_was_unmounted_is_forgotten(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space(7, GIB, 100 * GIB, 0, 0)
    monkeypatch.setattr(portal.guard, "volumes", replace(portal.guard.volumes, measure=lambda _path: space))
    portal.guard.look()
    assert portal.guard.shortage != ""
    space = Space(8, 90 * GIB, 100 * GIB, 0, 0)
    portal.clock.advance(1)
    portal.guard.look()
    assert portal.guard.shortage == ""
    assert [row["free"] for row in encode(portal.guard.state())] == [90 * GIB]
