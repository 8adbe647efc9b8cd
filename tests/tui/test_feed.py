"""The feed looks by itself, looks at once when the extractor's status changes, survives a look that fails, and ends."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from ddwd.tui import feed as feeding
from ddwd.tui.feed import Feed
from tests.tui import boards

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.status.dashboard import DashboardModel


class Watched:
    """What was delivered; `wait` until there are so many."""

    def __init__(self) -> None:
        self.found: list[DashboardModel | str] = []
        self._came = threading.Condition()

    def deliver(self, found: DashboardModel | str) -> None:
        with self._came:
            self.found.append(found)
            self._came.notify_all()

    def wait(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.found) >= count, timeout=20)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "_LEAST_SECONDS", 0.01)


def test_a_change_of_the_status_is_seen_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "_IDLE_SECONDS", 3600.0)
    watched = Watched()
    feed = Feed(boards.flowing, watched.deliver, tmp_path)
    feed.start()
    watched.wait(1)
    for number in range(2, 5):
        (tmp_path / "status.new").write_text("{}")
        (tmp_path / "status.new").replace(tmp_path / "status.json")
        watched.wait(number)
    feed.stop()


def test_without_any_change_it_looks_by_itself_and_a_failed_look_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "_IDLE_SECONDS", 0.02)
    watched = Watched()
    looks: list[None] = []

    def look() -> DashboardModel:
        looks.append(None)
        if len(looks) == 2:
            raise OSError("gone")
        return boards.flowing()

    feed = Feed(look, watched.deliver, tmp_path / "not there yet")
    feed.start()
    watched.wait(3)
    feed.stop()
    assert watched.found[1] == "the state of the portal cannot be read (OSError); retrying"
    assert not isinstance(watched.found[2], str)
