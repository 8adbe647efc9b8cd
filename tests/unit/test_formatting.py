"""Times for people are local and name their zone; `--utc` shows the other."""

from __future__ import annotations

import os
import time

import pytest

from ddwd.cli import main as cli
from ddwd.status import formatting
from ddwd.tui import main as top

STAMP = "2026-07-31T22:59:58.123Z"


@pytest.fixture
def zone(request: pytest.FixtureRequest) -> str:
    """The local time zone of the test; `_utc` of tests/conftest.py takes it back."""
    os.environ["TZ"] = request.param
    time.tzset()
    return str(request.param)


@pytest.mark.parametrize(
    ("zone", "minute", "day"),
    [
        ("UTC", "2026-07-31 22:59 UTC", "2026-07-31"),
        ("Europe/Berlin", "2026-08-01 00:59 CEST", "2026-08-01"),
        ("America/New_York", "2026-07-31 18:59 EDT", "2026-07-31"),
        ("Asia/Kathmandu", "2026-08-01 04:44 +0545", "2026-08-01"),
    ],
    indirect=["zone"],
)
@pytest.mark.usefixtures("zone")
def test_a_time_for_people_is_local_and_names_its_zone(minute: str, day: str) -> None:
    assert formatting.time(STAMP) == minute
    assert formatting.second(STAMP) == f"{minute[:16]}:58{minute[16:]}"
    assert formatting.day(STAMP) == day


def test_the_hour_that_comes_twice_a_year_is_told_apart_by_its_zone() -> None:
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    twice = [formatting.time(f"2026-10-25T0{hour}:30:00Z") for hour in (0, 1)]
    assert twice == ["2026-10-25 02:30 CEST", "2026-10-25 02:30 CET"]


@pytest.mark.parametrize(("moment", "shown"), [(None, "never"), ("", "never"), ("soon\x1b[2J", "soon?[2J")])
def test_what_is_no_stamp_is_no_error(moment: str | None, shown: str) -> None:
    assert formatting.time(moment) == shown


def test_no_stamp_is_no_second() -> None:
    assert formatting.second("") == ""


def test_utc_is_asked_for_by_an_option_of_every_verb() -> None:
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    assert cli.parser().parse_args(["status", "--utc"]).utc
    assert cli.parser().parse_args(["quarantine", "list", "--utc"]).utc
    assert top.parser().parse_args(["--utc"]).utc
    formatting.show_utc()
    assert formatting.time(STAMP) == "2026-07-31 22:59 UTC"
