"""What a C-MOVE asks for, and in how many pieces: whole series where nothing of them came, images by name otherwise."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from ddwd.core.model import OrthancId, Series, Study
from ddwd.extractor.steps.retrieve import next_block, whole_series
from tests.unit.fakes import image, spool
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from pathlib import Path


def ids(name: str, count: int) -> frozenset[OrthancId]:
    return frozenset(OrthancId(f"{name}{number}") for number in range(count))


def study(*series: frozenset[OrthancId]) -> Study:
    return Study(
        OrthancId("s"),
        "1.2",
        "P",
        "",
        tuple(Series(OrthancId(f"x{n}"), f"1.2.{n}", one) for n, one in enumerate(series, 1)),
    )


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    return Portal(tmp_path)


def test_a_series_of_which_nothing_came_is_fetched_whole_whatever_its_size() -> None:
    first, second = ids("a", 300), ids("b", 300)
    both = study(first, second)
    assert set(next_block(both, first | second, batch=10)) == first | second
    assert set(next_block(both, (first - ids("a", 1)) | second, batch=10)) == second


def test_the_rest_of_a_series_is_fetched_in_blocks() -> None:
    first = ids("a", 300)
    lacking = first - ids("a", 1)
    assert next_block(study(first), lacking, batch=10) == sorted(lacking)[:10]


def test_series_beyond_the_bound_do_not_keep_a_worker_from_the_other_studies() -> None:
    first, second = ids("a", 3000), ids("b", 3000)
    both = study(first, second)
    assert set(next_block(both, both.ids, batch=10)) == first
    huge = study(ids("a", 5001))
    assert whole_series(huge, huge.ids) == []
    assert len(next_block(huge, huge.ids, batch=10_000)) == 500


@pytest.mark.parametrize("series", [1, 2], ids=["one series, by name", "two series, whole"])
def test_a_large_study_comes_by_two_moves_at_once(portal: Portal, series: int) -> None:
    images = [image(number=n, series=1 + n % series) for n in range(1, 121)]
    portal.deliver(*images)
    portal.run(10)
    assert portal.published() == names(*images)
    assert portal.leftovers() == []


def test_a_move_that_breaks_beside_another_only_makes_the_study_wait(portal: Portal) -> None:
    images = [image(number=n, series=1 + n % 2) for n in range(1, 121)]
    portal.mover.poisoned = {images[60].sop_uid, images[61].sop_uid}
    portal.deliver(*images)
    portal.run(10)
    assert portal.published() == {}
    portal.mover.poisoned = set()
    portal.run(60)
    assert portal.published() == names(*images)


def test_what_an_earlier_version_left_in_the_spool_is_taken_over_and_its_repeats_are_dropped(
    portal: Portal,
) -> None:
    one = image()
    path = spool(portal.paths.spool, one)
    path.rename(path.with_name(f"{one.sop_uid}.{hashlib.sha256(one.content).hexdigest()[:16]}.dcm"))
    portal.deliver(one)
    portal.run(10)
    assert portal.mover.moved == []
    record = portal.custody.read(one.study_id)
    assert record is not None
    assert record.images[one.orthanc_id].sha256 == hashlib.sha256(one.content).hexdigest()
    assert portal.leftovers() == []


def test_the_digest_of_the_record_is_that_of_the_file(portal: Portal) -> None:
    one = image()
    portal.deliver(one)
    portal.run(10)
    record = portal.custody.read(one.study_id)
    assert record is not None
    assert record.images[one.orthanc_id].sha256 == hashlib.sha256(one.content).hexdigest()
