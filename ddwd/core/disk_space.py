"""Pure: how much room a volume has, against the reserve that is kept free on it. One rule for the SCP, the extractor and the door.

The reserve is one setting in bytes, but never more than a twentieth of a volume, so that a small volume can be used at all; of the
inodes a hundredth is kept. Stages are multiples of it: a warning first, then no retrieving, then no forwarding, and in the end
C-STORE is refused, so that the modality keeps its images. Imports nothing of ddwd: the script inside Orthanc uses it too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MOST_OF_VOLUME = 20
_INODE_SHARE = 100
LEAVE = 1.1
"""A stage is left only when there is this much more room than its bound, so that it does not flicker."""


class Level(IntEnum):
    """How little room there is, from plenty to none."""

    OK = 0
    WARN = 1
    NO_RETRIEVE = 2
    NO_FORWARD = 3
    REFUSE = 4


BOUNDS = {Level.REFUSE: 1.0, Level.NO_FORWARD: 1.5, Level.NO_RETRIEVE: 2.0, Level.WARN: 4.0}
"""Multiples of the reserve below which a stage begins, the gravest first."""


def word(level: Level) -> str:
    """The level as the status file and the audit trail have it: `no-retrieve` and the like."""
    return level.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Space:
    """What statvfs(3) says of one volume: bytes and inodes, for ordinary users. `inodes` is 0 where it counts none."""

    device: int
    free: int
    total: int
    inodes_free: int
    inodes: int


def space_of(path: Path | str) -> Space:
    """The volume that `path` lies on. Raises OSError."""
    found = os.statvfs(path)
    return Space(
        os.stat(path).st_dev,  # noqa: PTH116 - a text or a Path
        found.f_bavail * found.f_frsize,
        found.f_blocks * found.f_frsize,
        found.f_favail,
        found.f_files,
    )


def reserve_of(total: int, setting: int) -> int:
    """Bytes kept free on a volume of `total` bytes."""
    return min(setting, total // _MOST_OF_VOLUME)


def level_of(space: Space, setting: int, before: Level = Level.OK) -> Level:
    """The stage that `space` calls for; `before` is the one so far, which is left late."""
    for level, factor in BOUNDS.items():
        bound = factor * (LEAVE if before >= level else 1.0)
        if space.free < reserve_of(space.total, setting) * bound:
            return level
        if space.inodes and space.inodes_free < space.inodes // _INODE_SHARE * bound:
            return level
    return Level.OK
