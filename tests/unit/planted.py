"""What another user may put where a daemon expects a file: none of it may block or end the daemon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _link_to_pipe(path: Path) -> None:
    pipe = path.with_name("elsewhere")
    os.mkfifo(pipe)
    path.symlink_to(pipe)


PLANTED: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "folder": lambda path: path.mkdir(),
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to a file of root's": lambda path: path.symlink_to("/etc/passwd"),
    "link to a pipe": _link_to_pipe,
}
