"""What STOW-RS does not bring to storage gets there by REST, as it is; what nothing takes is set aside with storage's own words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ddwd.core.audit import Event
from ddwd.extractor.decision import Blocker
from ddwd.orthanc.port import Job
from ddwd.store.operator_requests import Request
from tests.unit.fakes import image
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.fakes import Image


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    return Portal(tmp_path)


def _ways(portal: Portal) -> list[str]:
    record = portal.custody.read(image().study_id)
    assert record is not None
    return [
        record.images[one].way for one in sorted(record.images, key=lambda one: record.images[one].sop_uid)
    ]


def _send_unsendable(portal: Portal, *images: Image) -> None:
    """Images come to the gateway, and STOW-RS brings none of them to storage."""
    portal.gateway.unsendable |= {one.orthanc_id for one in images}
    portal.gateway.store(*images)


def test_an_image_that_stow_refuses_gets_to_storage_as_it_is_and_the_record_says_how(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 4)]
    portal.deliver(images[0], images[2])
    portal.gateway.remembered = {"job1": Job("job1", "Failure", "DicomWebStowClient", "Bad request")}
    _send_unsendable(portal, images[1])
    portal.run(30)
    assert portal.storage.images[images[1].orthanc_id].content == images[1].content
    assert portal.published() == names(*images)
    assert _ways(portal) == ["", "REST", ""]
    told = [event for event, _ in portal.events]
    assert [told.count(one) for one in (Event.FORWARD_FAILED, Event.COPIED)] == [1, 1]
    assert dict(portal.events)[Event.FORWARD_FAILED]["DDWD_STATUS"] == "Bad request"
    assert portal.quarantine.entries() == []


def test_stow_is_tried_again_before_rest(portal: Portal) -> None:
    portal.gateway.store(image())
    portal.run(30)
    assert portal.published() == names(image())
    assert portal.storage.offered == []
    assert _ways(portal) == [""]


def test_the_record_says_how_it_came_after_a_restart_in_between_too(portal: Portal) -> None:
    portal.mover.scp_up = False
    _send_unsendable(portal, image())
    portal.run(30)
    assert portal.storage.images
    portal.start()
    portal.mover.scp_up = True
    portal.run(60)
    assert _ways(portal) == ["REST"]


def test_the_record_still_says_so_when_a_lost_file_was_retrieved_again(portal: Portal) -> None:
    _send_unsendable(portal, image())
    portal.run(30)
    portal.start()
    for path in portal.paths.output.rglob("*.dcm"):
        path.unlink()
    portal.requests.submit(Request("retry", image().study_id))
    portal.run(30)
    assert portal.published() == names(image())
    assert _ways(portal) == ["REST"]


def test_what_nothing_takes_is_set_aside_with_the_words_of_storage_though_no_other_image_passes(
    portal: Portal,
) -> None:
    portal.storage.refused = {image().orthanc_id}
    _send_unsendable(portal, image())
    portal.run(60)
    (study,) = portal.open.values()
    assert study.blocker is Blocker.REFUSED
    assert study.reason == (
        "1 images are not on storage yet; 1 refused (try 2 of 6, then quarantine): "
        "storage: HTTP 400 for /instances: Bad file format"
    )
    assert study.status == "HTTP 400"
    portal.run(600)
    (entry,) = portal.quarantine.entries()
    assert (entry.subject.kind, entry.subject.instance) == ("undeliverable", image().orthanc_id)
    assert entry.subject.reason == "storage: HTTP 400 for /instances: Bad file format"
    assert entry.subject.tries == portal.config.retrieve.tries
    assert entry.file is not None
    assert entry.file.read_bytes() == image().content
    assert len(portal.storage.offered) == portal.config.retrieve.tries
    assert portal.open == {}


def test_the_one_image_that_nothing_takes_is_found_among_the_others_which_are_published(
    portal: Portal,
) -> None:
    images = [image(number=n) for n in range(1, 31)]
    portal.storage.refused = {images[7].orthanc_id}
    _send_unsendable(portal, *images)
    portal.run(300)
    assert portal.published() == names(*images[:7], *images[8:])
    (entry,) = portal.quarantine.entries()
    assert entry.subject.instance == images[7].orthanc_id


def test_released_from_quarantine_it_is_tried_again_from_the_beginning(portal: Portal) -> None:
    portal.storage.refused = {image().orthanc_id}
    _send_unsendable(portal, image())
    portal.run(600)
    (entry,) = portal.quarantine.entries()
    portal.storage.refused = set()
    portal.requests.submit(Request("release", item=entry.id))
    portal.run(60)
    assert portal.published() == names(image())
    assert _ways(portal) == ["REST"]


def test_a_storage_that_is_away_or_fails_for_all_costs_no_image_a_try(portal: Portal) -> None:
    _send_unsendable(portal, image())
    portal.run(6)
    portal.storage.down = True
    portal.run(1800)
    portal.storage.down, portal.storage.is_failing = False, True
    portal.run(1800)
    assert len(portal.storage.offered) > portal.config.retrieve.tries
    assert portal.quarantine.entries() == []
    portal.storage.is_failing = False
    portal.run(90)
    assert portal.published() == names(image())


def _stow_jobs(state: str, *progress: int, age: float = 0.0) -> dict[str, Job]:
    """STOW-RS jobs of the gateway, one for each progress."""
    names = [f"job{number}" for number in range(1, len(progress) + 1)]
    return {
        name: Job(name, state, "DicomWebStowClient", "", percent, age)
        for name, percent in zip(names, progress, strict=True)
    }


def test_a_stow_job_that_never_begins_holds_up_no_image(portal: Portal) -> None:
    portal.gateway.remembered = _stow_jobs("Pending", 0)
    _send_unsendable(portal, image())
    portal.run(20)
    assert portal.storage.offered == []
    portal.run(90)
    assert portal.published() == names(image())


def test_jobs_that_hung_while_storage_was_away_hold_up_no_image_once_it_answers(portal: Portal) -> None:
    portal.gateway.remembered = _stow_jobs("Running", 0, 0, 0, 0, age=70)
    portal.gateway.store(image())
    portal.run(10)
    assert portal.published() == names(image())
    assert _ways(portal) == ["REST"]


def test_jobs_that_stopped_in_the_middle_hold_up_no_image_for_a_minute(portal: Portal) -> None:
    portal.gateway.remembered = _stow_jobs("Running", 40, 90, 10, 1, age=70)
    portal.gateway.store(image())
    portal.run(20)
    assert portal.storage.offered == []  # they may have moved a moment before
    portal.run(30)
    assert portal.published() == names(image())


def test_nothing_is_copied_beside_jobs_that_move_on(portal: Portal) -> None:
    portal.gateway.store(image())
    for percent in range(1, 60):
        portal.gateway.remembered = _stow_jobs("Running", percent, percent, percent, percent, age=2 * percent)
        portal.run(2)
    assert (portal.storage.offered, portal.gateway.stowed) == ([], [])
    portal.gateway.remembered = {}
    portal.run(40)
    assert _ways(portal) == [""]


def test_nothing_is_copied_beside_jobs_that_have_just_left_a_long_queue(portal: Portal) -> None:
    portal.gateway.remembered = _stow_jobs("Pending", 0, 0, 0, 0, age=600)
    portal.gateway.store(image())
    portal.run(10)
    portal.gateway.remembered = _stow_jobs("Running", 0, 0, 0, 0, age=610)
    portal.run(10)
    assert portal.storage.offered == []


def test_while_one_job_hangs_the_others_still_take_images(portal: Portal) -> None:
    portal.gateway.remembered = _stow_jobs("Running", 0, 0, 0, age=70)
    portal.gateway.store(image())
    portal.run(20)
    assert portal.published() == names(image())
    assert _ways(portal) == [""]


def test_an_image_whose_file_is_damaged_on_the_gateway_is_not_copied_and_set_aside_once_others_pass(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = image(number=1), image(number=2)
    whole = portal.gateway.is_whole
    monkeypatch.setattr(portal.gateway, "is_whole", lambda one: one != bad.orthanc_id and whole(one))
    _send_unsendable(portal, good, bad)
    portal.run(60)
    assert portal.storage.images.keys() == {good.orthanc_id}
    for study in range(2, 40):
        portal.gateway.store(image(study))
        portal.run(10)
    (entry,) = portal.quarantine.entries()
    assert entry.subject.instance == bad.orthanc_id
    assert entry.subject.reason == "gateway: its file is lost or damaged"


def test_many_images_are_copied_in_parts_so_that_other_studies_pass_in_between(portal: Portal) -> None:
    images = [image(number=n) for n in range(1, 451)]
    _send_unsendable(portal, *images)
    portal.run(16)
    assert len(portal.storage.offered) == 200
    portal.run(60)
    assert portal.published() == names(*images)
    assert len(portal.storage.offered) == 450
