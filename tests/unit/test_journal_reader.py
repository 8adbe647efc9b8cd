"""Reading the journal from a position: no record is handled twice, and none is skipped where the one of the position is gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ddwd.core import journal_reader
from ddwd.core.errors import StateError
from ddwd.core.journal_reader import open_reader

SINCE = timedelta(hours=1)
STORED: list[dict[str, Any]] = []


class Reader:
    """python3-systemd's reader, as far as it is used: sd_journal_seek_cursor(3) goes to the closest record that is left."""

    failing = False

    def __init__(self, converters: dict[str, Any]) -> None:
        self._convert = converters["__REALTIME_TIMESTAMP"]
        self._next = 0
        self._matches: list[str] = []

    def fileno(self) -> int:
        if self.failing:
            raise PermissionError(13, "Permission denied")
        return 3

    def add_match(self, match: str) -> None:
        self._matches.append(match)

    def seek_cursor(self, cursor: str) -> None:
        self._next = next((n for n, one in enumerate(STORED) if one["__CURSOR"] >= cursor), len(STORED))

    def seek_realtime(self, moment: datetime) -> None:
        self._next = next(
            (n for n, one in enumerate(STORED) if one["__REALTIME_TIMESTAMP"] >= moment), len(STORED)
        )

    def process(self) -> None:
        """Notice what changed."""

    def get_next(self) -> dict[str, Any]:
        if self._next >= len(STORED):
            return {}
        self._next += 1
        found = dict(STORED[self._next - 1])
        found["__REALTIME_TIMESTAMP"] = self._convert(found["__REALTIME_TIMESTAMP"])
        return found

    def test_cursor(self, cursor: str) -> bool:
        return bool(STORED[self._next - 1]["__CURSOR"] == cursor)


@pytest.fixture(autouse=True)
def _journal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    STORED[:] = [
        {"__CURSOR": f"c{n}", "__REALTIME_TIMESTAMP": now - timedelta(minutes=100 - 10 * n)}
        for n in range(10)
    ]
    monkeypatch.setattr(journal_reader, "journal", SimpleNamespace(Reader=Reader))


def read(cursor: str) -> list[str]:
    return [one["__CURSOR"] for one in open_reader(["A=b"], cursor, SINCE)()]


def test_reading_goes_on_behind_the_record_that_the_position_names() -> None:
    assert read("c6") == ["c7", "c8", "c9"]
    assert read("c9") == []


def test_where_that_record_is_gone_the_next_one_is_not_skipped() -> None:
    del STORED[:7]
    assert read("c3") == ["c7", "c8", "c9"]


def test_without_a_position_it_begins_so_long_ago() -> None:
    assert read("") == ["c5", "c6", "c7", "c8", "c9"]


def test_each_call_gives_what_came_since_also_after_an_empty_one() -> None:
    new_records = open_reader([], "c9", SINCE)
    assert list(new_records()) == []
    STORED.append(
        {"__CURSOR": "d0", "__REALTIME_TIMESTAMP": datetime(2026, 1, 5, 12, 0, 0, 250_000, tzinfo=UTC)}
    )
    (found,) = new_records()
    assert found == {"__CURSOR": "d0", "__REALTIME_TIMESTAMP": "1767614400250000"}
    assert list(new_records()) == []


def test_a_journal_that_this_user_may_not_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "failing", True)
    with pytest.raises(StateError, match="Permission denied"):
        read("c1")


def test_without_systemd_there_are_no_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_reader, "journal", None)
    assert list(open_reader([], "", SINCE)()) == []
