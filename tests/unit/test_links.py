"""A symbolic link that someone planted where the portal writes: nothing is written or removed behind it, and one line says what to do."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from ddwd.core.errors import LinkedError
from ddwd.extractor.quarantine import QuarantinedObject
from tests.unit.fakes import image, spool
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = image(number=1), image(number=2)
LONG_SECONDS = 400.0
"""More than any back-off, and a sweep."""
STUDY = f"{FIRST.patient_id}/{FIRST.study_uid}"
BEFORE = [FIRST.patient_id, STUDY, ".ddwd/staging", f".ddwd/staging/{FIRST.study_id}"]
"""Below OUTPUT_DIR, before anything of the study is there."""
LATER = [
    FIRST.patient_id,
    STUDY,
    f"{STUDY}/{FIRST.series_uid}",
    f"{STUDY}/{FIRST.series_uid}/{SECOND.sop_uid}.dcm",
    ".ddwd/staging",
]
"""The same, once its first image is published."""


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    (tmp_path / "portal").mkdir()
    return Portal(tmp_path / "portal")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that is not the portal's, with something in it that is to stay."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious.dcm").write_bytes(b"precious")
    return folder


def _is_untouched(folder: Path) -> bool:
    return [(path.name, path.read_bytes()) for path in folder.rglob("*")] == [("precious.dcm", b"precious")]


def _plant(place: Path, target: Path) -> None:
    if place.is_dir():
        shutil.move(place, place.with_name(f"{place.name}.was"))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def _pull_out(place: Path) -> None:
    place.unlink()
    former = place.with_name(f"{place.name}.was")
    if former.is_dir():
        former.rename(place)


@pytest.mark.parametrize("name", BEFORE)
def test_a_new_study_is_not_laid_out_behind_a_link_and_comes_once_it_is_gone(
    portal: Portal, elsewhere: Path, name: str
) -> None:
    place = portal.paths.output / name
    _plant(place, elsewhere)
    portal.deliver(FIRST, SECOND)
    portal.run(20)
    assert _is_untouched(elsewhere)
    assert "find" in _reason(portal)
    assert FIRST.patient_id not in _reason(portal)
    _pull_out(place)
    portal.run(LONG_SECONDS)
    assert portal.published() == names(FIRST, SECOND)


@pytest.mark.parametrize("name", LATER)
def test_a_later_image_is_not_added_behind_a_link_and_comes_once_it_is_gone(
    portal: Portal, elsewhere: Path, name: str
) -> None:
    portal.deliver(FIRST)
    portal.run(20)
    place = portal.paths.output / name
    _plant(place, elsewhere / "precious.dcm" if name.endswith(".dcm") else elsewhere)
    portal.deliver(SECOND)
    portal.storage.settle(SECOND.study_id)
    portal.run(20)
    assert _is_untouched(elsewhere)
    assert "find" in _reason(portal)
    _pull_out(place)
    portal.run(LONG_SECONDS)
    assert portal.published() == names(FIRST, SECOND)


def test_a_link_to_nowhere_is_not_made_somewhere(portal: Portal, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    _plant(portal.paths.output / STUDY, nowhere)
    portal.deliver(FIRST)
    portal.run(20)
    assert not nowhere.exists()


def test_what_is_behind_a_link_in_the_spool_is_neither_taken_nor_removed(
    portal: Portal, elsewhere: Path
) -> None:
    file = spool(portal.paths.spool, FIRST)
    file.rename(elsewhere / file.name)
    file.symlink_to(elsewhere / file.name)
    _plant(portal.paths.spool / "1.2.3.99", elsewhere)
    portal.deliver(FIRST)
    portal.run(2 * LONG_SECONDS)
    assert {path.name for path in elsewhere.iterdir()} == {"precious.dcm", file.name}
    assert portal.published() == names(FIRST)
    assert not any(path.is_symlink() for path in portal.paths.output.rglob("*.dcm"))
    assert portal.quarantine.entries() == []


def test_quarantine_is_not_put_behind_a_link(portal: Portal, elsewhere: Path) -> None:
    _plant(portal.paths.quarantine / FIRST.study_uid, elsewhere)
    with pytest.raises(LinkedError):
        portal.quarantine.keep(b"bytes", QuarantinedObject("conflict", FIRST.study_uid, "because"))
    assert _is_untouched(elsewhere)


def test_an_output_folder_that_is_a_link_itself_is_the_operators_choice(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (tmp_path / "portal").mkdir()
    (tmp_path / "portal" / "received_dicom").symlink_to(volume)
    portal = Portal(tmp_path / "portal")
    portal.deliver(FIRST)
    portal.run(20)
    assert (volume / next(iter(names(FIRST)))).read_bytes() == FIRST.content


def _reason(portal: Portal) -> str:
    (study,) = portal.open.values()
    return study.reason
