"""Nothing that was acknowledged is thrown away, and nothing stays behind."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.unit.fakes import image, spool
from tests.unit.portal import Portal

if TYPE_CHECKING:
    from pathlib import Path

TWO_SWEEPS = 700.0


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    return Portal(tmp_path)


def test_a_repeat_of_a_published_image_in_the_spool_is_removed(portal: Portal) -> None:
    one = image()
    portal.gateway.store(one)
    portal.storage.store(one)
    portal.run(10)
    spool(portal.paths.spool, one)
    portal.run(TWO_SWEEPS)
    assert portal.leftovers() == []
    assert portal.quarantine.entries() == []
    assert len(portal.published()) == 1


def test_an_image_that_nobody_knows_goes_to_quarantine(portal: Portal) -> None:
    stranger = image(9)
    spool(portal.paths.spool, stranger)
    portal.run(TWO_SWEEPS)
    assert portal.leftovers() == []
    (entry,) = portal.quarantine.entries()
    assert (entry.subject.kind, entry.subject.study_uid) == ("stray", stranger.study_uid)
    assert entry.file is not None
    assert entry.file.read_bytes() == stranger.content


def test_what_was_staged_of_a_study_that_both_orthancs_forgot_meanwhile_goes_to_quarantine(
    portal: Portal,
) -> None:
    images = [image(number=n) for n in range(1, 3)]
    portal.gateway.store(*images)
    portal.storage.store(*images)
    portal.run(1)
    assert portal.leftovers()
    portal.gateway.delete_study(images[0].study_id)
    portal.storage.delete_study(images[0].study_id)
    portal.start()
    portal.run(TWO_SWEEPS)
    assert portal.leftovers() == []
    assert [entry.subject.kind for entry in portal.quarantine.entries()] == ["vanished", "vanished"]


def test_an_illegal_study_uid_in_the_spool_is_looked_for_as_it_stands_in_the_image(portal: Portal) -> None:
    one = image()
    odd = replace(one, study_uid="1.2.3/x 7")
    portal.gateway.store(odd)
    portal.storage.store(odd)
    portal.run(10)
    spool(portal.paths.spool, odd)
    portal.run(TWO_SWEEPS)
    assert portal.leftovers() == []
    assert portal.quarantine.entries() == []
