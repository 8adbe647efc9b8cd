"""Retention over the whole pipeline: nothing goes that is not proved downstream, and what went is explained and never comes back by itself."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.config.parsers import FOREVER, Share
from ddwd.config.paths import Paths
from ddwd.config.retention import Place, Retention
from ddwd.config.routing import Destination, Route
from ddwd.core import watchdog
from ddwd.core.audit import Event
from ddwd.core.errors import PeerDownError
from ddwd.retention import eligibility, rules, scheduler
from ddwd.retention.round_report import Tally
from ddwd.store.delivery_log import DeliveryLog
from ddwd.store.hook_queue import HookQueue
from ddwd.store.operator_requests import Request
from ddwd.store.record_check import RecordChecker
from tests.unit.fakes import FakeOrthanc, Image, InlineExecutor, image, power_cut
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddwd.core.model import OrthancId
    from ddwd.store.custody import Record

DAY = 86400.0
GIB = 1024**3
IMAGES = [image(number=n) for n in range(1, 4)]
LATE = image(number=9)
STUDY = IMAGES[0].study_id
GATEWAY = Retention(gateway_days=1)
STORAGE = Retention(gateway_days=1, storage_days=2)
OUTPUT = Retention(output_days=1)


def delivered(folder: Path, retention: Retention, *images: Image) -> Portal:
    """A portal with that retention, and these images published."""
    portal = Portal(folder, retention=retention)
    portal.deliver(*(images or IMAGES))
    portal.run(10)
    return portal


def pass_days(portal: Portal, days: float) -> None:
    """So many days, and a round of retention after them."""
    portal.clock.advance(days * DAY)
    portal.run(20)


def told(portal: Portal) -> dict[str, Any]:
    """The file of the last round."""
    found: dict[str, Any] = json.loads(portal.paths.retention.read_bytes())["places"]
    return found


def kept(portal: Portal, place: Place) -> list[str]:
    """The reasons why studies had to stay there."""
    return [one["reason"] for one in told(portal)[place]["kept"]]


def is_proved(portal: Portal) -> bool:
    """What `ddwd verify --all` would say."""
    return RecordChecker(portal.custody, portal.paths).check(portal.custody.studies()).is_sound


def test_by_default_nothing_is_ever_removed(tmp_path: Path) -> None:
    portal = delivered(tmp_path, Retention())
    pass_days(portal, 10_000)
    assert len(portal.gateway.images) == len(portal.storage.images) == len(portal.published()) == 3
    assert not portal.paths.retention.exists()


def test_the_gateway_loses_a_study_after_its_days_and_storage_and_disk_keep_it(tmp_path: Path) -> None:
    portal = delivered(tmp_path, GATEWAY)
    pass_days(portal, 0.9)
    assert len(portal.gateway.images) == 3
    pass_days(portal, 0.2)
    assert portal.gateway.images == {}
    assert len(portal.storage.images) == 3
    assert portal.published() == names(*IMAGES)
    assert is_proved(portal)
    record = portal.custody.read(STUDY)
    assert record is not None
    assert record.retired.keys() == {"gateway"}
    assert (record.revision, record.history[-1]["images"]) == (1, 3)
    assert told(portal)["gateway"] == {
        "studies": 1, "images": 3, "bytes": sum(one.size for one in record.images.values()), "kept": [],
    }  # fmt: skip


def test_each_removal_is_an_event_with_its_place_and_size(tmp_path: Path) -> None:
    portal = delivered(tmp_path, GATEWAY)
    pass_days(portal, 2)
    (fields,) = [fields for event, fields in portal.events if event is Event.RETIRED]
    assert (fields["DDWD_PLACE"], fields["DDWD_INSTANCES"]) == ("gateway", "3")
    assert (fields["DDWD_STUDY_UID"], int(fields["DDWD_BYTES"]) > 0) == ("1.2.3.1", True)


def test_what_is_removed_is_not_sent_fetched_or_published_again(tmp_path: Path) -> None:
    portal = delivered(tmp_path, STORAGE)
    moved, stowed = list(portal.mover.moved), list(portal.gateway.stowed)
    pass_days(portal, 1.5)
    pass_days(portal, 2)
    portal.requests.submit(Request("reconcile"))
    pass_days(portal, 1)
    assert portal.gateway.images == portal.storage.images == {}
    assert (portal.mover.moved, portal.gateway.stowed, portal.open) == (moved, stowed, {})
    assert portal.published() == names(*IMAGES)
    assert is_proved(portal)


def test_storage_is_left_only_after_the_gateway(tmp_path: Path) -> None:
    portal = delivered(tmp_path, STORAGE)
    portal.gateway.images[IMAGES[0].orthanc_id] = image(number=1, pixels=b"z" * 64)
    pass_days(portal, 5)
    assert (len(portal.gateway.images), len(portal.storage.images)) == (3, 3)
    assert kept(portal, "gateway") == [rules.OTHER_AT_GATEWAY]
    assert kept(portal, "storage") == [rules.STILL_AT_GATEWAY]


def _damage(portal: Portal) -> None:
    (path, *_) = sorted(portal.paths.output.glob("PAT1/*/*/*.dcm"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("retention", "place"), [(GATEWAY, "gateway"), (STORAGE, "storage"), (OUTPUT, "output")]
)
def test_nothing_goes_while_a_file_on_disk_is_damaged(
    tmp_path: Path, retention: Retention, place: Place
) -> None:
    portal = delivered(tmp_path, retention)
    if place == "storage":
        pass_days(portal, 1.5)
    _damage(portal)
    pass_days(portal, 5)
    assert kept(portal, place) == [rules.DAMAGED_ON_DISK]
    assert len(portal.storage.images) == len(portal.published()) == 3


@pytest.mark.parametrize(("retention", "place"), [(GATEWAY, "gateway"), (OUTPUT, "output")])
def test_nothing_goes_while_storage_has_lost_a_file(
    tmp_path: Path, retention: Retention, place: Place
) -> None:
    portal = delivered(tmp_path, retention)
    portal.storage.fileless.add(IMAGES[1].orthanc_id)
    pass_days(portal, 5)
    assert kept(portal, place) == [rules.DAMAGED_ON_STORAGE]
    assert len(portal.gateway.images) == len(portal.published()) == 3


@pytest.mark.parametrize(("retention", "place"), [(GATEWAY, "gateway"), (OUTPUT, "output")])
def test_nothing_goes_while_a_file_is_missing_on_disk(
    tmp_path: Path, retention: Retention, place: Place
) -> None:
    portal = delivered(tmp_path, retention)
    next(iter(sorted(portal.paths.output.glob("PAT1/*/*/*.dcm")))).unlink()
    pass_days(portal, 5)
    assert kept(portal, place) == [rules.MISSING]
    assert (len(portal.gateway.images), len(portal.published())) == (3, 2)


def test_the_output_is_left_only_while_storage_has_all_of_it(tmp_path: Path) -> None:
    portal = delivered(tmp_path, OUTPUT)
    portal.gateway.forget(IMAGES[0].orthanc_id)
    portal.storage.forget(IMAGES[0].orthanc_id)
    pass_days(portal, 5)
    assert kept(portal, "output") == [rules.LAST_COPY]
    assert portal.published() == names(*IMAGES)


def test_the_output_goes_and_storage_keeps(tmp_path: Path) -> None:
    portal = delivered(tmp_path, OUTPUT)
    pass_days(portal, 2)
    assert portal.published() == {}
    assert not (portal.paths.output / "PAT1").exists()
    assert len(portal.storage.images) == 3
    proof = RecordChecker(portal.custody, portal.paths).check([STUDY])
    assert (proof.is_sound, proof.images, proof.removed) == (True, 3, 3)
    pass_days(portal, 2)
    assert portal.published() == {}


def test_a_late_image_of_a_removed_study_is_published_and_no_other_comes_back(tmp_path: Path) -> None:
    portal = delivered(tmp_path, OUTPUT)
    pass_days(portal, 2)
    portal.deliver(LATE)
    portal.storage.settle(STUDY)
    portal.run(10)
    assert portal.published() == names(LATE)
    assert portal.mover.moved[-1] == [LATE.sop_uid]
    record = portal.custody.read(STUDY)
    assert record is not None
    assert {one for one, image in record.images.items() if not image.removed} == {LATE.orthanc_id}
    assert is_proved(portal)
    pass_days(portal, 2)
    assert portal.published() == {}
    assert is_proved(portal)


def test_a_retry_brings_back_what_was_removed_and_its_days_begin_anew(tmp_path: Path) -> None:
    portal = delivered(tmp_path, OUTPUT)
    pass_days(portal, 2)
    portal.requests.submit(Request("retry", STUDY))
    portal.run(20)
    assert portal.published() == names(*IMAGES)
    pass_days(portal, 0.9)
    assert portal.published() == names(*IMAGES)
    pass_days(portal, 0.2)
    assert portal.published() == {}


def test_a_retry_of_what_no_orthanc_has_any_more_forgets_nothing(tmp_path: Path) -> None:
    portal = delivered(tmp_path, OUTPUT)
    pass_days(portal, 2)
    for node in (portal.gateway, portal.storage):
        node.forget(IMAGES[0].orthanc_id)
    portal.requests.submit(Request("retry", STUDY))
    portal.run(20)
    assert portal.published() == names(*IMAGES[1:])
    record = portal.custody.read(STUDY)
    assert record is not None
    assert record.images.keys() == {one.orthanc_id for one in IMAGES}


@pytest.mark.parametrize("retention", [GATEWAY, STORAGE])
def test_a_study_that_is_sent_again_changes_nothing_and_goes_again(
    tmp_path: Path, retention: Retention
) -> None:
    portal = delivered(tmp_path, retention)
    pass_days(portal, 1.5)
    pass_days(portal, 2)
    moved = list(portal.mover.moved)
    portal.deliver(*IMAGES)
    portal.storage.settle(STUDY)
    portal.run(10)
    assert portal.published() == names(*IMAGES)
    assert (portal.mover.moved, portal.quarantine.entries(), portal.open) == (moved, [], {})
    pass_days(portal, 3)
    pass_days(portal, 3)
    assert portal.gateway.images == {}
    assert portal.published() == names(*IMAGES)
    assert is_proved(portal)


def test_other_content_that_comes_once_storage_is_empty_is_kept_in_quarantine(tmp_path: Path) -> None:
    portal = delivered(tmp_path, STORAGE)
    pass_days(portal, 1.5)
    pass_days(portal, 2)
    other = image(number=1, pixels=b"z" * 64)
    portal.deliver(other)
    portal.run(10)
    assert portal.published() == names(*IMAGES)
    (entry,) = portal.quarantine.entries()
    assert entry.file is not None
    assert entry.file.read_bytes() == other.content


def test_a_late_image_of_a_study_that_only_the_disk_has_is_added(tmp_path: Path) -> None:
    portal = delivered(tmp_path, STORAGE)
    pass_days(portal, 1.5)
    pass_days(portal, 2)
    portal.deliver(LATE)
    portal.run(10)
    assert portal.published() == names(*IMAGES, LATE)
    assert portal.mover.moved[-1] == [LATE.sop_uid]
    assert is_proved(portal)


def _once(node: FakeOrthanc, monkeypatch: pytest.MonkeyPatch, *arriving: Image) -> None:
    """These come to the Orthanc just after everything was looked at: as its first image is deleted."""
    forget, waiting = node.forget, list(arriving)

    def forgetting(instance: OrthancId) -> None:
        while waiting:
            node.store(waiting.pop())
        forget(instance)

    monkeypatch.setattr(node, "forget", forgetting)


def test_an_image_that_arrives_between_the_proof_and_the_deletion_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = delivered(tmp_path, GATEWAY)
    _once(portal.gateway, monkeypatch, LATE)
    pass_days(portal, 2)
    assert portal.gateway.images.keys() == {LATE.orthanc_id}
    portal.gateway.settle(STUDY)
    portal.run(30)
    assert portal.published() == names(*IMAGES, LATE)
    assert is_proved(portal)


def test_what_is_sent_again_while_storage_is_emptied_gets_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = delivered(tmp_path, STORAGE)
    pass_days(portal, 1.5)
    forget = portal.storage.forget

    def forgetting(instance: OrthancId) -> None:
        portal.gateway.store(*IMAGES)
        forget(instance)

    with monkeypatch.context() as patch:
        patch.setattr(portal.storage, "forget", forgetting)
        pass_days(portal, 2)
    portal.run(60)
    assert portal.storage.images.keys() >= portal.gateway.images.keys()
    assert portal.published() == names(*IMAGES)
    assert portal.open == {}


def test_a_study_with_an_image_in_quarantine_stays_whole(tmp_path: Path) -> None:
    portal = Portal(tmp_path, retention=GATEWAY)
    portal.mover.poisoned = {IMAGES[0].sop_uid}
    portal.deliver(*IMAGES)
    portal.run(120)
    assert len(portal.quarantine.entries()) == 1
    pass_days(portal, 5)
    assert len(portal.gateway.images) == 3
    assert kept(portal, "gateway") == [rules.IN_QUARANTINE]


def test_a_study_that_is_in_flight_is_left_alone(tmp_path: Path) -> None:
    portal = delivered(tmp_path, GATEWAY)
    portal.requests.submit(Request("pause"))
    portal.deliver(LATE)
    portal.run(10)
    pass_days(portal, 5)
    assert len(portal.gateway.images) == 4
    portal.requests.submit(Request("resume"))
    portal.run(30)
    assert portal.published() == names(*IMAGES, LATE)


def test_a_study_whose_hook_waits_is_kept(tmp_path: Path) -> None:
    portal = delivered(tmp_path, GATEWAY)
    waiting = HookQueue(portal.paths.hooks).waiting
    waiting.mkdir(parents=True)
    (waiting / f"{STUDY}.1.json").write_text("{}")
    pass_days(portal, 5)
    assert kept(portal, "gateway") == [eligibility.HOOK_WAITS]
    assert len(portal.gateway.images) == 3


def test_a_study_whose_record_is_damaged_is_kept_and_its_days_begin_anew(tmp_path: Path) -> None:
    portal = delivered(tmp_path, OUTPUT)
    path = portal.custody.path(STUDY)
    path.write_bytes(path.read_bytes().replace(b'"revision": 1', b'"revision": 2', 1))
    pass_days(portal, 5)
    assert portal.published() == names(*IMAGES)
    assert is_proved(portal)


# --- for want of room -------------------------------------------------------------------------------------------------


def _room(portal: Portal, monkeypatch: pytest.MonkeyPatch, place: str, free: int) -> None:
    """Each image that the Orthanc deletes gives 1 GiB."""
    node = portal.gateway if place == "gateway" else portal.storage
    portal.disk.free[place] = free
    forget = node.forget

    def forgetting(instance: OrthancId) -> None:
        portal.disk.free[place] += GIB
        forget(instance)

    monkeypatch.setattr(node, "forget", forgetting)


def test_while_room_is_short_the_oldest_go_and_no_more_than_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = Portal(tmp_path, retention=Retention(gateway_free=Share("20%", percent=20)))
    for study in (3, 1, 2):
        portal.deliver(*(image(study, number=n) for n in (1, 2)))
        portal.run(10)
        portal.clock.advance(DAY)
    _room(portal, monkeypatch, "gateway", 18 * GIB)
    pass_days(portal, 1)
    assert {one.study_uid for one in portal.gateway.images.values()} == {"1.2.3.1", "1.2.3.2"}
    assert len(portal.storage.images) == len(portal.published()) == 6


def test_however_short_room_is_nothing_younger_than_the_least_days_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Retention(gateway_free=Share("900 GiB", bytes=900 * GIB), least_days=3)
    portal = delivered(tmp_path, short)
    _room(portal, monkeypatch, "gateway", GIB)
    pass_days(portal, 2.9)
    assert len(portal.gateway.images) == 3
    pass_days(portal, 0.2)
    assert portal.gateway.images == {}


def test_a_start_waits_a_moment_however_short_room_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of a machine that was just switched on may still be wrong."""
    portal = delivered(tmp_path, Retention(gateway_free=Share("20%", percent=20), least_days=0))
    _room(portal, monkeypatch, "gateway", GIB)
    portal.start()
    portal.run(290)
    assert len(portal.gateway.images) == 3
    portal.run(20)
    assert portal.gateway.images == {}


def test_the_room_of_another_machine_is_not_taken_for_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = Portal(tmp_path, retention=Retention(gateway_free=Share("20%", percent=20)))
    portal.config = replace(portal.config, roles=("storage", "extractor"))
    portal.start()
    portal.deliver(*IMAGES)
    _room(portal, monkeypatch, "gateway", GIB)
    pass_days(portal, 100)
    assert len(portal.gateway.images) == 3


def test_while_there_is_room_nothing_goes(tmp_path: Path) -> None:
    portal = delivered(tmp_path, Retention(gateway_free=Share("20%", percent=20)))
    pass_days(portal, 100)
    assert len(portal.gateway.images) == 3


def test_the_last_copy_never_goes_for_want_of_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = Share("99%", percent=99)
    short = Retention(
        gateway_free=everything, storage_free=everything, output_free=everything, remove_last_copy=True
    )
    portal = delivered(tmp_path, short)
    _room(portal, monkeypatch, "storage", GIB)
    pass_days(portal, 100)
    pass_days(portal, 100)
    assert portal.gateway.images == portal.storage.images == {}
    assert portal.published() == names(*IMAGES)
    assert kept(portal, "output") == [rules.LAST_COPY]


def test_the_last_copy_goes_where_it_was_asked_for(tmp_path: Path) -> None:
    portal = delivered(tmp_path, Retention(1, 2, 3, remove_last_copy=True))
    pass_days(portal, 2.5)
    pass_days(portal, 1)
    assert (portal.gateway.images, portal.storage.images, portal.published()) == ({}, {}, {})
    assert is_proved(portal)
    portal.deliver(*IMAGES)
    portal.run(20)
    assert portal.published() == names(*IMAGES)


# --- routes -----------------------------------------------------------------------------------------------------------


def _by_route(portal: Portal, route: str) -> None:
    record = portal.custody.read(STUDY)
    assert record is not None
    portal.custody.write(replace(record, route=route))


@pytest.mark.parametrize(("own", "left"), [(FOREVER, 3), (0.5, 0), (None, 0)])
def test_a_route_has_days_of_its_own(tmp_path: Path, own: float | None, left: int) -> None:
    portal = Portal(tmp_path, retention=GATEWAY)
    portal.config = replace(portal.config, routes=(Route("trial", keep_gateway=own),))
    portal.start()
    portal.deliver(*IMAGES)
    portal.run(10)
    _by_route(portal, "trial")
    pass_days(portal, 5)
    assert len(portal.gateway.images) == left


def test_a_study_whose_route_is_gone_from_the_settings_is_kept(tmp_path: Path) -> None:
    portal = delivered(tmp_path, GATEWAY)
    _by_route(portal, "gone")
    pass_days(portal, 5)
    assert kept(portal, "gateway") == [eligibility.UNKNOWN_ROUTE]


def test_a_study_is_kept_until_all_other_destinations_have_it(tmp_path: Path) -> None:
    portal = Portal(tmp_path)
    portal.config = replace(
        portal.config,
        routes=(Route("all", also=("teaching",), keep_gateway=0),),
        destinations=(Destination("teaching", url="https://teaching/dicom-web/"),),
    )
    portal.paths = Paths(portal.config)
    portal.start()
    portal.deliver(*IMAGES)
    portal.run(10)
    portal.requests.submit(Request("retention"))
    portal.run(10)
    assert kept(portal, "gateway") == ["3 of its images are not at teaching yet"]
    assert len(portal.gateway.images) == 3
    there = [one.orthanc_id for one in IMAGES]
    DeliveryLog(portal.paths.deliveries).add("teaching", STUDY, there, "2026-01-02T00:00:00Z")
    portal.requests.submit(Request("retention"))
    portal.run(10)
    assert portal.gateway.images == {}


def test_the_reasons_that_are_told_are_bounded() -> None:
    tally = Tally()
    finding = eligibility.Eligibility(STUDY, "gateway", None)
    for count in range(1000):
        tally.stays(finding, f"{count} of its images")
    assert len(tally.kept) < 60
    assert sum(one.studies for one in tally.kept.values()) == 1000


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_an_orthanc_that_goes_away_in_the_middle_ends_the_round_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = delivered(tmp_path, GATEWAY)
    forget, left = portal.gateway.forget, [1]

    def forgetting(instance: OrthancId) -> None:
        if not left:
            raise PeerDownError("gateway does not answer")
        left.pop()
        forget(instance)

    with monkeypatch.context() as patch:
        patch.setattr(portal.gateway, "forget", forgetting)
        pass_days(portal, 2)
        assert len(portal.gateway.images) == 2
        assert told(portal)["gateway"]["images"] == 1
    pass_days(portal, 1)
    assert portal.gateway.images == {}
    assert portal.published() == names(*IMAGES)


def test_a_stop_ends_the_removal_between_two_images_and_what_went_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = delivered(tmp_path, GATEWAY)
    is_asked = False
    forget = portal.gateway.forget

    def forgetting(instance: OrthancId) -> None:
        nonlocal is_asked
        forget(instance)
        is_asked = True

    def hook(_wait: float) -> None:
        if is_asked and watchdog.is_deferrable():
            raise PeerDownError("the extractor stops")

    monkeypatch.setattr(portal.gateway, "forget", forgetting)
    watchdog.install(hook)
    pass_days(portal, 2)
    assert len(portal.gateway.images) == 2
    assert told(portal)["gateway"]["images"] == 1
    assert [fields["DDWD_INSTANCES"] for event, fields in portal.events if event is Event.RETIRED] == ["1"]
    watchdog.install()
    pass_days(portal, 1)
    assert portal.gateway.images == {}
    assert is_proved(portal)


def test_a_proof_that_is_old_by_the_time_of_the_deletion_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = delivered(tmp_path, GATEWAY)
    monkeypatch.setattr(scheduler, "_FRESH_SECONDS", -1.0)
    pass_days(portal, 2)
    assert kept(portal, "gateway") == [scheduler.STALE]
    assert len(portal.gateway.images) == 3


def test_a_clock_that_leaps_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = delivered(tmp_path, GATEWAY)
    utc = portal.clock.utc
    monkeypatch.setattr(portal.clock, "utc", lambda: utc() + timedelta(days=400))
    portal.requests.submit(Request("retention"))
    portal.run(3000)
    assert len(portal.gateway.images) == 3
    portal.run(1000)
    assert portal.gateway.images == {}


def test_the_operator_has_a_round_at_once(tmp_path: Path) -> None:
    portal = delivered(tmp_path, Retention(gateway_days=0))
    portal.run(30)
    assert len(portal.gateway.images) == 3
    portal.requests.submit(Request("retention"))
    portal.run(10)
    assert portal.gateway.images == {}
    assert portal.requests.take() == []


@pytest.mark.parametrize(
    ("retention", "left"),
    [(Retention(gateway_days=0, storage_days=0), (0, 0, 3)), (Retention(gateway_days=0, output_days=0), (0, 3, 0))],
)  # fmt: skip
def test_a_power_cut_at_any_durable_step_changes_nothing_in_the_end(
    tmp_path: Path, retention: Retention, left: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)
    for step in range(200):
        home = tmp_path / str(step)
        home.mkdir()
        portal = delivered(home, retention)
        portal.requests.submit(Request("retention"))
        cut = power_cut(step, lambda portal=portal: portal.run(10))  # type: ignore[misc]
        assert is_proved(portal), step
        if cut:
            portal.start()
            portal.requests.submit(Request("retention"))
            portal.run(10)
        counts = len(portal.gateway.images), len(portal.storage.images), len(portal.published())
        assert (counts, is_proved(portal), portal.open, step) == (left, True, {}, step)
        if not cut:
            break
    assert step > 5


def test_a_power_cut_before_any_deletion_changes_nothing_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deletions on an Orthanc are no durable steps of ours: cut there too."""

    class Cut(BaseException):
        pass

    for count in range(7):
        home = tmp_path / str(count)
        home.mkdir()
        portal = delivered(home, Retention(gateway_days=0, storage_days=0))
        left = [None] * count

        def forgetting(
            instance: OrthancId, portal: Portal = portal, left: list[None] = left, name: str = "gateway"
        ) -> None:
            if not left:
                raise Cut
            left.pop()
            node = portal.gateway if name == "gateway" else portal.storage
            FakeOrthanc.forget(node, instance)

        with monkeypatch.context() as patch:
            patch.setattr(portal.gateway, "forget", forgetting)
            patch.setattr(
                portal.storage, "forget", lambda one, forgetting=forgetting: forgetting(one, name="storage")
            )
            portal.requests.submit(Request("retention"))
            try:
                portal.run(10)
                assert count == 6
            except Cut:
                pass
        portal.start()
        portal.requests.submit(Request("retention"))
        portal.run(20)
        assert portal.gateway.images == portal.storage.images == {}
        assert portal.published() == names(*IMAGES)
        assert is_proved(portal)


# --- between the steps ------------------------------------------------------------------------------------------------


def test_what_storage_loses_after_the_proof_is_seen_before_the_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = delivered(tmp_path, GATEWAY)
    custody = portal.extractor.retention.examiner.custody
    write = custody.write

    def writing(record: Record) -> None:
        write(record)
        portal.storage.delete_study(STUDY)

    with monkeypatch.context() as patch:
        patch.setattr(custody, "write", writing)
        portal.clock.advance(2 * DAY)
        portal.run(2)
    assert len(portal.gateway.images) == 3
    assert kept(portal, "gateway") == [rules.NOT_ON_STORAGE]
    portal.run(400)
    pass_days(portal, 1)
    assert (len(portal.gateway.images), len(portal.storage.images)) == (0, 3)


def test_a_record_that_changes_after_the_proof_keeps_its_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = delivered(tmp_path, GATEWAY)
    is_whole = portal.storage.is_whole

    def looking(instance: OrthancId) -> bool:
        record = portal.custody.read(STUDY)
        assert record is not None
        portal.custody.write(replace(record, set_aside={LATE.orthanc_id: "just now"}))
        return is_whole(instance)

    monkeypatch.setattr(portal.storage, "is_whole", looking)
    pass_days(portal, 2)
    assert len(portal.gateway.images) == 3
    assert kept(portal, "gateway") == [scheduler.CHANGED]


def test_a_record_whose_first_lines_do_not_tell_is_judged_by_the_whole(tmp_path: Path) -> None:
    portal = delivered(tmp_path, GATEWAY)
    path = portal.custody.path(STUDY)
    path.write_text(json.dumps(json.loads(path.read_bytes())))
    assert portal.custody.peek(STUDY) is None
    pass_days(portal, 0.9)
    assert len(portal.gateway.images) == 3
    pass_days(portal, 0.2)
    assert portal.gateway.images == {}


class _Later(InlineExecutor):
    """Does what it is given when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: fn(*args, **kwargs)))
        return future

    def work(self) -> None:
        """Do what waits."""
        for future, piece in self.waiting:
            future.set_result(piece())
        self.waiting.clear()


def _slowly(portal: Portal) -> _Later:
    """From now on retention's pieces wait to be told; up to where the removal waits."""
    later = _Later()
    worker = portal.extractor.retention
    worker.executor = later
    portal.requests.submit(Request("retention"))
    for _ in range(20):
        portal.run(1)
        if worker.holds(STUDY):
            return later
        later.work()
    pytest.fail("it never came to a removal")


def test_what_comes_while_a_study_goes_is_published_when_it_is_gone(tmp_path: Path) -> None:
    portal = delivered(tmp_path, Retention(output_days=0))
    later = _slowly(portal)
    portal.deliver(LATE)
    portal.storage.settle(STUDY)
    portal.run(20)
    assert portal.published() == names(*IMAGES)
    later.work()
    portal.run(20)
    assert portal.published() == names(LATE)
    assert is_proved(portal)


def test_a_study_that_is_opened_while_it_goes_stays_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = delivered(tmp_path, Retention(output_days=0))
    dropped: list[OrthancId] = []
    later = _slowly(portal)
    monkeypatch.setattr(portal.extractor.sharing.claims, "done", dropped.append)
    portal.deliver(LATE)
    portal.storage.settle(STUDY)
    portal.run(20)
    later.work()
    portal.run(20)
    assert dropped == [STUDY]
    assert portal.published() == names(LATE)


def test_the_marker_of_a_rule_goes_with_the_files_and_holds_up_nothing_later(tmp_path: Path) -> None:
    portal = Portal(tmp_path)
    portal.config = replace(portal.config, routes=(Route("all", marker="study.done", keep_output=0),))
    portal.start()
    portal.deliver(*IMAGES)
    portal.run(10)
    assert (portal.paths.output / "PAT1" / "1.2.3.1" / "study.done").exists()
    portal.requests.submit(Request("retention"))
    portal.run(10)
    assert not (portal.paths.output / "PAT1").exists()
    portal.mover.poisoned = {LATE.sop_uid}
    portal.deliver(LATE)
    portal.storage.settle(STUDY)
    portal.run(300)
    assert len(portal.quarantine.entries()) == 1
    assert portal.open == {}
