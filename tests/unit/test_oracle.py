"""The oracle of the fault rounds, on folders: it reports each way in which a promise can be broken."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pydicom
import pytest

from tests.faults.campaign import Outcome, Real, summary
from tests.faults.oracle import Sent, Watcher, judge, sent
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> list[Sent]:
    return [sent(path) for path in made_up_ct(tmp_path / "sent", 3, seed=7, size=8).paths]


@pytest.fixture
def output(tmp_path: Path, files: list[Sent]) -> Path:
    """OUTPUT_DIR as it should be."""
    folder = tmp_path / "out"
    for one in files:
        (folder / one.target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(one.path, folder / one.target)
    private = folder / ".ddwd" / "spool" / "x.dcm"
    private.parent.mkdir(parents=True)
    private.write_bytes(b"not yet published")
    return folder


def test_what_is_as_it_should_be_is_sound(files: list[Sent], output: Path) -> None:
    assert judge(files, files, output).holds


def test_what_was_never_acknowledged_is_not_owed(files: list[Sent], output: Path) -> None:
    (output / files[0].target).unlink()
    assert judge(files, files[1:], output).holds


def test_a_missing_file_is_lost(files: list[Sent], output: Path) -> None:
    (output / files[0].target).unlink()
    assert judge(files, files, output).lost == [files[0].target]


def test_a_file_in_a_second_series_is_doubled(files: list[Sent], output: Path) -> None:
    study, name = files[0].study, files[0].target.rpartition("/")[2]
    (output / study / "1.2").mkdir()
    shutil.copy(files[0].path, output / study / "1.2" / name)
    verdict = judge(files, files, output)
    assert (len(verdict.doubled), len(verdict.foreign)) == (1, 1)


@pytest.mark.parametrize("content", [b"", None])
def test_other_pixels_and_an_empty_file_are_changed(
    files: list[Sent], output: Path, content: bytes | None
) -> None:
    target = output / files[0].target
    target.write_bytes(target.read_bytes()[:-1] + b"!" if content is None else content)
    assert len(judge(files, files, output).changed) == 1


def test_a_file_that_nobody_sent_is_foreign(files: list[Sent], output: Path) -> None:
    (output / "someone").mkdir()
    (output / "someone" / "else.dcm.part").write_bytes(b"x")
    assert judge(files, files, output).foreign == ["someone/else.dcm.part"]


def test_a_study_that_appears_without_what_was_acknowledged_before_is_partial(
    tmp_path: Path, files: list[Sent], output: Path
) -> None:
    seen = tmp_path / "seen"
    watcher = Watcher(seen, lambda: files)
    watcher.look(0.0)
    shutil.copytree(output, seen)
    (seen / files[0].target).unlink()
    watcher.look(10.0)
    assert watcher.partial == [files[0].target]


def test_a_study_that_appears_whole_or_before_the_next_image_is_acknowledged_is_not_partial(
    tmp_path: Path, files: list[Sent], output: Path
) -> None:
    seen = tmp_path / "seen"
    acknowledged = files[:2]
    watcher = Watcher(seen, lambda: acknowledged)
    watcher.look(0.0)
    shutil.copytree(output, seen)
    (seen / files[2].target).unlink()
    watcher.look(10.0)
    acknowledged = files
    watcher.look(20.0)
    watcher.look(30.0)
    assert watcher.partial == []


def test_a_round_that_broke_off_has_proved_nothing() -> None:
    whole = Outcome(1, 2, ("crash",), sent=3, acknowledged=3)
    cut = Outcome(1, 3, ("swallowing peer",), sent=3, broken_off="MachineError: no packet met the rule")
    assert whole.holds
    assert not cut.holds
    assert "no packet met the rule" in cut.line()
    assert (summary([whole, cut])["rounds"], summary([whole, cut])["broken_off"]) == (2, 1)


def test_real_studies_of_a_round_are_new_studies_with_the_same_pixels(tmp_path: Path) -> None:
    first, again = (Real(seed, 3).write(tmp_path / str(seed)) for seed in (5, 6))
    assert first.uid != again.uid
    pixels = [pydicom.dcmread(study.paths[0]).get("PixelData") for study in (first, again)]
    assert pixels[0] == pixels[1]
