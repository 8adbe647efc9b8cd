"""The extractor's promises, on fakes at the ports and a real folder."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest

from ddwd.core.audit import Event
from ddwd.core.errors import Failure, PeerDownError
from tests.unit.fakes import image
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ddwd.core.model import Study


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    return Portal(tmp_path)


def test_a_study_on_both_orthancs_is_published_whole(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 6)]
    portal.gateway.store(*images)
    portal.storage.store(*images)
    portal.run(10)
    assert portal.published() == names(*images)
    assert portal.leftovers() == []


def test_a_study_is_never_visible_before_it_is_whole(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 8)]
    portal.gateway.store(*images)
    portal.close_forwarding()
    portal.storage.store(*images[:4])
    portal.run(60)
    assert portal.published() == {}
    portal.close_forwarding(is_closed=False)
    portal.run(60)
    assert portal.published() == names(*images)


def test_images_are_fetched_while_the_study_is_still_arriving(portal: Portal) -> None:
    for n in range(1, 11):
        portal.gateway.store(image(number=n))
        portal.storage.store(image(number=n))
        portal.run(1)
    assert portal.published() == {}
    assert sum(map(len, portal.mover.moved)) >= 8
    portal.run(10)
    assert len(portal.published()) == 10


def test_forwarding_that_lua_lost_is_done_again_with_only_what_is_missing(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 6)]
    portal.gateway.store(*images)
    portal.storage.store(*images[:2])
    portal.run(60)
    assert portal.published() == names(*images)
    assert [sorted(block) for block in portal.gateway.stowed] == [
        sorted(one.orthanc_id for one in images[2:])
    ]


def test_a_study_put_on_storage_by_someone_else_is_published_when_stable(portal: Portal) -> None:
    portal.storage.store(image(number=1), image(number=2))
    portal.run(2)
    assert portal.published() == {}
    portal.run(5)
    assert len(portal.published()) == 2


def test_while_the_gateway_is_away_nothing_is_called_whole(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.gateway.store(*images)
    portal.gateway.down = True
    portal.storage.store(*images[:2])
    portal.run(120)
    assert portal.published() == {}
    portal.gateway.down = False
    portal.run(60)
    assert portal.published() == names(*images)


def test_storage_away_for_an_hour_loses_nothing(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.storage.down = True
    portal.gateway.store(*images)
    portal.run(3600)
    portal.storage.down = False
    portal.run(60)
    assert portal.published() == names(*images)


def test_nothing_is_done_twice_after_a_restart(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.gateway.store(*images)
    portal.storage.store(*images)
    portal.run(10)
    moved = len(portal.mover.moved)
    portal.start()
    portal.storage.settle(images[0].study_id)
    portal.run(400)
    assert len(portal.mover.moved) == moved
    record = portal.custody.read(images[0].study_id)
    assert record is not None
    assert record.revision == 1


@pytest.mark.parametrize("stops", [True, False])
def test_a_retrieve_that_a_stop_cut_off_is_no_failure_in_the_journal(portal: Portal, stops: bool) -> None:
    portal.deliver(image())
    portal.loop.run()
    (study,) = portal.open.values()
    study.work = Future()
    study.work.set_exception(PeerDownError("a stop is wanted"))
    if stops:
        portal.loop.drain()
    else:
        portal.loop.run()
    assert (Event.RETRIEVE_FAILED in [event for event, _ in portal.events]) is not stops


def test_late_images_are_fetched_alone_and_make_a_new_revision(portal: Portal) -> None:
    first, late = [image(number=n) for n in range(1, 4)], image(number=9)
    portal.gateway.store(*first)
    portal.storage.store(*first)
    portal.run(10)
    portal.gateway.store(late)
    portal.storage.store(late)
    portal.storage.settle(late.study_id)
    portal.run(10)
    assert portal.published() == names(*first, late)
    assert portal.mover.moved[-1] == [late.sop_uid]
    record = portal.custody.read(late.study_id)
    assert record is not None
    assert (record.revision, len(record.images)) == (2, 4)
    assert [event for event, _ in portal.events].count(Event.LATE_IMAGE) == 1


def test_one_study_uid_under_two_patients_is_two_studies_each_whole(portal: Portal) -> None:
    mine = [image(number=n, patient="A") for n in range(1, 4)]
    theirs = [image(number=n, patient="B") for n in range(1, 4)]
    portal.gateway.store(*mine, *theirs)
    portal.storage.store(*mine, *theirs)
    portal.run(20)
    assert portal.published() == names(*mine, *theirs)
    assert portal.leftovers() == []


def test_a_namesake_under_another_patient_that_comes_later_puts_nothing_in_quarantine(portal: Portal) -> None:
    mine = [image(number=n, patient="A") for n in range(1, 4)]
    theirs = [image(number=n, patient="B") for n in range(1, 4)]
    for images in (mine, theirs):
        portal.deliver(*images)
        portal.run(20)
    assert portal.published() == names(*mine, *theirs)
    assert portal.quarantine.count() == 0
    assert portal.leftovers() == []


def test_one_image_that_cannot_be_moved_does_not_stop_the_others_from_being_fetched(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 21)]
    portal.mover.poisoned = {images[4].sop_uid}
    portal.gateway.store(*images)
    portal.storage.store(*images)
    portal.run(8)
    assert portal.published() == {}
    assert len(list(portal.paths.staging.rglob("*.dcm"))) == 19
    portal.mover.poisoned = set()
    portal.run(60)
    assert portal.published() == names(*images)


def test_a_study_that_breaks_our_own_code_does_not_stop_the_others(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = image(1), image(2)
    portal.gateway.store(good, bad)
    portal.storage.store(good, bad)
    move = portal.mover.move

    def broken(
        study: Study, series_uids: Sequence[str], sop_uids: Sequence[str], arrived: Callable[[], None]
    ) -> Failure | None:
        if study.study_uid == bad.study_uid:
            raise ZeroDivisionError
        return move(study, series_uids, sop_uids, arrived)

    monkeypatch.setattr(portal.mover, "move", broken)
    portal.run(20)
    assert portal.published() == names(good)
    monkeypatch.undo()
    portal.run(60)
    assert portal.published() == names(good, bad)


def test_what_came_but_is_not_what_storage_holds_is_not_published(portal: Portal) -> None:
    good, bad = image(number=1), image(number=1, pixels=b"x" * 64)
    portal.gateway.store(good)
    portal.storage.store(good)
    portal.mover.scp_up = False
    from tests.unit.fakes import spool  # noqa: PLC0415

    spool(portal.paths.spool, bad)
    portal.run(10)
    assert portal.published() == {}
    portal.mover.scp_up = True
    portal.run(60)
    assert portal.published() == names(good)


def test_a_lost_ledger_and_lost_records_are_rebuilt_from_what_is_there(
    portal: Portal, tmp_path: Path
) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.gateway.store(*images)
    portal.storage.store(*images)
    portal.run(10)
    moved = len(portal.mover.moved)
    for path in sorted((tmp_path / "state").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    portal.start()
    portal.run(30)
    assert portal.custody.has(images[0].study_id)
    assert len(portal.mover.moved) == moved
    assert portal.published() == names(*images)
