"""A downgrade and the way forward again: no study is lost from its folder, and none is published twice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ddwd.config.paths import Paths
from ddwd.config.routing import Route
from ddwd.store import output_tree
from ddwd.store.former_names import give_former_names, take_back_names
from ddwd.store.record_check import RecordChecker
from tests.unit.fakes import image
from tests.unit.portal import Portal

if TYPE_CHECKING:
    from pathlib import Path

_PLAIN, _MARKED = "Smith/1.2.3.1", "Smith%-F/1.2.3.1"


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    """Three studies of three patients, of which one has the same name in either form."""
    made = Portal(tmp_path)
    for study, patient in ((1, "Smith"), (2, "4711"), (3, "Müller 7")):
        made.deliver(image(study, 1, patient=patient), image(study, 2, patient=patient))
        made.run(20)
    return made


def _folders(portal: Portal) -> set[str]:
    return {name.rpartition("/")[0].rpartition("/")[0] for name in portal.published()}


def _is_sound(portal: Portal) -> bool:
    checker = RecordChecker(portal.custody, portal.paths)
    return checker.check(checker.studies()).is_sound


def test_an_older_version_finds_every_study_where_it_would_have_published_it(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = portal.published()
    assert give_former_names(portal.paths) == 2
    assert _folders(portal) == {_MARKED, "4711/1.2.3.2", "M%C3%BCller%207%-F/1.2.3.3"}
    assert sorted(portal.published().values()) == sorted(before.values())
    assert give_former_names(portal.paths) == 0
    # the older version, with the records of before: it knows none of the three
    for study in list(portal.custody.studies()):
        portal.custody.remove(study)
    monkeypatch.setattr(output_tree, "needs_marks", lambda *_folders: True)
    portal.start()
    portal.run(60)
    assert sorted(portal.published().values()) == sorted(before.values())
    assert len(list(portal.custody.studies())) == 3
    # forward again with those records: the folders stay, and none is doubled
    monkeypatch.undo()
    assert take_back_names(portal.paths, portal.custody) == 0
    portal.start()
    portal.run(60)
    assert _folders(portal) == {_MARKED, "4711/1.2.3.2", "M%C3%BCller%207%-F/1.2.3.3"}
    assert _is_sound(portal)


def test_the_newer_version_with_its_own_records_gets_its_names_back(portal: Portal) -> None:
    before = portal.published()
    give_former_names(portal.paths)
    assert not _is_sound(portal)
    assert take_back_names(portal.paths, portal.custody) == 2
    assert portal.published() == before
    assert _is_sound(portal)
    assert not portal.paths.former_names.exists()
    assert take_back_names(portal.paths, portal.custody) == 0


def test_what_was_interrupted_is_repeated(portal: Portal) -> None:
    before = portal.published()
    give_former_names(portal.paths)
    output = portal.paths.output
    (output / "Smith").mkdir()
    (output / _MARKED).rename(output / _PLAIN)
    assert give_former_names(portal.paths) == 1
    (output / "Müller 7").mkdir()
    (output / "M%C3%BCller%207%-F/1.2.3.3").rename(output / "Müller 7/1.2.3.3")
    assert take_back_names(portal.paths, portal.custody) == 1
    assert portal.published() == before


def test_folders_of_a_layout_are_renamed_by_their_tags_alone(portal: Portal) -> None:
    output = portal.paths.output
    layout = "research/{PatientID}/{StudyInstanceUID}/{SOPInstanceUID}"
    paths = Paths(replace(portal.config, routes=(Route("research", layout=layout),)))
    (output / "research/Smith/1.2.9").mkdir(parents=True)
    (output / "other things").mkdir()
    give_former_names(paths)
    assert (output / "research/Smith%-F/1.2.9").is_dir()
    assert (output / "other things").is_dir()
