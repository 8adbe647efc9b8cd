"""What people are told: after a while, bundled, again with pauses, when it is over; never a flood, never twice over a restart."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ddwd.monitoring import alerts
from ddwd.monitoring.alerts import WEEKS, AlertState, Condition, ExpectedSenders, conditions
from ddwd.status.events import AuditEvent
from ddwd.status.report import Heartbeat, OrthancState, VolumeState
from ddwd.status.units import UNITS, Unit
from ddwd.store.status_files import (
    AcceptorStatus,
    ExtractorStatus,
    InFlightStudy,
    LostStatus,
    RefusalCount,
    RefusalKind,
    SelfTestResult,
    SenderStatus,
)
from tests.unit.test_flow import report

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.monitoring.alerts import Message

AFTER = 300.0
DOWN = {"unit-down ddwd-scp": Condition("ddwd-scp is failed")}


def _play(
    book: AlertState, found: dict[str, Condition], begin: float, seconds: float
) -> list[tuple[float, Message]]:
    """One look each five seconds; what was sent when."""
    sent = []
    for step in range(int(seconds / 5)):
        now = begin + step * 5
        message = book.update(found, now, "now")
        if message is not None:
            sent.append((now - begin, message))
    return sent


def test_what_passes_by_itself_is_not_told() -> None:
    book = AlertState(AFTER)
    assert _play(book, DOWN, 0, 290) == []
    assert _play(book, {}, 290, 600) == []


def test_what_lasts_is_told_then_again_with_growing_pauses_then_that_it_is_over() -> None:
    book = AlertState(AFTER)
    sent = _play(book, DOWN, 1000, 30 * 3600)
    assert [round(when / 3600) for when, _ in sent] == [0, 1, 5, 29]
    assert sent[0][0] == pytest.approx(360, abs=10)
    assert sent[0][1].subject == "ddwd-scp is failed"
    (over,) = _play(book, {}, 200_000, 600)
    assert over[1].subject == "over: ddwd-scp is failed"
    assert _play(book, {}, 300_000, 600) == []


def test_what_comes_together_is_one_message() -> None:
    book = AlertState(AFTER)
    (message,) = _play(book, {f"unit {n}": Condition(f"{n} is failed") for n in range(5)}, 0, 1000)
    assert len(message[1].standing) == 5
    assert message[1].subject == "0 is failed and 4 more"


def test_a_part_that_flaps_for_hours_is_no_flood() -> None:
    book, count = AlertState(0.0), 0
    for minute in range(0, 240, 4):
        count += len(_play(book, DOWN, minute * 60.0, 120))
        count += len(_play(book, {}, minute * 60.0 + 120, 120))
    assert count <= 4 * 12


def test_quarantine_is_told_at_once_and_again_only_when_it_grows() -> None:
    book = AlertState(AFTER)
    one = {"quarantine": Condition("1 image waits in quarantine", 1)}
    two = {"quarantine": Condition("2 images wait in quarantine", 2)}
    assert len(_play(book, one, 0, 300)) == 1
    assert len(_play(book, two, 300, 300)) == 1
    assert _play(book, one, 600, 300) == []


def test_the_number_of_images_decides_what_is_news_and_not_the_wording() -> None:
    book = AlertState(AFTER)
    assert len(_play(book, {"quarantine": Condition("in quarantine: one image", 1)}, 0, 300)) == 1
    assert (
        _play(book, {"quarantine": Condition("999 in quarantine is the place of one image", 1)}, 300, 300)
        == []
    )
    assert len(_play(book, {"quarantine": Condition("in quarantine: many images", 1000)}, 600, 300)) == 1


def test_the_state_of_a_version_without_counts_is_read_and_tells_nothing_twice(tmp_path: Path) -> None:
    book, two = AlertState(AFTER), {"quarantine": Condition("2 images wait in quarantine", 2)}
    assert len(_play(book, two, 0, 300)) == 1
    alerts.FORMAT.write(tmp_path / "alerts.json", book)
    body = json.loads((tmp_path / "alerts.json").read_bytes())
    del body["counts"]
    (tmp_path / "alerts.json").write_text(json.dumps(body))
    again = alerts.load(tmp_path / "alerts.json", AFTER)
    assert _play(again, two, 300, 300) == []
    assert len(_play(again, {"quarantine": Condition("3 images wait in quarantine", 3)}, 600, 300)) == 1


def test_a_restart_tells_nothing_twice(tmp_path: Path) -> None:
    book = AlertState(AFTER)
    assert len(_play(book, DOWN, 0, 1000)) == 1
    alerts.FORMAT.write(tmp_path / "alerts.json", book)
    again = alerts.load(tmp_path / "alerts.json", AFTER)
    assert _play(again, DOWN, 1000, 1000) == []
    (tmp_path / "alerts.json").write_text("{")
    assert alerts.load(tmp_path / "alerts.json", AFTER).standing == {}


def test_the_state_of_a_version_without_codes_is_no_message_that_all_is_over(tmp_path: Path) -> None:
    book = AlertState(AFTER)
    assert len(_play(book, {"heart scp": Condition("the scp does not run")}, 0, 1000)) == 1
    alerts.FORMAT.write(tmp_path / "alerts.json", book)
    assert _play(alerts.load(tmp_path / "alerts.json", AFTER), {}, 1000, 1000) == []


def test_a_shared_ledger_that_is_away_is_a_condition() -> None:
    away = ExtractorStatus(peers={"gateway": "ok", "ledger": "the shared ledger does not answer: timeout"})
    found = conditions(report(hearts=(Heartbeat("extractor", 1.0, away),)).problems)
    assert list(found) == ["ledger-unreached"]
    well = ExtractorStatus(peers={"gateway": "ok", "ledger": "ok"})
    assert conditions(report(hearts=(Heartbeat("extractor", 1.0, well),)).problems) == {}


def test_every_kind_of_trouble_is_a_condition_and_a_sound_portal_has_none() -> None:
    assert conditions(report().problems) == {}
    bad = report(
        units=tuple(Unit(name, "failed", "", 0, "") for name in UNITS[:1]),
        servers=(OrthancState("gateway", "ORTHANC1", problem="away"), OrthancState("storage", "ORTHANC2")),
        hearts=(Heartbeat("scp", None, problem="none"), Heartbeat("extractor", 1.0)),
        volumes=(VolumeState("output", "/x", level="warn", hours_left=3.0),),
        counts={"waiting": 2},
        in_flight=(InFlightStudy(blocker="refused"),),
        quarantine=3,
        two_patients=2,
        lost=LostStatus(1, 5, 2, "2026-01-02T03:00:00.000Z", "1.2.3"),
        self_test=SelfTestResult(ok=False, text="nothing came"),
    )
    silent = alerts.silence("CT1", datetime(2026, 1, 2, 7, tzinfo=UTC))
    found = conditions((*bad.problems, silent))
    assert found["quarantine"].count == 3
    assert found["two-patients"].count == 2
    assert {key.split(" ")[0] for key in found} == {
        *(
            "unit-down",
            "volume-short",
            "images-refused",
            "quarantine",
            "two-patients",
            "images-lost",
            "sender-silent",
        ),
    }
    # what comes of the unit is told with it
    assert "ddwd is failed (4 consequences)" in found["unit-down ddwd"].text


MONDAY = datetime(2026, 2, 2, tzinfo=UTC).astimezone()


def _habits(*sent: datetime, aet: str = "CT1") -> ExpectedSenders:
    habits = ExpectedSenders()
    habits.learn(
        AuditEvent(moment.astimezone(UTC).isoformat(), "received", "", "", "", {"aet": aet})
        for moment in sent
    )
    return habits


def _mondays(hour: int, weeks: int = WEEKS) -> list[datetime]:
    return [MONDAY - timedelta(weeks=week) + timedelta(hours=hour) for week in range(1, weeks + 1)]


def test_a_modality_that_always_sends_by_then_and_does_not_is_silent() -> None:
    habits = _habits(*_mondays(7))
    assert habits.silent(MONDAY + timedelta(hours=7, minutes=30)) == {}
    assert list(habits.silent(MONDAY + timedelta(hours=8, minutes=5))) == ["CT1"]


def test_one_that_sent_a_little_earlier_is_not() -> None:
    habits = _habits(*_mondays(7), MONDAY + timedelta(hours=6))
    assert habits.silent(MONDAY + timedelta(hours=8, minutes=5)) == {}


def test_a_new_one_and_one_without_a_habit_are_left_alone() -> None:
    assert _habits(*_mondays(7, WEEKS - 1)).silent(MONDAY + timedelta(hours=8, minutes=5)) == {}
    assert _habits(*_mondays(7)).silent(MONDAY + timedelta(days=6, hours=8)) == {}


def test_the_portals_own_tests_are_nobodys_habit() -> None:
    habits = _habits(*_mondays(7), aet="DDWD_SELFTEST")
    assert habits.silent(MONDAY + timedelta(hours=8, minutes=5)) == {}


def test_one_that_was_taken_away_is_forgotten() -> None:
    old = [moment - timedelta(weeks=2) for moment in _mondays(7)]
    assert _habits(*old).silent(MONDAY + timedelta(hours=8, minutes=5)) == {}


def test_a_refused_modality_is_told_while_it_is_refused_and_a_long_list_of_contexts_never() -> None:
    def found(*reasons: RefusalCount) -> dict[str, str]:
        senders = (SenderStatus("CT1", "10.0.0.5", reasons=reasons),)
        acceptor = Heartbeat("acceptor", 1.0, AcceptorStatus(associations=1, limit=600, senders=senders))
        told = alerts.conditions(report(acceptor=acceptor).problems)
        return {key: condition.text for key, condition in told.items()}

    stamp = "2026-01-02T03:04:05.000Z"
    contexts = RefusalCount(RefusalKind.CONTEXT, "C-FIND is not offered here", 500, stamp)
    image = RefusalCount(RefusalKind.IMAGE, "no StudyInstanceUID", 1, stamp, "0xC000", standing=True)
    assert found(contexts, replace(image, standing=False)) == {}
    told = found(contexts, image)
    assert list(told) == ["sender-refused CT1 10.0.0.5"]
    text = told["sender-refused CT1 10.0.0.5"]
    assert "CT1 at 10.0.0.5 is refused: 1 x image, 0xC000: no StudyInstanceUID" in text
