"""A modality is told that an image is committed only where it is: by the file, for this SOP class, and never for one that is disputed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.commitment.responder import CommitmentResponder
from ddwd.commitment.verifier import CommitmentResult, CommitmentVerifier, Reason
from ddwd.config.loader import load
from ddwd.config.parsers import Station
from ddwd.config.retention import Retention
from ddwd.config.schema import Config
from ddwd.core.audit import Audit, Event
from ddwd.core.errors import ConfigError, InvalidValueError, PeerDownError, PeerRefusedError
from ddwd.extractor.quarantine import read_entries
from ddwd.orthanc.client import Orthanc
from ddwd.store.commitment_queue import (
    CommitmentIntake,
    CommitmentQueue,
    CommitmentRequest,
    Reference,
    commitment_request,
)
from ddwd.store.operator_requests import Request
from tests.unit.fakes import FakeClock, Image, image, one_error, power_cut
from tests.unit.planted import PLANTED
from tests.unit.portal import Portal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
TRANSACTION = "1.2.3.99"
ONE, OTHER = image(number=1), image(number=2)
STATION = Station("CT1", "10.1.2.3", 104)
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _of(*images: Image, sop_class: str = CT) -> tuple[Reference, ...]:
    return tuple(Reference(sop_class, one.sop_uid) for one in images)


class Site:
    """The portal over its fakes, a modality that asks, and what it is told."""

    def __init__(self, folder: Path, *, verified: bool = False) -> None:
        self.portal = Portal(folder)
        self.clock = self.portal.clock
        self.verified = verified
        self.told: list[tuple[Station, str, CommitmentResult]] = []
        self.trouble: Exception | None = None
        self.reports = 0
        self.events: list[tuple[Event, dict[str, str]]] = []
        self.portal.paths.commitments.mkdir()
        self.commitments = CommitmentQueue(self.portal.paths.commitments)
        self.start()

    def start(self, *stations: Station, wait: float = 60.0) -> None:
        """Start the daemon's part on what is on disk."""
        self.verifier = CommitmentVerifier(
            [self.portal.gateway, self.portal.storage],
            self.portal.custody,
            self.portal.paths,
            verified=self.verified,
        )
        audit = Audit(lambda event, _message, fields: self.events.append((event, fields)))
        self.intake = CommitmentIntake(self.commitments, audit, self.clock)
        self.responder = CommitmentResponder(
            self.commitments, self.verifier, stations or (STATION,), self._report, audit, self.clock, wait
        )

    def _report(self, station: Station, transaction: str, answer: CommitmentResult) -> None:
        self.reports += 1
        if self.trouble is not None:
            raise self.trouble
        self.told.append((station, transaction, answer))

    def ask(self, *images: Image, sop_class: str = CT, aet: str = "CT1") -> None:
        uids = [one.sop_uid for one in images]
        self.intake.take(aet, TRANSACTION, [sop_class] * len(uids), uids)

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.responder.turn()
            self.clock.advance(1)

    def judge(self, *references: Reference) -> dict[Reference, Reason | None]:
        """What would be said now."""
        answer = self.verifier.answer(self.verifier.look(references))
        return dict.fromkeys(answer.committed) | dict(answer.failed)

    def published(self) -> list[Path]:
        output = self.portal.paths.output
        return sorted(path for path in output.rglob("*.dcm") if ".ddwd" not in path.parts)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def strict(tmp_path: Path) -> Site:
    return Site(tmp_path, verified=True)


# --- what is true ----------------------------------------------------------------------------------------------------


def test_what_is_stored_whole_is_committed_and_what_never_came_is_not(site: Site) -> None:
    site.portal.gateway.store(ONE)
    known, unknown = _of(ONE, OTHER)
    assert site.judge(known, unknown) == {known: None, unknown: Reason.NO_SUCH_OBJECT}


def test_another_sop_class_is_a_conflict_of_class_and_instance(site: Site) -> None:
    site.portal.gateway.store(ONE)
    (wrong,) = _of(ONE, sop_class=MR)
    assert site.judge(wrong) == {wrong: Reason.CLASS_CONFLICT}


def test_an_image_that_is_listed_and_whose_file_is_lost_is_not_committed(site: Site) -> None:
    site.portal.gateway.store(ONE)
    site.portal.gateway.fileless.add(ONE.orthanc_id)
    (lost,) = _of(ONE)
    assert site.judge(lost) == {lost: Reason.PROCESSING_FAILURE}


def test_what_only_storage_still_has_is_committed(site: Site) -> None:
    site.portal.storage.store(ONE)
    (kept,) = _of(ONE)
    assert site.judge(kept) == {kept: None}


def test_of_an_image_under_two_patients_both_must_be_whole(site: Site) -> None:
    twin = image(patient="PAT2")
    site.portal.gateway.store(ONE, twin)
    (both,) = _of(ONE)
    assert site.judge(both) == {both: None}
    site.portal.gateway.fileless.add(twin.orthanc_id)
    assert site.judge(both) == {both: Reason.PROCESSING_FAILURE}


def _put_aside(site: Site, other: bytes) -> None:
    folder = site.portal.paths.conflicts("gateway")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{ONE.orthanc_id}.{'0' * 32}.dcm").write_bytes(other)


def test_an_image_of_which_other_content_came_too_is_not_committed_until_a_person_has_looked(
    site: Site,
) -> None:
    site.portal.deliver(ONE)
    site.portal.run()
    (disputed,) = _of(ONE)
    assert site.judge(disputed) == {disputed: None}
    _put_aside(site, image(pixels=b"x" * 64).content)
    assert site.judge(disputed) == {disputed: Reason.PROCESSING_FAILURE}
    site.portal.run()
    (entry,) = site.portal.quarantine.entries()
    assert site.judge(disputed) == {disputed: Reason.PROCESSING_FAILURE}
    site.portal.quarantine.release(entry)
    assert site.judge(disputed) == {disputed: None}


def test_a_conflict_that_moves_to_quarantine_while_it_is_judged_is_disputed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.portal.deliver(ONE)
    site.portal.run()
    _put_aside(site, image(pixels=b"x" * 64).content)
    (disputed,) = _of(ONE)
    moved: list[bool] = []

    def then_move(read: Callable[..., Any]) -> Callable[..., Any]:
        def reading(*arguments: Any) -> Any:
            found = read(*arguments)
            if not moved:
                moved.append(True)
                site.portal.run()
            return found

        return reading

    monkeypatch.setattr("ddwd.commitment.verifier.read_entries", then_move(read_entries))
    monkeypatch.setattr(CommitmentVerifier, "_conflicts", then_move(CommitmentVerifier._conflicts))
    assert site.judge(disputed) == {disputed: Reason.PROCESSING_FAILURE}
    assert site.portal.quarantine.entries()


class _Limited(Orthanc):
    """An Orthanc with LimitFindInstances 2 that holds five images."""

    def __init__(self) -> None:
        super().__init__("gateway", "http://127.0.0.1:1", "u", "p")
        self.searches = 0

    def _json(self, _method: str, _path: str, body: Any = None) -> Any:
        self.searches += 1
        asked_for = body["Query"]["SOPInstanceUID"].split("\\")
        known = [uid for uid in (f"1.2.{number}" for number in range(5)) if uid in asked_for]
        return [
            {
                "ID": uid,
                "ParentSeries": "s",
                "MainDicomTags": {"SOPInstanceUID": uid},
                "Metadata": {"SopClassUid": CT},
            }
            for uid in known[:2]
        ]


def test_a_limit_of_orthancs_answers_makes_no_image_unknown() -> None:
    orthanc = _Limited()
    found = orthanc.find_images([f"1.2.{number}" for number in range(9)] + ["no UID", "*"])
    assert {one.sop_uid: one.sop_class for one in found} == {f"1.2.{number}": CT for number in range(5)}
    assert orthanc.searches == 4


def test_what_a_rule_leaves_where_it_is_is_not_waited_for(strict: Site) -> None:
    strict.portal.deliver(ONE, OTHER)
    strict.portal.run()
    record = strict.portal.custody.read(ONE.study_id)
    assert record is not None
    others = {OTHER.orthanc_id: record.images[OTHER.orthanc_id]}
    strict.portal.custody.write(replace(record, images=others, passed=[ONE.orthanc_id]))
    strict.ask(ONE)
    strict.responder.turn()
    assert [list(answer.failed.values()) for _, _, answer in strict.told] == [[Reason.PROCESSING_FAILURE]]


def test_verified_is_what_is_on_disk_as_recorded(strict: Site) -> None:
    strict.portal.deliver(ONE)
    (wanted,) = _of(ONE)
    assert strict.judge(wanted) == {wanted: Reason.PROCESSING_FAILURE}
    strict.portal.run()
    assert strict.judge(wanted) == {wanted: None}


def test_verified_stays_so_once_retention_has_taken_the_file_and_storage_has_it_whole(strict: Site) -> None:
    portal = strict.portal
    portal.config = replace(portal.config, retention=Retention(output_days=0))
    portal.start()
    portal.deliver(ONE)
    portal.run(10)
    portal.requests.submit(Request("retention"))
    portal.run(10)
    (wanted,) = _of(ONE)
    assert (portal.published(), strict.judge(wanted)) == ({}, {wanted: None})
    assert strict.verifier.is_settled(strict.verifier.look([wanted]))
    portal.gateway.fileless.add(ONE.orthanc_id)
    portal.storage.fileless.add(ONE.orthanc_id)
    assert strict.judge(wanted) == {wanted: Reason.PROCESSING_FAILURE}


@pytest.mark.parametrize("damage", ["gone", "flipped", "link", "record"])
def test_a_published_image_that_is_not_as_recorded_is_not_committed(strict: Site, damage: str) -> None:
    strict.portal.deliver(ONE)
    strict.portal.run()
    (path,) = strict.published()
    whole = path.read_bytes()
    if damage == "record":
        strict.portal.custody.path(ONE.study_id).write_bytes(b"{}")
    else:
        path.unlink()
    if damage == "flipped":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    if damage == "link":
        elsewhere = strict.portal.paths.state / "elsewhere"
        elsewhere.write_bytes(whole)
        path.symlink_to(elsewhere)
    (wanted,) = _of(ONE)
    assert strict.judge(wanted) == {wanted: Reason.PROCESSING_FAILURE}


# --- when it is said -------------------------------------------------------------------------------------------------


def test_what_is_stored_is_answered_at_once_with_both_parts(site: Site) -> None:
    site.portal.gateway.store(ONE)
    site.ask(ONE, OTHER)
    site.responder.turn()
    (station, transaction, answer) = site.told[0]
    assert (station, transaction) == (STATION, TRANSACTION)
    assert answer == CommitmentResult(_of(ONE), {_of(OTHER)[0]: Reason.NO_SUCH_OBJECT})
    assert site.commitments.waiting() == []
    site.wait(60)
    assert len(site.told) == 1
    assert [event for event, _ in site.events] == [Event.COMMITMENT_ASKED, Event.COMMITMENT_ANSWERED]
    fields = site.events[1][1]
    assert (fields["DDWD_AET"], fields["DDWD_INSTANCES"], fields["DDWD_FAILED"]) == ("CT1", "1", "1")
    assert fields["DDWD_TRANSACTION"] == TRANSACTION


def test_verified_waits_until_the_study_is_on_disk(strict: Site) -> None:
    strict.portal.deliver(ONE, OTHER)
    strict.ask(ONE, OTHER)
    strict.wait(30)
    assert strict.told == []
    strict.portal.run()
    strict.responder.turn()
    assert [answer for _, _, answer in strict.told] == [CommitmentResult(_of(ONE, OTHER), {})]


def test_verified_says_so_when_its_time_is_over_and_commits_the_others(strict: Site) -> None:
    strict.portal.deliver(ONE)
    strict.portal.run()
    strict.portal.gateway.store(OTHER)
    strict.ask(ONE, OTHER)
    strict.wait(59)
    assert strict.told == []
    strict.wait(2)
    assert [answer for _, _, answer in strict.told] == [
        CommitmentResult(_of(ONE), {_of(OTHER)[0]: Reason.PROCESSING_FAILURE})
    ]


def test_what_cannot_come_any_more_is_not_waited_for(strict: Site) -> None:
    strict.portal.gateway.store(ONE)
    strict.ask(ONE, sop_class=MR)
    strict.responder.turn()
    strict.ask(OTHER)
    strict.responder.turn()
    assert [list(answer.failed.values()) for _, _, answer in strict.told] == [
        [Reason.CLASS_CONFLICT],
        [Reason.NO_SUCH_OBJECT],
    ]


def test_a_restart_loses_no_request_and_no_second_of_its_waiting(strict: Site) -> None:
    strict.portal.deliver(ONE)
    strict.ask(ONE)
    strict.wait(40)
    strict.start()
    strict.wait(19)
    assert strict.told == []
    strict.wait(3)
    assert [len(answer.failed) for _, _, answer in strict.told] == [1]


@pytest.mark.parametrize("verified", [False, True])
def test_nothing_is_said_while_an_orthanc_is_away(tmp_path: Path, *, verified: bool) -> None:
    site = Site(tmp_path, verified=verified)
    site.portal.deliver(ONE)
    site.portal.run()
    site.ask(ONE, OTHER)
    site.portal.gateway.down = True
    site.wait(200)
    assert site.told == []
    site.portal.gateway.down = False
    site.responder.turn()
    assert [answer.committed for _, _, answer in site.told] == [_of(ONE)]


def test_a_modality_that_is_away_is_tried_ever_more_rarely_and_hears_what_is_true_then(site: Site) -> None:
    site.portal.gateway.store(ONE)
    site.ask(ONE)
    site.trouble = PeerDownError("it does not answer")
    site.wait(3600)
    assert 8 <= site.reports <= 14
    site.trouble = None
    site.portal.gateway.fileless.add(ONE.orthanc_id)
    site.wait(601)
    assert [list(answer.failed.values()) for _, _, answer in site.told] == [[Reason.PROCESSING_FAILURE]]


def test_one_that_is_away_holds_up_no_other(site: Site) -> None:
    site.start(STATION, Station("MR1", "10.1.2.4", 104))
    site.portal.gateway.store(ONE, OTHER)
    site.ask(ONE)
    site.trouble = PeerDownError("it does not answer")
    site.responder.turn()
    site.trouble = None
    site.ask(OTHER, aet="mr1")
    site.ask(OTHER)
    site.responder.turn()
    assert [station.aet for station, _, _ in site.told] == ["MR1"]
    site.wait(12)
    assert len(site.told) == 3


@pytest.mark.parametrize("trouble", [PeerDownError("away"), PeerRefusedError("no", 0x0110)])
def test_after_a_day_it_is_given_up_and_told(site: Site, trouble: Exception) -> None:
    site.portal.gateway.store(ONE)
    site.ask(ONE)
    site.trouble = trouble
    for _ in range(160):
        site.responder.turn()
        site.clock.advance(600)
    assert site.commitments.waiting() == []
    assert site.told == []
    assert [event for event, _ in site.events].count(Event.COMMITMENT_FAILED) == 1


def test_one_that_is_no_longer_listed_is_not_answered(site: Site) -> None:
    site.portal.gateway.store(ONE)
    site.ask(ONE, aet="CT9")
    site.responder.turn()
    assert (site.told, site.commitments.waiting()) == ([], [])
    assert site.events[-1][0] == Event.COMMITMENT_FAILED


# --- what is asked ---------------------------------------------------------------------------------------------------


def test_the_same_request_again_while_it_waits_is_one(site: Site) -> None:
    site.ask(ONE)
    site.ask(ONE)
    assert len(site.commitments.waiting()) == 1


def test_a_request_is_read_as_it_was_written(site: Site) -> None:
    request = commitment_request(
        " CT1 ", f"{TRANSACTION}\0", [CT, CT, f"{MR} "], ["1.2", "1.2", "1.3\0"], MOMENT
    )
    assert request == CommitmentRequest(
        "CT1", TRANSACTION, MOMENT, (Reference(CT, "1.2"), Reference(MR, "1.3"))
    )
    site.commitments.add(request)
    (path,) = site.commitments.waiting()
    assert site.commitments.read(path) == request


@pytest.mark.parametrize(
    ("transaction", "sop_classes", "sop_uids"),
    [("", [CT], ["1.2"]), ("1.2 3", [CT], ["1.2"]), ("1.2", [], []), ("1.2", [CT], ["A"]), ("1.2", ["x"], ["1.2"])],
)  # fmt: skip
def test_what_is_no_request_is_not_kept_and_told(
    site: Site, transaction: str, sop_classes: list[str], sop_uids: list[str]
) -> None:
    site.intake.take("CT1", transaction, sop_classes, sop_uids)
    assert site.commitments.waiting() == []
    assert [event for event, _ in site.events] == [Event.COMMITMENT_FAILED]


def test_a_flood_of_requests_ends_at_a_thousand(site: Site) -> None:
    for number in range(999):
        (site.portal.paths.commitments / f"{number}.json").touch()
    for number in range(2):
        site.intake.take("CT1", f"1.2.{number}", [CT], ["1.2.3"])
    assert len(site.commitments.waiting()) == 1000
    assert [event for event, _ in site.events] == [Event.COMMITMENT_ASKED, Event.COMMITMENT_FAILED]


def test_where_nobody_answers_nothing_is_kept(site: Site) -> None:
    told: list[Event] = []
    audit = Audit(lambda event, _message, _fields: told.append(event))
    CommitmentIntake(None, audit, FakeClock()).take("CT1", TRANSACTION, [CT], ["1.2"])
    assert told == [Event.COMMITMENT_FAILED]


def test_a_power_cut_leaves_a_whole_request_or_none(tmp_path: Path) -> None:
    request = commitment_request("CT1", TRANSACTION, [CT], ["1.2"], MOMENT)
    steps, cut = 0, True
    while cut:
        commitments = CommitmentQueue(tmp_path / str(steps))
        (tmp_path / str(steps)).mkdir()
        cut = power_cut(steps, lambda: commitments.add(request))  # noqa: B023 - called at once
        assert [commitments.read(path) for path in commitments.waiting()] in ([], [request])
        commitments.add(request)
        assert [commitments.read(path) for path in commitments.waiting()] == [request]
        steps += 1
    assert steps > 2


def test_a_disk_that_fails_is_told(site: Site) -> None:
    one_error(0, OSError(5, "I/O error"), lambda: site.ask(ONE))
    assert [event for event, _ in site.events] == [Event.COMMITMENT_FAILED]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"schema": 2}', b"\xff", b"[" * 100_000])
def test_a_damaged_request_is_told_and_taken_away(site: Site, content: bytes) -> None:
    path = site.portal.paths.commitments / f"{'0' * 32}.json"
    path.write_bytes(content)
    with pytest.raises(InvalidValueError):
        site.commitments.read(path)
    site.responder.turn()
    assert site.commitments.waiting() == []
    assert [event for event, _ in site.events] == [Event.COMMITMENT_FAILED]


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_no_file_among_the_requests_is_put_aside_and_the_others_are_answered(
    site: Site, planted: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = site.portal.paths.commitments
    PLANTED[planted](folder / f"{'0' * 32}.json")
    site.portal.deliver(ONE)
    site.portal.run(20)
    site.ask(ONE)
    site.wait(2)
    assert len(site.told) == 1
    assert {path.name for path in folder.iterdir()} - {"elsewhere"} == {f"{'0' * 32}.bad"}
    assert "renamed to *.bad" in caplog.text


# --- the settings ----------------------------------------------------------------------------------------------------


def _load(folder: Path, text: str) -> Config:
    path = folder / "ddwd.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, {"DDWD_DEFAULTS": str(folder / "none")})


def test_modalities_are_titles_with_their_place(tmp_path: Path) -> None:
    text = "commitment:\n  modalities: [CT1 at 10.1.2.3:104, US at ROOM at 10.1.2.4:11112]\n  after: verified\n  wait: 5\n"
    found = _load(tmp_path, text).commitment
    assert found.modalities == (STATION, Station("US at ROOM", "10.1.2.4", 11112))
    assert (found.after, found.wait) == ("verified", 5.0)
    again = f"commitment:\n  modalities: {json.dumps([str(one) for one in found.modalities])}\n"
    assert _load(tmp_path, again).commitment.modalities == found.modalities


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("CT1", "is not an AE title with its address and port"),
        ("CT1 at ct1.example.org:104", 'write "AET at ADDRESS:PORT"'),
        ("CT1 at 10.1.2.3", "is not an AE title with its address and port"),
        ("CT1 at 10.1.2.333:104", "10.1.2.333"),
        ("CT1 at 10.1.2.3:0", "there is no port 0"),
        ("CT1 at 10.1.2.3:65536", "there is no port 65536"),
        ("A_TITLE_THAT_IS_TOO_LONG at 10.1.2.3:104", "an AE title has 1 to 16"),
        (" at 10.1.2.3:104", "is not an AE title"),
        ("CT1 at 10.1.2.3:104, ct1 at 10.1.2.4:104", "ct1 is listed twice; give each AE title one place"),
    ],
)
def test_what_is_wrong_with_a_modality_is_told_with_what_to_write(
    tmp_path: Path, entry: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, f"commitment:\n  modalities: [{entry}]\n")
    (line,) = str(caught.value).splitlines()
    assert "ddwd.yaml:2: commitment.modalities: " in line
    assert said in line


def test_by_default_nobody_is_answered() -> None:
    assert replace(Config()).commitment.modalities == ()
