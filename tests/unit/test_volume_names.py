"""Which volumes need marked names, on disks that ignore case, normalise, refuse characters or long names; tests/appliance/test_volumes.py has real ones."""

from __future__ import annotations

import os
import unicodedata
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ddwd.store import volume_names
from ddwd.store.volume_names import needs_marks
from tests.unit.fakes import image
from tests.unit.portal import Portal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _nfd(name: str) -> str:
    return unicodedata.normalize("NFD", name)


def _windows(name: str) -> str:
    if set(':*?"<>|') & set(name):
        raise OSError(22, "Invalid argument")
    return name


def _short(name: str) -> str:
    if len(name.encode()) > 143:
        raise OSError(36, "File name too long")
    return name


KINDS = {
    "ignores case": str.casefold,
    "keeps capitals only": str.upper,
    "normalises Unicode": _nfd,
    "refuses what Windows does": _windows,
    "holds 143 bytes": _short,
}


def _disk(name_of: Callable[[str], str]) -> SimpleNamespace:
    """`os` on a volume that makes `name_of` of each name."""
    return SimpleNamespace(
        **{
            name: getattr(os, name)
            for name in ("O_CREAT", "O_EXCL", "O_WRONLY", "O_CLOEXEC", "close", "listdir")
        },
        open=lambda name, *rest, dir_fd: os.open(name_of(name), *rest, dir_fd=dir_fd),
        unlink=lambda name, *, dir_fd: os.unlink(name_of(name), dir_fd=dir_fd),
        stat=lambda name, *, dir_fd, follow_symlinks: os.stat(
            name_of(name), dir_fd=dir_fd, follow_symlinks=follow_symlinks
        ),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_that_does_not_hold_every_name_apart_needs_marks(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_names, "os", _disk(KINDS[kind]))
    assert needs_marks(tmp_path / ".ddwd", tmp_path)
    assert list((tmp_path / ".ddwd").iterdir()) == []


def test_a_volume_of_linux_needs_none_and_nothing_stays_there(tmp_path: Path) -> None:
    (tmp_path / ".ddwd").mkdir()
    (tmp_path / ".ddwd" / ".ddwd-probe").touch()  # of a start that was interrupted
    assert not needs_marks(tmp_path / ".ddwd", tmp_path)
    assert list((tmp_path / ".ddwd").iterdir()) == []


def test_a_volume_that_takes_no_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(_name: str) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(volume_names, "os", _disk(read_only))
    with pytest.raises(OSError, match="Read-only"):
        needs_marks(tmp_path / ".ddwd", tmp_path)


def test_a_patient_s_folder_has_the_patient_s_id_as_its_name(tmp_path: Path) -> None:
    portal = Portal(tmp_path)
    portal.deliver(image(1, patient="Müller-7 a"))
    portal.run(20)
    assert {name.partition("/")[0] for name in portal.published()} == {"Müller-7 a"}


def test_on_a_volume_that_ignores_case_two_patients_are_two_folders_and_late_images_find_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = Portal(tmp_path)
    portal.deliver(image(1, patient="Smith", number=1))
    portal.run(20)
    monkeypatch.setattr(volume_names, "os", _disk(str.casefold))
    portal.start()
    portal.deliver(image(2, patient="smith"), image(1, patient="Smith", number=2))
    portal.run(20)
    assert sorted(name.partition("/")[0] for name in portal.published()) == ["Smith", "Smith", "smith%-1F"]
    assert portal.leftovers() == []
