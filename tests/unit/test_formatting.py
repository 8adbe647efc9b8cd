"""Times for people are local and name their zone; `--utc` shows the other."""

from __future__ import annotations

import os
import time

import pytest

from ddwd.cli import main as cli
from ddwd.status import formatting
from ddwd.tui import main as top

STAMP = "2026-07-31T22:59:58.123Z"


def _live_in(zone: str) -> None:
    """Set the local time zone; `_utc` of tests/conftest.py takes it back."""
    os.environ["TZ"] = zone
    time.tzset()


@pytest.mark.parametrize(
    ("zone", "minute", "day"),
    [
        ("UTC", "2026-07-31 22:59 UTC", "2026-07-31"),
        ("Europe/Berlin", "2026-08-01 00:59 CEST", "2026-08-01"),
        ("America/New_York", "2026-07-31 18:59 EDT", "2026-07-31"),
        ("Asia/Kathmandu", "2026-08-01 04:44 +0545", "2026-08-01"),
    ],
)
def test_a_time_for_people_is_local_and_names_its_zone(zone: str, minute: str, day: str) -> None:
    _live_in(zone)
    assert formatting.time(STAMP) == minute
    assert formatting.second(STAMP) == f"{minute[:16]}:58{minute[16:]}"
    assert formatting.day(STAMP) == day


def test_the_hour_that_comes_twice_a_year_is_told_apart_by_its_zone() -> None:
    _live_in("Europe/Berlin")
    twice = [formatting.time(f"2026-10-25T0{hour}:30:00Z") for hour in (0, 1)]
    assert twice == ["2026-10-25 02:30 CEST", "2026-10-25 02:30 CET"]


@pytest.mark.parametrize(("moment", "shown"), [(None, "never"), ("", "never"), ("soon\x1b[2J", "soon?[2J")])
def test_what_is_no_stamp_is_no_error(moment: str | None, shown: str) -> None:
    assert formatting.time(moment) == shown


def test_no_stamp_is_no_second() -> None:
    assert formatting.second("") == ""


def test_utc_is_asked_for_by_an_option_of_every_verb() -> None:
    _live_in("Europe/Berlin")
    assert cli.parser().parse_args(["status", "--utc"]).utc
    assert cli.parser().parse_args(["quarantine", "list", "--utc"]).utc
    assert top.parser().parse_args(["--utc"]).utc
    formatting.show_utc()
    assert formatting.time(STAMP) == "2026-07-31 22:59 UTC"
