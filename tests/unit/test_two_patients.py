"""One StudyInstanceUID under two patients: both are published, and somebody is asked to decide, once for each pair."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import pytest

from ddwd.core.audit import Event
from ddwd.store.custody import Custody
from ddwd.store.operator_requests import Request
from tests.unit.fakes import FakeOrthanc, image
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.core.model import OrthancId
    from ddwd.extractor.quarantine import Entry
    from ddwd.store.custody import Record
    from tests.unit.fakes import Image

MINE = [image(number=number, patient="A") for number in range(1, 4)]
THEIRS = [image(number=number, patient="B") for number in range(1, 4)]
THIRD = [image(number=number, patient="C") for number in range(1, 4)]


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    return Portal(tmp_path)


def _deliver(portal: Portal, *images: Image) -> None:
    portal.deliver(*images)
    portal.storage.settle(images[0].study_id)
    portal.run(15)


def _waiting(portal: Portal) -> list[Entry]:
    return [entry for entry in portal.quarantine.entries() if entry.subject.kind == "two-patients"]


def _decide(portal: Portal) -> None:
    for entry in _waiting(portal):
        portal.requests.submit(Request("release", item=entry.id))
    portal.run(2)


def _events(portal: Portal, event: Event) -> list[dict[str, str]]:
    return [fields for happened, fields in portal.events if happened is event]


def test_both_studies_stay_and_the_later_one_waits_for_somebody_to_decide(portal: Portal) -> None:
    _deliver(portal, *MINE)
    assert portal.quarantine.entries() == []
    _deliver(portal, *THEIRS)
    assert portal.published() == names(*MINE, *THEIRS)
    [entry] = portal.quarantine.entries()
    subject = entry.subject
    assert (subject.kind, subject.study, subject.study_uid) == (
        "two-patients",
        THEIRS[0].study_id,
        MINE[0].study_uid,
    )
    assert MINE[0].study_id in subject.reason
    assert (entry.file, entry.size) == (None, 0)
    assert (portal.quarantine.count(), portal.quarantine.count_two_patients()) == (0, 1)
    [event] = _events(portal, Event.TWO_PATIENTS)
    assert event == {
        "DDWD_EVENT": "two-patients",
        "DDWD_STUDY": THEIRS[0].study_id,
        "DDWD_STUDY_UID": MINE[0].study_uid,
        "DDWD_ENTRY": entry.id,
    }


def test_two_that_arrive_at_once_are_one_entry(portal: Portal) -> None:
    portal.deliver(*MINE, *THEIRS)
    portal.run(20)
    assert len(_waiting(portal)) == len(_events(portal, Event.TWO_PATIENTS)) == 1
    assert portal.published() == names(*MINE, *THEIRS)


def test_other_images_under_the_same_study_uid_are_two_patients_too(portal: Portal) -> None:
    _deliver(portal, *MINE[:2])
    _deliver(portal, THEIRS[2])
    assert len(_waiting(portal)) == 1


def test_a_study_of_another_uid_a_retry_and_late_images_of_one_patient_are_none(portal: Portal) -> None:
    _deliver(portal, *MINE[:2])
    _deliver(portal, image(2, patient="B"))
    _deliver(portal, MINE[2])
    _deliver(portal, *MINE)
    portal.requests.submit(Request("retry", MINE[0].study_id))
    portal.run(15)
    assert portal.quarantine.entries() == []
    assert _events(portal, Event.TWO_PATIENTS) == []


def test_a_study_that_is_not_published_yet_is_named_when_it_is(portal: Portal) -> None:
    portal.gateway.store(*MINE)
    portal.gateway.unsendable = {one.orthanc_id for one in MINE}
    _deliver(portal, *THEIRS)
    assert portal.published() == names(*THEIRS)
    assert _waiting(portal) == []
    portal.gateway.unsendable = set()
    portal.run(60)
    [entry] = _waiting(portal)
    assert entry.subject.study == MINE[0].study_id


def test_a_decision_is_recorded_moves_no_image_and_holds_for_late_images_and_restarts(portal: Portal) -> None:
    _deliver(portal, *MINE[:2])
    _deliver(portal, *THEIRS[:2])
    _decide(portal)
    assert portal.quarantine.entries() == []
    [asked] = _events(portal, Event.REQUESTED)
    [decided] = _events(portal, Event.RELEASED)
    assert (asked["DDWD_BY"], asked["DDWD_ENTRY"]) == (
        pwd.getpwuid(os.getuid()).pw_name,
        decided["DDWD_ENTRY"],
    )
    assert decided["DDWD_STUDY"] == THEIRS[0].study_id
    for late in (MINE[2], THEIRS[2]):
        portal.start()
        _deliver(portal, late)
        portal.requests.submit(Request("retry", late.study_id))
        portal.run(15)
    assert portal.published() == names(*MINE, *THEIRS)
    assert portal.quarantine.entries() == []
    assert len(_events(portal, Event.TWO_PATIENTS)) == 1


def test_before_a_decision_late_images_and_restarts_raise_nothing_more(portal: Portal) -> None:
    _deliver(portal, *MINE[:2])
    _deliver(portal, *THEIRS[:2])
    before = portal.quarantine.entries()
    portal.start()
    _deliver(portal, MINE[2])
    _deliver(portal, THEIRS[2])
    assert portal.quarantine.entries() == before
    assert len(_events(portal, Event.TWO_PATIENTS)) == 1


def test_a_third_patient_is_another_decision(portal: Portal) -> None:
    _deliver(portal, *MINE)
    _deliver(portal, *THEIRS)
    _decide(portal)
    _deliver(portal, *THIRD)
    [entry] = _waiting(portal)
    assert entry.subject.study == THIRD[0].study_id
    assert all(one[0].study_id in entry.subject.reason for one in (MINE, THEIRS))


def test_a_study_that_was_removed_from_both_orthancs_is_no_longer_compared(portal: Portal) -> None:
    _deliver(portal, *MINE)
    for orthanc in (portal.gateway, portal.storage):
        orthanc.delete_study(MINE[0].study_id)
    _deliver(portal, *THEIRS)
    assert _waiting(portal) == []


def test_an_orthanc_that_fails_when_it_is_asked_makes_the_study_wait_and_hides_nothing(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    _deliver(portal, *MINE)
    real, failures = FakeOrthanc.find_study, [True, True]

    def flaky(orthanc: FakeOrthanc, text: str) -> list:  # type: ignore[type-arg]
        orthanc.down = bool(failures and failures.pop())
        try:
            return real(orthanc, text)
        finally:
            orthanc.down = False

    monkeypatch.setattr(FakeOrthanc, "find_study", flaky)
    _deliver(portal, *THEIRS)
    assert failures == []
    assert portal.published() == names(*MINE, *THEIRS)
    assert len(_waiting(portal)) == 1
    assert portal.open == {}


def test_a_publication_asks_each_orthanc_once_however_many_studies_there_are(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 6):
        _deliver(portal, image(number, patient=f"P{number}"))
    asked: list[str] = []
    read: list[OrthancId] = []
    real, read_record = FakeOrthanc.find_study, Custody.read

    def counted(orthanc: FakeOrthanc, text: str) -> list:  # type: ignore[type-arg]
        asked.append(orthanc.name)
        return real(orthanc, text)

    def noted(custody: Custody, study: OrthancId) -> Record | None:
        read.append(study)
        return read_record(custody, study)

    monkeypatch.setattr(FakeOrthanc, "find_study", counted)
    monkeypatch.setattr(Custody, "read", noted)
    newest = image(9, patient="P9")
    portal.deliver(newest)
    portal.run(10)
    assert sorted(asked) == ["gateway", "storage"]
    assert set(read) == {newest.study_id}


def test_a_damaged_note_is_still_an_entry_about_two_patients(tmp_path: Path) -> None:
    portal = Portal(tmp_path)
    _deliver(portal, *MINE)
    _deliver(portal, *THEIRS)
    [entry] = _waiting(portal)
    entry.note.write_text("{", encoding="ascii")
    assert [found.subject.kind for found in portal.quarantine.entries()] == ["two-patients"]
