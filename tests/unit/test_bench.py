"""The bench's own arithmetic and material: a wrong ratio would be worse than none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread

from tests.bench import report
from tests.bench.rows import FULL, QUICK, Row
from tests.bench.templates import HUGE_UID, Templates, uid_of

if TYPE_CHECKING:
    from pathlib import Path


def test_a_time_is_compared_so_that_more_is_better_for_us() -> None:
    row = Row("hop", "", "s", 1.0, ">=", ours=[2.0, 9.0, 1.0], theirs=[4.0, 4.0, 5.0])
    assert (row.value, row.met) == (2.0, True)


def test_a_rate_is_compared_so_that_more_is_better_for_us() -> None:
    row = Row("chain", "", "images/s", 4.0, ">=", ours=[30.0], theirs=[10.0], bigger_is_better=True)
    assert (row.value, row.met) == (3.0, False)


@pytest.mark.parametrize(("measured", "met"), [(3.5, True), (3.6, False)])
def test_without_another_side_the_median_itself_is_held_against_the_target(
    measured: float, *, met: bool
) -> None:
    row = Row("tail-600", "", "s", 3.5, "<=", ours=[measured, measured, 0.1])
    assert (row.value, row.met) == (measured, met)


def test_a_full_bench_measures_at_least_five_times_and_what_the_targets_name() -> None:
    assert FULL.times >= 5
    assert FULL.tails.keys() == {100, 600, 2000}
    assert FULL.tails[FULL.compared] >= 5
    assert (FULL.ingest, FULL.hop_ct, FULL.hop_mr) == (250, 600, 2000)
    assert (FULL.steady_seconds, FULL.object_bytes) == (1800, 2 * 1024**3)
    assert FULL.finished == (100, 100_000)
    assert QUICK.compared in QUICK.tails


def test_studies_differ_in_their_uids_alone(tmp_path: Path) -> None:
    templates = Templates(tmp_path)
    studies = [templates.study(2, 16) for _ in range(2)]
    assert studies[0].uid != studies[1].uid
    files = [sorted(study.folder.glob("*.dcm")) for study in studies]
    for study, paths in zip(studies, files, strict=True):
        found = [dcmread(path) for path in paths]
        assert {str(one.StudyInstanceUID) for one in found} == {study.uid}
        assert len({one.SOPInstanceUID for one in found}) == study.images
        assert all(one.SOPInstanceUID == one.file_meta.MediaStorageSOPInstanceUID for one in found)
    assert dcmread(files[0][0]).PixelData == dcmread(files[1][0]).PixelData


def test_seeds_set_aside_come_to_no_other_study(tmp_path: Path) -> None:
    templates = Templates(tmp_path)
    first = templates.seeds(10)
    assert templates.study(1, 16).uid == uid_of(first + 10)


def test_the_huge_object_has_the_pixels_it_says(tmp_path: Path) -> None:
    path = Templates(tmp_path).huge(2 * 4096**2)
    found = dcmread(path)
    assert (found.SOPInstanceUID, found.NumberOfFrames) == (HUGE_UID, 2)
    assert len(found.PixelData) == found.NumberOfFrames * found.Rows * found.Columns


def test_what_is_left_behind_has_every_measurement_and_a_plot(tmp_path: Path) -> None:
    tails = [
        Row("tail-100", "", "s", 3.5, "<=", ours=[3.1, 3.2, 3.3]),
        Row("tail-100-plain", "", "s", 5.0, ">=", ours=[3.1, 3.2, 3.3], theirs=[16.0]),
    ]
    report.write(tmp_path, tails, {"cores": 2}, quick=True)
    written = json.loads((tmp_path / "bench.json").read_text("utf-8"))
    assert [row["name"] for row in written["rows"]] == ["tail-100", "tail-100-plain"]
    assert (
        written["rows"][1] | {"ours": [3.1, 3.2, 3.3], "theirs": [16.0], "ratio": 5.0, "met": True}
        == written["rows"][1]
    )
    assert (written["quick"], written["conditions"]) == (True, {"cores": 2})
    again = [Row("hop-ct", "", "s", 1.0, ">=", ours=[2.0], theirs=[1.0]), tails[0]]
    report.write(tmp_path, again, {"cores": 2}, quick=True)
    rows = json.loads((tmp_path / "bench.json").read_text("utf-8"))["rows"]
    assert sorted(row["name"] for row in rows) == ["hop-ct", "tail-100", "tail-100-plain"]
    assert "plain pipeline" in (tmp_path / "bench.svg").read_text("utf-8")
