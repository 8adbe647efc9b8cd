"""The change feed: what it may never miss, whatever Orthanc's `/changes` does."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ddwd.core.errors import PeerDownError
from ddwd.core.model import OrthancId
from ddwd.extractor.change_feed import ChangeFeed
from ddwd.orthanc.port import Change, ChangePage
from tests.unit.fakes import FakeClock, FakeOrthanc, image

STABLE_AGE = 3.0


@pytest.fixture
def node() -> FakeOrthanc:
    return FakeOrthanc("storage", FakeClock())


def test_each_study_that_moved_is_named_once(node: FakeOrthanc) -> None:
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    node.store(image(1), image(2))
    assert feed.look().studies == {image(1).study_id, image(2).study_id}
    assert feed.look().studies == frozenset()
    node.settle(image(1).study_id)
    assert feed.look().studies == {image(1).study_id}


def test_a_new_series_names_its_study(node: FakeOrthanc) -> None:
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    node.store(image(1))
    feed.look()
    node.store(image(1, series=2))
    assert feed.look().studies == {image(1).study_id}


def test_a_row_that_was_committed_late_with_a_lower_number_is_still_seen(node: FakeOrthanc) -> None:
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    node.store(image(1), image(2))
    late = node.rows.pop(2)
    assert late.kind == "NewStudy"
    feed.look()
    node.rows.insert(2, late)
    node.clock.advance(2)
    assert feed.look().studies == {late.orthanc_id}


def test_a_database_that_was_reset_is_read_from_the_beginning(node: FakeOrthanc) -> None:
    feed = ChangeFeed(node, 100_000, node.clock, STABLE_AGE)
    node.store(image(1))
    feed.look()
    assert feed.look().studies == {image(1).study_id}


def test_a_study_that_is_deleted_with_its_rows_makes_no_database_look_restored(node: FakeOrthanc) -> None:
    node.store(image(1), *(image(2, number=n) for n in range(1, 700)))
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    feed.look()
    cursor = feed.cursor
    node.delete_study(image(2).study_id)
    node.clock.advance(2)
    assert feed.look().studies == frozenset()
    assert feed.cursor == cursor


def test_a_database_restored_to_just_before_the_cursor_is_read_again(node: FakeOrthanc) -> None:
    node.store(*(image(n) for n in range(1, 30)))
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    feed.look()
    node.restore(3)
    node.clock.advance(2)
    node.rows.append(Change(node.rows[-1].seq + 1, "NewStudy", "Study", image(99).study_id))
    feed.look()
    assert image(99).study_id in feed.look().studies


def test_the_cursor_never_moves_past_a_row_that_was_not_seen(node: FakeOrthanc) -> None:
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    node.store(image(1))
    feed.look()
    assert feed.cursor == node.rows[-1].seq
    node.rows.append(Change(feed.cursor + 5, "NewPatient", "Patient", image(1).study_id))
    feed.look()
    assert feed.cursor == node.rows[-1].seq


def test_a_peer_that_is_away_moves_nothing(node: FakeOrthanc) -> None:
    node.store(image(1))
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    node.down = True
    with pytest.raises(PeerDownError):
        feed.look()
    node.down = False
    assert feed.look().studies == {image(1).study_id}


def test_a_long_history_is_read_in_bounded_looks(node: FakeOrthanc) -> None:
    one = image(1).orthanc_id
    node.rows = [Change(seq, "NewInstance", "Instance", one) for seq in range(1, 45_001)]
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    more, read = True, [0]
    while more:
        more = feed.look().more
        read.append(feed.cursor)
    assert read[-1] == 45_000
    assert max(after - before for before, after in pairwise(read)) == 2000


def test_the_window_before_the_cursor_is_not_read_again_at_each_look(
    node: FakeOrthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def changes(since: int, limit: int) -> ChangePage:
        asked.append(since)
        return FakeOrthanc.changes(node, since, limit)

    monkeypatch.setattr(node, "changes", changes)
    node.store(*(image(n) for n in range(1, 30)))
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    for _ in range(3):
        feed.look()
        node.clock.advance(0.9)
    feed.look()
    assert asked == [0, feed.cursor, feed.cursor, 0]


def test_rows_that_come_thick_have_the_window_read_again_before_it_is_passed(node: FakeOrthanc) -> None:
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    one = image(1)
    node.rows = [Change(seq, "NewInstance", "Instance", one.orthanc_id) for seq in range(2, 200)]
    feed.look()
    late = Change(1, "NewStudy", "Study", one.study_id)
    node.rows += [Change(seq, "NewInstance", "Instance", one.orthanc_id) for seq in range(200, 400)]
    feed.look()
    node.rows.insert(0, late)
    assert feed.look().studies == {one.study_id}


def test_an_image_of_a_known_series_is_found_even_if_its_study_never_gets_stable(node: FakeOrthanc) -> None:
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    node.store(image(1), image(2))
    node.settle(image(1).study_id)
    _look_until_nothing_is_overdue(feed, node)
    node.store(image(1, number=2))  # and the Orthanc is killed before it writes StableStudy
    assert feed.look().studies == frozenset()
    node.clock.advance(STABLE_AGE + 5)
    assert feed.look().studies == {image(1).study_id}


def test_each_study_is_asked_for_once_however_many_images_it_has(
    node: FakeOrthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[OrthancId] = []

    def study_of(level: str, one: OrthancId) -> OrthancId | None:
        asked.append(one)
        return FakeOrthanc.study_of(node, level, one)

    monkeypatch.setattr(node, "study_of", study_of)
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    node.store(*(image(n, number=m) for n in (1, 2) for m in range(1, 400)))
    feed.look()
    asked.clear()  # those of the new series
    node.clock.advance(STABLE_AGE + 5)
    assert feed.look().studies == {image(1).study_id, image(2).study_id}
    node.clock.advance(STABLE_AGE + 5)
    assert feed.look().studies == frozenset()
    assert len(asked) == 2


def test_images_that_are_gone_before_they_are_asked_for_limit_no_later_look(node: FakeOrthanc) -> None:
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    node.store(*(image(1, number=m) for m in range(1, 30)))
    feed.look()
    node.delete_study(image(1).study_id)
    node.store(image(2))
    feed.look()
    node.clock.advance(STABLE_AGE + 5)
    assert [feed.look().studies for _ in range(3)] == [frozenset(), frozenset(), {image(2).study_id}]


def test_what_was_read_before_the_orthanc_went_away_in_a_look_is_told_by_the_next(
    node: FakeOrthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.store(*(image(n, series=n) for n in range(1, 500)))
    feed = ChangeFeed(node, 0, node.clock, STABLE_AGE)
    pages = iter([FakeOrthanc.changes(node, 0, 1000)])

    def away_after_a_page(since: int, limit: int) -> ChangePage:
        if (page := next(pages, None)) is None:
            raise PeerDownError
        return page

    monkeypatch.setattr(node, "changes", away_after_a_page)
    with pytest.raises(PeerDownError):
        feed.look()
    monkeypatch.undo()
    assert feed.look().studies == {image(n).study_id for n in range(1, 500)}


def _look_until_nothing_is_overdue(feed: ChangeFeed, node: FakeOrthanc) -> None:
    feed.look()
    node.clock.advance(STABLE_AGE + 5)
    assert feed.look().studies == {image(1).study_id, image(2).study_id}
