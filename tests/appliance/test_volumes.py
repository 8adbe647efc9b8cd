"""Real volumes and the names that they hold apart: an ext4, and an NTFS that ignores case or refuses what Windows does."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ddwd.store.volume_names import needs_marks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


NTFS = ["mkfs.ntfs", "-q", "-F", "-Q"]


@contextmanager
def _mounted(folder: Path, make: Sequence[str], mount: Sequence[str]) -> Iterator[Path]:
    """Mount a new volume that the command `make` formats, by the command `mount`, at a folder of its own."""
    volume, here = folder / "volume", folder / "mounted"
    with volume.open("wb") as file:
        file.truncate(20 << 20)
    here.mkdir()
    for command in ([*make, str(volume)], [*mount, str(volume), str(here)]):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    try:
        yield here
    finally:
        subprocess.run(["umount", here], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("make", "mount", "is_marked"),
    [
        (["mkfs.ext4", "-q"], ["mount", "-o", "loop"], False),
        (NTFS, ["lowntfs-3g"], False),
        (NTFS, ["lowntfs-3g", "-o", "ignore_case"], True),
        (NTFS, ["lowntfs-3g", "-o", "windows_names"], True),
    ],
    ids=["ext4", "NTFS as Linux uses it", "NTFS that ignores case", "NTFS as Windows uses it"],
)
def test_names_are_marked_on_the_volume_that_needs_it(
    make: list[str], mount: list[str], tmp_path: Path, *, is_marked: bool
) -> None:
    with _mounted(tmp_path, make, mount) as volume:
        assert needs_marks(volume / ".ddwd", volume) == is_marked
        assert list((volume / ".ddwd").iterdir()) == []
