"""Put aside what is in a folder of waiting files and is not one: a pipe, a link, a folder, a file that cannot be read.

Another user may write to these folders. One such name must neither block nor end the daemon that works through the folder, nor keep
it from the names after it. It is renamed to `*.bad`, which the log and `ddwd doctor` report.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import NamedTuple

from ddwd.core import safe_folder
from ddwd.core.errors import LinkedError

PATTERN = "*.bad"
_PASSING = frozenset({errno.ENOENT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
"""Errors that are no fault of the file: it was removed, or can be read in the next turn."""

_log = logging.getLogger("ddwd.store")


class FoundFile(NamedTuple):
    """The content of a file, and the number of the user who owns it."""

    content: bytes
    owner: int


class RejectedFiles:
    """Of one kind of folder, whose files are called `noun`; what cannot be renamed is ignored until a restart, so that it is logged once."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._ignored: set[Path] = set()

    def __contains__(self, path: object) -> bool:
        """Return whether this file is ignored."""
        return path in self._ignored

    def read(self, path: Path, most: int = -1) -> FoundFile | None:
        """Return a file, with at most so many bytes. None if it cannot be read: unless that passes, it was put aside."""
        try:
            with safe_folder.opened(path) as file:
                return FoundFile(file.read(most), os.fstat(file.fileno()).st_uid)
        except LinkedError:
            self.reject(path, "it is not a regular file")
        except OSError as error:
            if error.errno not in _PASSING:
                self.reject(path, str(error.strerror))
        return None

    def reject(self, path: Path, reason: str) -> None:
        """Rename a file to `*.bad`. Never raises."""
        try:
            path.rename(path.with_suffix(".bad"))
        except OSError as error:
            self.ignore(path, f"{reason}; it cannot be renamed ({error.strerror})")
        else:
            _log.warning("%a is no %s: %s; renamed to *.bad", path.name, self._noun, reason)

    def ignore(self, path: Path, reason: str) -> None:
        """Log it once, and ignore the file from now on."""
        if path not in self._ignored:
            self._ignored.add(path)
            _log.warning("%a, which should be a %s: %s", path.name, self._noun, reason)
