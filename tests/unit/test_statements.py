"""What the audit trail states of custody records: enough to tell later whether a record, or an image of it, is the one that was written."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ddwd.core.audit import Event
from ddwd.core.model import SELF_TEST_PATIENT
from ddwd.store.operator_requests import Request
from tests.unit.fakes import PowerCut, image
from tests.unit.portal import Portal
from tests.unit.test_retention import GATEWAY, OUTPUT, delivered, pass_days

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.fakes import Image

ONE, TWO, LATE = image(number=1), image(number=2), image(number=3)


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    return Portal(tmp_path)


class _Dying(list[tuple[Event, dict[str, str]]]):
    """A trail whose writer is killed when it first writes `event`: the record is on disk, its event is not."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self._event = event

    def append(self, one: tuple[Event, dict[str, str]]) -> None:
        if one[0] is self._event:
            raise PowerCut
        super().append(one)


def _killed_at(portal: Portal, event: Event, act: Callable[[], object]) -> None:
    """Kill the extractor between a record's write and its `event`, and start it again."""
    trail, portal.events = portal.events, _Dying(event)
    portal.start()
    with suppress(PowerCut):
        act()
        portal.run(20)
        pytest.fail(f"no {event} was written")
    portal.events = [*trail, *portal.events]
    portal.start()
    portal.run(20)


def _stating(portal: Portal) -> list[tuple[Event, dict[str, str]]]:
    return [(event, fields) for event, fields in portal.events if "DDWD_RECORD_SHA256" in fields]


def _digest(*images: Image) -> str:
    lines = sorted(f"{one.sop_uid} {hashlib.sha256(one.content).hexdigest()}\n" for one in images)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_publication_states_the_digest_of_all_images_and_of_the_record(portal: Portal) -> None:
    portal.deliver(TWO, ONE)
    portal.run(20)
    ((event, fields),) = _stating(portal)
    assert event is Event.PUBLISHED
    assert fields["DDWD_IMAGES_SHA256"] == _digest(ONE, TWO)
    assert (fields["DDWD_INSTANCES"], fields["DDWD_REVISION"]) == ("2", "1")
    content = portal.custody.path(ONE.study_id).read_bytes()
    assert fields["DDWD_RECORD_SHA256"] == hashlib.sha256(content).hexdigest()


def test_a_late_image_states_the_whole_study_as_it_is_then(portal: Portal) -> None:
    portal.deliver(ONE, TWO)
    portal.run(20)
    portal.deliver(LATE)
    portal.storage.settle(LATE.study_id)
    portal.run(20)
    event, fields = _stating(portal)[-1]
    assert event is Event.LATE_IMAGE
    assert fields["DDWD_IMAGES_SHA256"] == _digest(ONE, TWO, LATE)
    assert (fields["DDWD_INSTANCES"], fields["DDWD_ADDED"], fields["DDWD_REVISION"]) == ("3", "1", "2")


def test_a_copy_at_the_gateway_that_is_compared_later_is_stated_and_is_no_late_image(portal: Portal) -> None:
    portal.storage.store(ONE)
    portal.run(20)
    portal.gateway.store(ONE)
    portal.run(60)
    event, fields = _stating(portal)[-1]
    assert event is Event.RECORD_CHANGED
    assert fields["DDWD_IMAGES_SHA256"] == _digest(ONE)
    assert portal.records_not_as_stated() == []


@pytest.mark.parametrize("retention", [GATEWAY, OUTPUT])
def test_a_removal_by_retention_is_stated_before_an_image_is_removed(
    tmp_path: Path, retention: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = delivered(tmp_path, retention)  # type: ignore[arg-type]
    count_at_removal: list[int] = []
    remove = portal.extractor.retention.remover.remove

    def counting(finding: object) -> object:
        count_at_removal.append(len(_stating(portal)))
        return remove(finding)  # type: ignore[arg-type]

    monkeypatch.setattr(portal.extractor.retention.remover, "remove", counting)
    pass_days(portal, 2)
    assert count_at_removal == [2]
    event, fields = _stating(portal)[-1]
    assert (event, fields["DDWD_INSTANCES"]) == (Event.RECORD_CHANGED, "3")
    assert portal.records_not_as_stated() == []


def test_an_extractor_killed_before_it_states_a_publication_states_it_after_its_start(portal: Portal) -> None:
    _killed_at(portal, Event.PUBLISHED, lambda: portal.deliver(ONE))
    assert portal.records_not_as_stated() == []
    assert [event for event, _ in _stating(portal)] == [Event.RECORD_CHANGED]


def test_an_extractor_killed_before_it_states_a_late_image_states_it_after_its_start(portal: Portal) -> None:
    portal.deliver(ONE)
    portal.run(20)

    def late() -> None:
        portal.deliver(LATE)
        portal.storage.settle(LATE.study_id)

    _killed_at(portal, Event.LATE_IMAGE, late)
    assert portal.records_not_as_stated() == []


def test_an_extractor_killed_before_it_states_a_removal_states_it_in_the_next_round(tmp_path: Path) -> None:
    portal = delivered(tmp_path, OUTPUT)
    _killed_at(portal, Event.RECORD_CHANGED, lambda: pass_days(portal, 2))
    assert portal.published() != {}
    pass_days(portal, 1)
    assert portal.published() == {}
    assert portal.records_not_as_stated() == []


def test_an_extractor_killed_before_it_states_two_patients_states_it_after_its_start(portal: Portal) -> None:
    portal.deliver(ONE)
    portal.run(20)
    _killed_at(portal, Event.RECORD_CHANGED, lambda: portal.deliver(image(number=1, patient="PAT2")))
    assert portal.records_not_as_stated() == []


def test_an_extractor_killed_before_it_states_a_release_states_it_after_its_start(portal: Portal) -> None:
    portal.mover.poisoned.add(TWO.sop_uid)
    portal.deliver(ONE, TWO)
    portal.run(900)
    (entry,) = portal.quarantine.entries()
    portal.mover.poisoned.clear()
    _killed_at(
        portal, Event.RECORD_CHANGED, lambda: portal.requests.submit(Request("release", item=entry.id))
    )
    portal.run(60)
    assert portal.quarantine.entries() == []
    assert portal.records_not_as_stated() == []


def test_the_operators_retry_states_a_record_that_no_event_states(portal: Portal) -> None:
    portal.deliver(ONE)
    portal.run(20)
    portal.events.clear()
    portal.requests.submit(Request("retry", ONE.study_id))
    portal.run(20)
    assert [event for event, _ in _stating(portal)] == [Event.RECORD_CHANGED]
    assert portal.records_not_as_stated() == []


def test_a_study_that_needs_nothing_is_not_stated_again(portal: Portal) -> None:
    portal.deliver(ONE)
    portal.run(20)
    stated = len(_stating(portal))
    portal.start()
    portal.requests.submit(Request("reconcile"))
    portal.run(200)
    assert len(_stating(portal)) == stated


def test_the_removal_of_the_self_tests_record_is_an_event_of_the_study(portal: Portal) -> None:
    mine = image(patient=SELF_TEST_PATIENT)
    portal.deliver(mine)
    portal.run(20)
    for node in (portal.gateway, portal.storage):
        node.delete_study(mine.study_id)
    portal.requests.submit(Request("forget", mine.study_id))
    portal.run(20)
    assert list(portal.custody.studies()) == []
    (fields,) = [fields for event, fields in portal.events if event is Event.RECORD_REMOVED]
    assert (fields["DDWD_STUDY"], fields["DDWD_INSTANCES"]) == (mine.study_id, "1")
    assert portal.records_not_as_stated() == []


def test_the_check_of_these_tests_sees_a_record_that_was_rewritten_and_one_that_is_gone(
    portal: Portal,
) -> None:
    portal.deliver(ONE)
    portal.run(20)
    record = portal.custody.read(ONE.study_id)
    assert record is not None
    portal.custody.write(replace(record, accession="other"))
    assert portal.records_not_as_stated() == [ONE.study_id]
    portal.custody.remove(ONE.study_id)
    assert portal.records_not_as_stated() == [ONE.study_id]
