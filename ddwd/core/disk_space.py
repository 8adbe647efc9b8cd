"""Compare the free space of a volume with the reserve, for the SCP, the extractor and Orthanc's plugin. Imports no other module of ddwd.

The reserve is a setting in bytes, but at most a twentieth of the volume, so that a small volume stays usable; of the inodes a
hundredth is kept free. The levels are multiples of the reserve: a warning first, then no retrieving, then no forwarding; at the
last one C-STORE is refused, so that the modality keeps its images.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

_MOST_OF_VOLUME = 20
_INODE_SHARE = 100
HYSTERESIS = 1.1
"""A level ends only when the free space is this many times its bound, so that the level does not flicker."""


class SpaceLevel(IntEnum):
    """How short of space a volume is, from not at all to full."""

    OK = 0
    WARN = 1
    NO_RETRIEVE = 2
    NO_FORWARD = 3
    REFUSE = 4


BOUNDS = {
    SpaceLevel.REFUSE: 1.0,
    SpaceLevel.NO_FORWARD: 1.5,
    SpaceLevel.NO_RETRIEVE: 2.0,
    SpaceLevel.WARN: 4.0,
}
"""Multiples of the reserve below which a level begins, the most severe first."""


def level_name(level: SpaceLevel) -> str:
    """Return the name of the level in the status file and the audit trail, such as `no-retrieve`."""
    return level.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Space:
    """Free and total bytes and inodes of one volume, as statvfs(3) reports them for ordinary users; `inodes` is 0 if it counts none.

    `is_read_only` is what this process finds: of a folder that it does not write to, its unit may make a read-only mount.
    """

    device: int
    free: int
    total: int
    inodes_free: int
    inodes: int
    is_read_only: bool = False


def space_of(path: Path | str) -> Space:
    """Return the space of the volume that holds `path`. Raises OSError."""
    found, device = os.statvfs(path), os.stat(path).st_dev  # noqa: PTH116 - a text or a Path
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    is_read_only = bool(found.f_flag & os.ST_RDONLY)
    return Space(device, free, total, found.f_favail, found.f_files, is_read_only)


def reserve_of(total: int, setting: int) -> int:
    """Return the bytes to keep free on a volume of `total` bytes."""
    return min(setting, total // _MOST_OF_VOLUME)


def level_of(space: Space, setting: int, before: SpaceLevel = SpaceLevel.OK) -> SpaceLevel:
    """Return the level for `space`; `before` is the previous level, which ends only above its bound times HYSTERESIS."""
    for level, factor in BOUNDS.items():
        bound = factor * (HYSTERESIS if before >= level else 1.0)
        if space.free < reserve_of(space.total, setting) * bound:
            return level
        if space.inodes and space.inodes_free < space.inodes // _INODE_SHARE * bound:
            return level
    return SpaceLevel.OK
