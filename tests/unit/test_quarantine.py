"""What cannot be delivered is kept, named and can be tried again; nothing else waits for it."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING

import pytest

from ddwd.core.audit import Event
from ddwd.store.operator_requests import Request
from tests.unit.fakes import image, spool
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    return Portal(tmp_path)


def test_a_poisoned_image_goes_to_quarantine_and_the_others_are_published(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 21)]
    bad = images[4]
    portal.mover.poisoned = {bad.sop_uid}
    portal.deliver(*images)
    portal.run(120)
    assert portal.published() == names(*(one for one in images if one is not bad))
    (entry,) = portal.quarantine.entries()
    assert (entry.subject.kind, entry.subject.instance) == ("undeliverable", bad.orthanc_id)
    assert (entry.subject.sop_uid, entry.subject.tries) == (bad.sop_uid, portal.config.retrieve.tries)
    assert entry.file is not None
    assert entry.file.read_bytes() == bad.content
    record = portal.custody.read(bad.study_id)
    assert record is not None
    assert list(record.set_aside) == [bad.orthanc_id]
    assert portal.leftovers() == []


def test_an_image_whose_file_storage_lost_is_sent_again_by_the_gateway(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.deliver(*images)
    portal.storage.fileless = {images[1].orthanc_id}
    portal.run(30)
    assert portal.published() == names(*images)
    assert portal.gateway.stowed == [[images[1].orthanc_id]]
    assert portal.quarantine.entries() == []
    assert [event for event, _ in portal.events].count(Event.REPAIRED) == 1


def test_the_only_image_of_a_study_is_sent_again_too(portal: Portal) -> None:
    portal.deliver(image())
    portal.storage.fileless = {image().orthanc_id}
    portal.run(30)
    assert portal.published() == names(image())


def test_what_the_gateway_lost_too_is_left_where_it_is(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.deliver(*images)
    portal.storage.fileless = {images[1].orthanc_id}
    portal.gateway.fileless = {images[1].orthanc_id}
    portal.run(120)
    assert images[1].orthanc_id in portal.storage.images
    assert portal.published() == names(images[0], images[2])
    (entry,) = portal.quarantine.entries()
    assert entry.subject.kind == "undeliverable"


def test_an_image_that_the_gateway_lists_without_a_file_holds_up_no_other_and_may_come_again(
    portal: Portal,
) -> None:
    images = [image(number=n) for n in range(1, 20)]
    portal.gateway.store(*images)
    portal.storage.store(*images[:3])
    portal.gateway.fileless = {images[7].orthanc_id}
    portal.run(40)
    assert portal.published() == names(*(one for one in images if one is not images[7]))
    assert images[7].orthanc_id not in portal.gateway.images
    (entry,) = portal.quarantine.entries()
    assert "had no file of it" in entry.subject.reason
    portal.deliver(images[7])
    portal.run(40)
    assert portal.published() == names(*images)


def test_a_gateway_whose_volume_is_away_loses_no_row(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 5)]
    portal.gateway.store(*images)
    portal.gateway.fileless = {one.orthanc_id for one in images}
    portal.run(60)
    assert set(portal.gateway.images) == {one.orthanc_id for one in images}
    portal.gateway.fileless = set()
    portal.run(120)
    assert portal.published() == names(*images)


def test_what_is_set_aside_is_not_tried_again_after_a_restart(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.mover.poisoned = {images[0].sop_uid}
    portal.deliver(*images)
    portal.run(120)
    moved = len(portal.mover.moved)
    portal.start()
    portal.run(400)
    assert len(portal.mover.moved) == moved


@pytest.mark.parametrize("kind", ["release", "retry"])
def test_a_released_image_is_tried_again_and_published(portal: Portal, kind: str) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.mover.poisoned = {images[0].sop_uid}
    portal.deliver(*images)
    portal.run(120)
    (entry,) = portal.quarantine.entries()
    portal.mover.poisoned = set()
    wish = Request("release", item=entry.id) if kind == "release" else Request("retry", images[0].study_id)
    portal.requests.submit(wish)
    portal.run(30)
    assert portal.published() == names(*images)
    record = portal.custody.read(images[0].study_id)
    assert record is not None
    assert (record.set_aside, record.revision) == ({}, 2)
    assert Event.REQUESTED in [event for event, _ in portal.events]
    assert portal.requests.take() == []
    assert portal.quarantine.entries() == []
    assert len(list(portal.paths.quarantine.rglob("released/*/*.dcm"))) == 1


def test_a_release_outlives_a_crash_right_after_it(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.mover.poisoned = {images[0].sop_uid}
    portal.deliver(*images)
    portal.run(120)
    (entry,) = portal.quarantine.entries()
    portal.mover.poisoned = set()
    portal.requests.submit(Request("release", item=entry.id))
    portal.loop.run()
    portal.start()
    portal.run(30)
    assert portal.published() == names(*images)


def test_a_way_that_is_closed_for_all_sends_nothing_to_quarantine(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 9)]
    portal.deliver(*images[:4])
    portal.run(1)
    portal.deliver(*images[4:])
    portal.mover.broken = True
    portal.run(3600)
    assert portal.quarantine.entries() == []
    portal.mover.broken = False
    portal.run(60)
    assert portal.published() == names(*images)


def test_an_image_that_storage_does_not_take_keeps_nobody_waiting_while_others_pass(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.gateway.unsendable = portal.storage.refused = {images[0].orthanc_id}
    portal.gateway.store(*images)
    for study in range(2, 40):
        portal.gateway.store(image(study))
        portal.run(5)
    assert set(names(*images[1:])) <= set(portal.published())
    (entry,) = portal.quarantine.entries()
    assert entry.subject.instance == images[0].orthanc_id
    assert entry.file is not None


def test_what_storage_does_not_take_is_sent_again_with_growing_pauses(portal: Portal) -> None:
    first, second = image(number=1), image(number=2)
    portal.close_forwarding()
    portal.gateway.store(first)
    sent: list[int] = []
    for second_of_wait in range(1, 131):
        portal.run(1)
        sent += [second_of_wait] * (len(portal.gateway.stowed + portal.storage.offered) - len(sent))
    pauses = [later - sooner for sooner, later in itertools.pairwise(sent)]
    assert pauses == pytest.approx([10, 20, 30, 30, 30], abs=1)
    portal.close_forwarding(is_closed=False)
    portal.gateway.store(second)
    portal.run(12)
    assert portal.published() == names(first, second)


def test_an_image_that_cannot_be_forwarded_in_an_outage_is_not_blamed(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.close_forwarding()
    portal.gateway.store(*images)
    portal.storage.store(images[0])
    portal.run(3600)
    assert portal.quarantine.entries() == []
    portal.close_forwarding(is_closed=False)
    portal.run(60)
    assert portal.published() == names(*images)


def test_other_content_on_the_gateway_than_on_storage_is_kept_in_quarantine(portal: Portal) -> None:
    ours, theirs = image(number=1), image(number=1, pixels=b"y" * 64)
    portal.storage.store(theirs)
    portal.gateway.store(ours)
    portal.run(30)
    assert portal.published() == names(theirs)
    (entry,) = portal.quarantine.entries()
    assert entry.subject.kind == "conflict"
    assert entry.file is not None
    assert entry.file.read_bytes() == ours.content
    assert Event.CONFLICT in [event for event, _ in portal.events]


def test_other_content_that_comes_to_the_gateway_after_publication_is_kept_in_quarantine(
    portal: Portal,
) -> None:
    ours, theirs = image(number=1), image(number=1, pixels=b"y" * 64)
    portal.storage.store(theirs)
    portal.run(30)
    assert portal.published() == names(theirs)
    portal.gateway.store(ours)
    portal.run(60)
    assert portal.published() == names(theirs)
    (entry,) = portal.quarantine.entries()
    assert (entry.subject.kind, entry.sha256) == ("conflict", hashlib.sha256(ours.content).hexdigest())
    moved = len(portal.mover.moved)
    portal.run(700)
    assert len(portal.mover.moved) == moved
    record = portal.custody.read(ours.study_id)
    assert record is not None
    assert record.revision == 2


def test_other_content_that_is_already_published_stays_and_the_newcomer_waits(portal: Portal) -> None:
    one, taken = image(number=1), image(number=2)
    name = portal.paths.output / next(iter(names(taken)))
    name.parent.mkdir(parents=True)
    name.write_bytes(b"something else")
    portal.deliver(one, taken)
    portal.run(30)
    assert portal.published() == names(one) | {str(name.relative_to(portal.paths.output)): b"something else"}
    record = portal.custody.read(one.study_id)
    assert record is not None
    assert (list(record.images), list(record.set_aside)) == ([one.orthanc_id], [taken.orthanc_id])
    assert [entry.subject.kind for entry in portal.quarantine.entries()] == ["conflict"]


def test_a_stranger_in_the_spool_of_a_published_study_goes_to_quarantine(portal: Portal) -> None:
    good, stranger = image(number=1), image(number=7)
    spool(portal.paths.spool, stranger)
    portal.deliver(good)
    portal.run(30)
    assert portal.published() == names(good)
    (entry,) = portal.quarantine.entries()
    assert (entry.subject.kind, entry.sha256) == ("stray", hashlib.sha256(stranger.content).hexdigest())
    assert portal.leftovers() == []


def test_a_study_deleted_on_both_orthancs_before_it_is_published_is_not_forgotten_silently(
    portal: Portal,
) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.deliver(*images)
    portal.run(1)
    portal.gateway.delete_study(images[0].study_id)
    portal.storage.delete_study(images[0].study_id)
    portal.run(30)
    assert portal.published() == {}
    assert {entry.subject.kind for entry in portal.quarantine.entries()} == {"vanished"}
    assert len(portal.quarantine.entries()) == len(images)
    assert Event.VANISHED in [event for event, _ in portal.events]
    assert portal.leftovers() == []


def test_a_file_gone_from_disk_is_fetched_again_when_asked(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.deliver(*images)
    portal.run(10)
    (portal.paths.output / next(iter(names(images[1])))).unlink()
    portal.requests.submit(Request("retry", images[1].study_id))
    portal.run(20)
    assert portal.published() == names(*images)
    record = portal.custody.read(images[1].study_id)
    assert record is not None
    assert record.history[-1]["restored"] == 1


def test_a_published_study_that_storage_lost_is_sent_to_it_again(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.deliver(*images)
    portal.run(10)
    portal.storage.delete_study(images[0].study_id)
    portal.run(400)
    assert set(portal.storage.images) == {one.orthanc_id for one in images}
    record = portal.custody.read(images[0].study_id)
    assert record is not None
    assert record.revision == 1


def test_a_note_that_is_damaged_is_an_entry_that_says_so(portal: Portal) -> None:
    folder = portal.paths.quarantine / "1.2.3"
    folder.mkdir(parents=True)
    (folder / "abc.json").write_text("{", encoding="ascii")
    (entry,) = portal.quarantine.entries()
    assert "damaged" in entry.subject.reason
