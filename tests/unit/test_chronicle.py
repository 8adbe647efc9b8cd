"""What a study's life leaves in the audit: each step told once, with its fields, in the order of the flow; kept in the ledger too."""

from __future__ import annotations

import getpass
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ddwd.core.audit import Event
from ddwd.core.clock import stamp
from ddwd.daemon.extractor import StatusTotals, extractor_status
from ddwd.status import events
from ddwd.store.ledger import Pause
from ddwd.store.operator_requests import Request
from ddwd.store.statefile import encode
from ddwd.store.status_files import EXTRACTOR, Backlog
from tests.unit.fakes import image
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    return Portal(tmp_path)


_LIFE = [
    Event.RECEIVED,
    Event.FORWARD_STARTED,
    Event.RETRIEVE_STARTED,
    Event.FORWARDED,
    Event.VERIFIED,
    Event.PUBLISHED,
]
"""Retrieving begins while images still come."""


def _told(portal: Portal) -> list[Event]:
    return [event for event, _ in portal.events]


def test_each_step_of_a_study_is_told_once(portal: Portal) -> None:
    for number in range(1, 6):
        portal.deliver(image(number=number))
        portal.run(1)
    portal.run(20)
    assert list(dict.fromkeys(_told(portal))) == _LIFE
    assert sorted(_told(portal)) == sorted([*_LIFE, Event.RECEIVED])
    first, rest = (fields for event, fields in portal.events if event is Event.RECEIVED)
    assert first["DDWD_AET"] == rest["DDWD_AET"] == "CT1"
    assert (first["DDWD_INSTANCES"], rest["DDWD_INSTANCES"]) == ("1", "4")
    assert {fields["DDWD_STUDY_UID"] for _, fields in portal.events} == {image().study_uid}
    assert {fields["DDWD_STUDY"] for _, fields in portal.events} == {image().study_id}


def test_a_study_put_past_the_gateway_is_told_without_forwarding(portal: Portal) -> None:
    portal.storage.store(image())
    portal.run(20)
    assert _told(portal) == [
        Event.RECEIVED,
        Event.RETRIEVE_STARTED,
        Event.VERIFIED,
        Event.PUBLISHED,
    ]


def test_late_images_are_told_with_their_number_alone(portal: Portal) -> None:
    portal.deliver(image(number=1), image(number=2))
    portal.run(20)
    portal.events.clear()
    portal.deliver(image(number=3))
    portal.storage.settle(image().study_id)
    portal.run(20)
    told = dict(portal.events)
    assert told[Event.RECEIVED]["DDWD_INSTANCES"] == "1"
    assert told[Event.VERIFIED]["DDWD_INSTANCES"] == "1"
    assert told[Event.LATE_IMAGE]["DDWD_ADDED"] == "1"
    assert Event.PUBLISHED not in told


def test_images_that_do_not_get_to_storage_are_told_as_failed_from_the_second_try_on(portal: Portal) -> None:
    portal.gateway.store(image())
    portal.close_forwarding()
    portal.run(60)
    told = [event for event in _told(portal) if event.value.startswith("forward")]
    assert told[:3] == [Event.FORWARD_STARTED, Event.FORWARD_FAILED, Event.FORWARD_FAILED]


def test_the_record_says_when_the_images_were_seen_at_each_hop(portal: Portal) -> None:
    began = stamp(portal.clock.utc())
    portal.deliver(image(number=1))
    portal.run(2)
    portal.deliver(image(number=2))
    portal.run(20)
    record = portal.custody.read(image().study_id)
    assert record is not None
    (revision,) = record.history
    assert revision["aet"] == "CT1"
    assert set(revision["hops"]) == {"gateway", "storage", "disk"}
    for first, last in revision["hops"].values():
        assert began <= first < last < stamp(portal.clock.utc())


def test_events_can_be_read_from_the_ledger_over_all_segments(portal: Portal) -> None:
    for number in range(1, 30):
        portal.deliver(image(number, number=1))
        portal.run(10)
    assert list(portal.paths.ledger.glob("*.gz"))
    found = events.read(portal.paths.ledger)
    assert [one.event for one in found] == [event.value for event in _told(portal)]
    one = image(3).study_id
    assert {row.study for row in events.read(portal.paths.ledger, study=one)} == {one}
    assert events.read(portal.paths.ledger, study=image(3).study_uid) == events.read(
        portal.paths.ledger, study=one
    )
    assert sorted(events.past(portal.paths.ledger, found[40].at), key=found.index) == [
        row for row in found if row.at >= found[40].at
    ]


def test_a_reader_of_the_ledger_sees_each_new_event_once_over_rotations(portal: Portal) -> None:
    portal.deliver(image(1))
    portal.run(10)
    tail = events.Tail(portal.paths.ledger, last=2)
    seen = tail.new()
    assert [one.event for one in seen] == ["verified", "published"]
    before = len(portal.events)
    for number in range(2, 30):
        portal.deliver(image(number))
        portal.run(10)
        seen = tail.new()
        assert [one.event for one in seen] == [event.value for event, _ in portal.events[before:]]
        before = len(portal.events)
        assert tail.new() == []


def test_paused_nothing_is_fetched_over_a_restart_and_resumed_everything_is(portal: Portal) -> None:
    portal.requests.submit(Request("pause"))
    portal.run(1)
    images = [image(number=number) for number in range(1, 4)]
    portal.deliver(*images)
    portal.run(30)
    portal.start()
    portal.run(30)
    assert portal.published() == {}
    (study,) = portal.open.values()
    assert "ddwd resume" in study.reason
    portal.requests.submit(Request("resume"))
    portal.run(10)
    assert portal.published() == names(*images)
    told = _told(portal)
    assert (told.count(Event.PAUSED), told.count(Event.RESUMED)) == (1, 1)


def test_who_paused_and_when_is_kept_over_a_restart_and_shown(portal: Portal) -> None:
    portal.requests.submit(Request("pause"))
    portal.run(1)
    paused_at = extractor_status(portal.extractor, StatusTotals(), portal.clock).paused_at
    portal.deliver(image())
    portal.run(30)
    portal.start()
    portal.run(30)
    shown = extractor_status(portal.extractor, StatusTotals(), portal.clock)
    me = getpass.getuser()
    assert (shown.paused, shown.paused_by, shown.paused_at) == (True, me, paused_at)
    (row,) = shown.in_flight
    assert row.reason == f"retrieving is paused by {me}; see: ddwd resume"
    (told,) = [fields for event, fields in portal.events if event is Event.PAUSED]
    assert told["DDWD_BY"] == me
    portal.requests.submit(Request("resume"))
    portal.run(1)
    shown = extractor_status(portal.extractor, StatusTotals(), portal.clock)
    assert (shown.paused, shown.paused_by, shown.paused_at) == (False, "", "")


@pytest.mark.parametrize(
    ("stored", "pause"),
    [
        (False, None),
        (None, None),
        (True, Pause()),  # by 0.2.0
        ({"by": "anna", "at": "2026-01-02T03:04:05Z"}, Pause("anna", "2026-01-02T03:04:05Z")),
    ],
)
def test_a_pause_of_an_older_version_is_one_by_nobody_known(stored: object, pause: Pause | None) -> None:
    assert Pause.of(stored) == pause


def test_a_study_that_comes_while_storage_is_down_is_shown_with_its_images_and_its_sender_from_then_on(
    portal: Portal,
) -> None:
    portal.storage.down = True
    portal.gateway.store(*(image(number=number) for number in range(1, 4)))
    portal.run(20)
    (row,) = extractor_status(portal.extractor, StatusTotals(), portal.clock).in_flight
    assert (row.on_gateway, row.on_storage, row.on_disk, row.instances) == (3, 0, 0, 3)
    assert (row.aet, row.study_uid, row.state) == ("CT1", "1.2.3.1", "waiting")
    (study,) = portal.open.values()
    first = study.timeline.hops["gateway"][0]
    assert first == row.newest_at
    portal.storage.down = False
    portal.run(3)
    (study,) = portal.open.values()
    assert study.timeline.hops["gateway"][0] == first, (
        "what was noted before the fault does not change after it"
    )
    portal.run(60)
    (done,) = extractor_status(portal.extractor, StatusTotals(), portal.clock).recent
    assert done.seconds > 20, "the time to the disk counts from the arrival, not from the end of the fault"


def _backlog(portal: Portal) -> Backlog:
    return extractor_status(portal.extractor, StatusTotals(), portal.clock).backlog


def test_images_that_wait_for_their_own_study_to_be_complete_are_no_backlog(portal: Portal) -> None:
    for number in range(1, 40):  # one in half a second, so that the study is never quiet
        portal.deliver(image(number=number))
        portal.run(0.5)
        assert _backlog(portal).publish == 0
    (study,) = portal.open.values()
    assert len(study.verified) > 30
    portal.config = replace(portal.config, forward=replace(portal.config.forward, mode="stable"))
    portal.start()
    portal.gateway.store(image(2), image(2, number=2))
    portal.run(1)
    assert _backlog(portal).storage == 0
    portal.run(4)
    assert _backlog(portal).storage == 2


def test_standing_counts_what_waits_before_each_hop_and_names_no_patient(portal: Portal) -> None:
    portal.gateway.store(*(image(number=number) for number in range(1, 6)))
    portal.storage.store(image(number=1), image(number=2))
    portal.requests.submit(Request("pause"))
    portal.run(2)
    body = EXTRACTOR.body(extractor_status(portal.extractor, StatusTotals(), portal.clock))
    assert body["paused"] is True
    assert body["backlog"] == {"storage": 3, "disk": 2, "publish": 0}
    (row,) = body["in_flight"]
    assert (row["on_gateway"], row["on_storage"], row["on_disk"], row["aet"]) == (5, 2, 0, "CT1")
    assert image().patient_id not in str(row)


def test_totals_rise_with_what_is_done_and_what_fails(portal: Portal) -> None:
    totals = StatusTotals()
    portal.deliver(image(number=1), image(number=2))
    for report in portal.run(20):
        totals.add(report, 0.1)
    totals.count_failure(Event.CONFLICT, "", {})
    totals.count_failure(Event.PUBLISHED, "", {})
    done = encode(totals.stored())
    assert (done["studies"], done["instances"], done["failures"]["conflict"]) == (1, 2, 1)
    assert done["bytes"] > 0
