"""Folders that user ddwd owned get the users of their units, and nothing that somebody planted there is given away."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ddwd.config.schema import Config, MetricsConfig
from ddwd.provisioning import handover
from ddwd.provisioning.handover import hand_over, handovers

REPO = Path(__file__).resolve().parents[2]
OWN, NEW, GROUP = os.getuid(), 4711, 4712


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was given away, in order: its path and its new owner. Only root can really do it."""
    done: list[tuple[str, int]] = []

    def give(target: int | str, user: int, _group: int) -> None:
        link = f"/proc/self/fd/{target}" if isinstance(target, int) else target
        done.append((str(Path(link).readlink()), user))

    monkeypatch.setattr(os, "fchown", give)
    monkeypatch.setattr(os, "chown", give)
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A drop folder as 0.2.0 leaves it behind in the middle of an item."""
    found = tmp_path / "inbox"
    for name in ("sent/2026-01-02", ".work", "waiting"):
        (found / name).mkdir(parents=True)
    for name in ("sent/2026-01-02/a.dcm", ".work/0001", "waiting/b.dcm.txt", "b.dcm"):
        (found / name).write_text("x", encoding="utf-8")
    return found


def test_everything_in_it_is_given_first_and_the_folder_itself_last(
    folder: Path, given: list[tuple[str, int]]
) -> None:
    everything = {str(path) for path in (folder, *folder.rglob("*"))}
    hand_over(folder, OWN, NEW, GROUP, 0o2770)
    assert {path for path, _ in given} == everything
    assert given[-1] == (str(folder), NEW)
    assert {user for _, user in given} == {NEW}
    assert folder.stat().st_mode & 0o7777 == 0o2770


def test_what_was_planted_is_not_given_and_does_not_block(
    folder: Path, given: list[tuple[str, int]], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x", encoding="utf-8")
    (folder / "link").symlink_to(outside)
    (folder / "file-link").symlink_to(outside / "secret")
    (folder / "second-name").hardlink_to(outside / "secret")
    os.mkfifo(folder / "pipe")
    hand_over(folder, OWN, NEW, GROUP, 0o2770)
    told = {Path(path) for path, _ in given}
    assert not {path for path in told if path.is_relative_to(outside)}
    assert not told & {folder / name for name in ("link", "file-link", "second-name", "pipe")}
    assert folder / "b.dcm" in told


def test_what_is_not_of_the_former_owner_stays_and_a_second_run_does_nothing(
    folder: Path, given: list[tuple[str, int]]
) -> None:
    hand_over(folder, OWN + 1, NEW, GROUP, 0o2770)
    hand_over(folder / "missing", OWN, NEW, GROUP, 0o2770)
    assert given == []


def test_a_folder_that_the_unit_sees_read_only_is_left(
    folder: Path, given: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fstatvfs

    def read_only(descriptor: int) -> os.statvfs_result:
        fields = list(real(descriptor))
        fields[8] |= os.ST_RDONLY  # f_flag
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "fstatvfs", read_only)
    hand_over(folder, OWN, NEW, GROUP, 0o2770)
    assert given == []


def test_folders_in_folders_without_end_are_left(folder: Path, given: list[tuple[str, int]]) -> None:
    deep = folder
    for _ in range(handover._DEEPEST + 20):
        deep = deep / "d"
        deep.mkdir()
    hand_over(folder, OWN, NEW, GROUP, 0o2770)
    assert str(deep) not in {path for path, _ in given}
    assert given[-1][0] == str(folder)


def test_a_metrics_file_elsewhere_is_handed_over_with_its_folder_and_none_of_ours_is() -> None:
    def folders(textfile: str) -> set[Path]:
        config = replace(Config(), metrics=MetricsConfig(textfile=Path(textfile)))
        return {one.folder for one in handovers(config)}

    assert Path("/srv/textfile") in folders("/srv/textfile/ddwd.prom")
    for own in ("/run/ddwd/monitor", "/var/lib/ddwd/state", "/var/lib/ddwd/received_dicom"):
        assert Path(own) not in folders(f"{own}/ddwd.prom")


def test_the_table_of_folders_says_the_same_and_leaves_an_existing_owner_to_this() -> None:
    lines = (REPO / "systemd/ddwd.tmpfiles").read_text(encoding="utf-8").splitlines()
    rows = {fields[1]: fields[2:5] for line in lines if (fields := line.split()) and fields[0] in "df"}
    ours = [one for one in handovers(Config()) if one.folder.is_relative_to("/var/lib/ddwd")]
    assert len(ours) == 4
    for one in ours:
        mode, user, group = rows[str(one.folder)]
        assert (user, group) == (f":{one.user}", f":{one.group}")
        assert int(mode, 8) == one.mode
