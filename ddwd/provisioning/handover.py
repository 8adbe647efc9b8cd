"""Give the folders that user ddwd owned until 0.2.0 to the users that their units have now. Run by provision as root.

Another user writes below these folders, so no path is resolved there: each entry is opened relative to its folder without following
a link, checked, and given away by its descriptor. Only what belongs to user ddwd is given away; a file with a second name (a hard
link) is not, since it may be of another folder. The folder itself goes last: a run that is cut short is repeated at the next start,
and one that is complete costs one look. The units are stopped meanwhile: they are ordered after ddwd-provision.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ddwd.config.paths import Paths
from ddwd.core import safe_folder
from ddwd.core.errors import LinkedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.config.schema import Config

FORMER_OWNER = "ddwd"
_DEEPEST = 64
"""Folders in folders; deeper ones keep their owner."""


class Handover(NamedTuple):
    """A folder with its new owner, group and mode; the mode of what is in it stays."""

    folder: Path
    user: str
    group: str
    mode: int


def handovers(config: Config) -> list[Handover]:
    """Return the folders that changed their owner after 0.2.0."""
    paths = Paths(config)
    found = [
        Handover(config.inbox.folder, "ddwd-inbox", "ddwd", 0o2770),
        Handover(paths.alerts.parent, "ddwd-monitor", "ddwd", 0o2750),
        Handover(paths.deliveries, "ddwd-courier", "ddwd", 0o2770),
        Handover(paths.commitments, "ddwd-commitment", "ddwd-gateway", 0o770),
    ]
    textfile = config.metrics.textfile.parent
    if not any(textfile.is_relative_to(own) for own in (config.run_dir, config.data_dir, config.output_dir)):
        found.append(Handover(textfile, "ddwd-monitor", "ddwd", 0o2775))
    return found


def hand_over(folder: Path, former: int, user: int, group: int, mode: int) -> None:
    """Give `folder` and what is in it from user `former` to `user`; do nothing if it is missing, read-only or not of `former`. Raises OSError."""
    try:
        top = safe_folder.walk(folder)
    except (
        FileNotFoundError,
        LinkedError,
    ):  # a folder of the operator's, behind somebody's link, is the operator's to give
        return
    try:
        # a folder elsewhere is read-only at a start: postinst hands it over
        if os.fstat(top).st_uid != former or os.fstatvfs(top).f_flag & os.ST_RDONLY:
            return
        _hand_over_entries(top, former, user, _DEEPEST)
        safe_folder.give_open(top, user, group, mode)
    finally:
        os.close(top)


def _hand_over_entries(folder: int, former: int, user: int, depth: int) -> None:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        with _entry(name, folder) as (entry, status):
            if status is None or status.st_uid != former:
                continue
            if stat.S_ISDIR(status.st_mode) and depth:
                inner = os.open(".", safe_folder.FOLDER, dir_fd=entry)
                try:
                    _hand_over_entries(inner, former, user, depth - 1)
                    os.fchown(inner, user, -1)
                finally:
                    os.close(inner)
            elif stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                os.chown(f"/proc/self/fd/{entry}", user, -1)  # fchown takes no descriptor of O_PATH


@contextmanager
def _entry(name: str, folder: int) -> Iterator[tuple[int, os.stat_result | None]]:
    """Yield a descriptor of the entry itself, which opens nothing (a named pipe would block), and its status; None if it is gone."""
    try:
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        yield -1, None
        return
    try:
        yield descriptor, os.fstat(descriptor)
    finally:
        os.close(descriptor)
