"""The comparison over gateway, storage and disk: each hop's lack is counted where it is, and nothing is written."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakSet

import pytest

from ddwd.core.errors import PeerDownError, StateError
from ddwd.core.model import OrthancId, Study
from ddwd.extractor.consistency import ConsistencyCheck, Difference, DifferenceTotals
from ddwd.retention.scheduler import without
from ddwd.store.record_check import RecordChecker
from tests.unit.fakes import FakeOrthanc, image, orthanc_id
from tests.unit.portal import Portal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FIRST = [image(1, number) for number in (1, 2, 3)]
_SECOND = [image(2, number) for number in (1, 2)]
_STUDY = _FIRST[0].study_id
_BOTH = ("gateway", "storage")


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    """Two published studies."""
    made = Portal(tmp_path)
    made.gateway.store(*_FIRST, *_SECOND)
    made.run()
    assert len(made.published()) == 5
    return made


def comparison(portal: Portal) -> ConsistencyCheck:
    prover = RecordChecker(portal.custody, portal.paths)
    return ConsistencyCheck(portal.gateway, portal.storage, portal.custody, prover, portal.paths)


def differing(portal: Portal) -> list[Difference]:
    """What does not agree; some() says the same of each as everything()."""
    found = list(comparison(portal).everything())
    assert list(comparison(portal).some(one.study for one in found)) == found
    assert len({one.study for one in found}) == len(found)
    return [one for one in found if not one.agrees]


def first(**lacks: object) -> Difference:
    return replace(Difference(_STUDY, _FIRST[0].study_uid, _BOTH), **lacks)  # type: ignore[arg-type]


def test_a_portal_at_rest_agrees(portal: Portal) -> None:
    assert differing(portal) == []
    totals = DifferenceTotals()
    for one in comparison(portal).everything():
        totals.add(one)
    assert totals == DifferenceTotals(studies=2)


def test_an_empty_portal_agrees(tmp_path: Path) -> None:
    assert differing(Portal(tmp_path)) == []


def test_images_that_storage_lacks(portal: Portal) -> None:
    portal.gateway.store(image(1, 4), image(1, 5))
    assert differing(portal) == [first(not_on_storage=2)]


def test_an_image_on_disk_that_storage_lost_is_a_difference_all_the_same(portal: Portal) -> None:
    del portal.storage.images[_FIRST[0].orthanc_id]
    assert differing(portal) == [first(not_on_storage=1)]


def test_images_that_the_disk_lacks(portal: Portal) -> None:
    late = [image(1, 4), image(1, 5)]
    portal.gateway.store(late[0])
    portal.storage.store(*late)
    assert differing(portal) == [first(not_on_disk=2)]


def test_files_that_are_gone_or_of_another_size(portal: Portal) -> None:
    folder = portal.paths.output / "PAT1" / _FIRST[0].study_uid / _FIRST[0].series_uid
    (folder / f"{_FIRST[0].sop_uid}.dcm").unlink()
    (folder / f"{_FIRST[1].sop_uid}.dcm").write_bytes(b"short")
    assert differing(portal) == [first(gone_from_disk=2)]


def test_a_whole_tree_that_is_gone(portal: Portal) -> None:
    (portal.paths.output / "PAT1").rename(portal.paths.output / "PAT2")
    assert sorted(one.gone_from_disk for one in differing(portal)) == [2, 3]


@pytest.mark.parametrize("on_storage", [True, False])
def test_an_image_set_aside_counts_as_that_only(portal: Portal, on_storage: bool) -> None:
    bad = image(1, 4)
    portal.gateway.store(bad)
    if on_storage:
        portal.storage.store(bad)
    record = portal.custody.read(_STUDY)
    assert record is not None
    portal.custody.write(replace(record, set_aside={bad.orthanc_id: "0xC000"}))
    assert differing(portal) == [first(set_aside=1)]


def test_where_a_study_is_known(portal: Portal) -> None:
    only_gateway, only_storage = image(3), image(4)
    portal.gateway.store(only_gateway)
    portal.storage.store(only_storage)
    for place in ("gateway", "storage"):
        record = portal.custody.read(_SECOND[0].study_id)
        assert record is not None
        portal.custody.write(without(record, place, set(record.images), "2026-01-02T00:00:00.000Z"))
    portal.gateway.delete_study(_SECOND[0].study_id)
    portal.storage.delete_study(_SECOND[0].study_id)
    found = {one.study: one for one in comparison(portal).everything()}
    assert found[only_gateway.study_id] == Difference(
        only_gateway.study_id, only_gateway.study_uid, ("gateway",), not_on_storage=1
    )
    assert found[only_storage.study_id] == Difference(
        only_storage.study_id, only_storage.study_uid, ("storage",), not_on_disk=1
    )
    # removed from both Orthancs by retention and still on disk: that is as it should be
    assert found[_SECOND[0].study_id] == Difference(_SECOND[0].study_id, _SECOND[0].study_uid, ())
    totals = DifferenceTotals()
    for one in found.values():
        totals.add(one)
    assert totals == DifferenceTotals(4, 2, 1, 1, 1, not_on_storage=1, not_on_disk=1)


def test_a_damaged_record_is_told_and_hides_no_other_study(portal: Portal) -> None:
    portal.custody.path(_STUDY).write_bytes(b"{")
    (one,) = differing(portal)
    assert (one.study, one.study_uid) == (_STUDY, _FIRST[0].study_uid)
    assert "damaged" in one.damage


@pytest.mark.parametrize("name", _BOTH)
def test_a_peer_that_is_down_ends_it(portal: Portal, name: str) -> None:
    getattr(portal, name).down = True
    with pytest.raises(PeerDownError):
        list(comparison(portal).everything())


def test_records_that_cannot_be_listed_are_not_taken_for_none(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(StateError, match="group ddwd"):
        list(comparison(portal).everything())


def test_the_folder_is_as_it_was(portal: Portal) -> None:
    portal.gateway.store(image(1, 4))
    stowed = list(portal.gateway.stowed)
    before = {path: path.stat().st_mtime_ns for path in portal.paths.config.data_dir.rglob("*")}
    assert differing(portal)
    assert {path: path.stat().st_mtime_ns for path in portal.paths.config.data_dir.rglob("*")} == before
    assert portal.gateway.stowed == stowed


class _Many(FakeOrthanc):
    """A large archive that knows how many of its answers are still held by whoever asked."""

    count = 5000
    most = 0

    def study_ids(self) -> Iterator[OrthancId]:
        for number in range(self.count):
            yield orthanc_id("P", str(number))

    def study(self, orthanc_id: OrthancId) -> Study | None:
        found = Study(orthanc_id, "1.2", "P", "", ())
        self.held.add(found)
        self.most = max(self.most, len(self.held))
        return found

    @cached_property
    def held(self) -> WeakSet[Study]:
        return WeakSet()


def test_a_large_archive_is_compared_a_study_at_a_time(tmp_path: Path) -> None:
    portal = Portal(tmp_path)
    many = _Many("gateway", portal.clock)
    prover = RecordChecker(portal.custody, portal.paths)
    compared = ConsistencyCheck(many, many, portal.custody, prover, portal.paths)
    totals, listed = DifferenceTotals(), 0

    def count() -> None:
        nonlocal listed
        listed += 1

    for one in compared.everything(count):
        totals.add(one)
    assert (totals.studies, totals.differing, listed) == (5000, 0, 10_000)
    assert many.most <= 4
