"""Requests of the operator: one JSON file each, written by the CLI and the dashboard, read by the extractor in each turn.

Root and group ddwd may put anything into the folder: a pipe, a link, a file of a gigabyte, half a file. `take` therefore checks
everything, reads at most a few KiB, never blocks and never raises; a file that is no request is renamed to `*.bad`.
"""

from __future__ import annotations

import errno
import heapq
import logging
import os
import pwd
import re
import secrets
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from ddwd.core import durable
from ddwd.core.clock import Clock, SystemClock, stamp
from ddwd.core.errors import InvalidValueError, StateError
from ddwd.store.statefile import StateFormat, stored

Kind = Literal["retry", "release", "reconcile", "pause", "resume", "forget", "retention"]

_STUDY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_ITEM = re.compile(r"[0-9a-f]{32}")
_MOST_BYTES = 4096
_MOST_A_TURN = 100
"""Requests taken in one turn, so that a flood of them delays no study; the others wait for the next turn."""
_FOLDER_MODE = 0o770
_PASSING = frozenset({errno.ENOENT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
"""Errors that are no fault of the file: it was removed, or can be read in the next turn."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One request: `retry` a study, `release` an entry of the quarantine (`item`), `reconcile` one study or all, `pause` and
    `resume` retrieving, `forget` a study of the self test, start a round of `retention` now.

    `by` is the user who made the request, and `at` the UTC stamp. As taken from the folder, `by` is the owner of the file, whatever
    stands in it: a user can write any name, and cannot give a file away. Raises InvalidValueError for anything
    else, so that its values are safe in file names.
    """

    kind: Kind
    study: str = field(default="", metadata=stored(required=True))
    item: str = field(default="", metadata=stored(required=True))
    by: str = field(default="", compare=False)
    at: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Reject an unknown kind, and names that do not fit the kind."""
        if self.kind not in get_args(Kind):
            raise InvalidValueError("there is no such kind of request")
        if self.study and not _STUDY.fullmatch(self.study):
            raise InvalidValueError("a study is named by its Orthanc ID")
        if self.item and not _ITEM.fullmatch(self.item):
            raise InvalidValueError("an entry of the quarantine has a name of 32 hexadecimal digits")
        if bool(self.item) != (self.kind == "release") or (
            self.kind in {"retry", "forget"} and not self.study
        ):
            raise InvalidValueError(f"a request to {self.kind} does not say of what")
        if self.study and self.kind in {"pause", "resume", "retention"}:
            raise InvalidValueError(f"a request to {self.kind} is about all studies")


_FORMAT = StateFormat(Request, "request", schema=1)


class Requests:
    """The folder of requests."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self._folder = folder
        self._clock = clock or SystemClock()
        self._ignored: set[str] = set()

    def prepare(self) -> None:
        """Create the folder if it is missing, with the owner of the folder above it. Raises OSError and LinkedError."""
        durable.make_dirs(self._folder, _FOLDER_MODE, inherit=True)

    def submit(self, request: Request) -> Path:
        """Store a request for the extractor durably. Raises StateError if this user may not."""
        at = stamp(self._clock.utc())
        path = self._folder / f"{re.sub('[-:.]', '', at)}-{secrets.token_hex(4)}.json"
        try:
            self.prepare()
            _FORMAT.write_readable(path, replace(request, by=request.by or _user(os.getuid()), at=at))
        except OSError as error:
            raise StateError(
                f"{self._folder}: {error.strerror}; only root and group ddwd may ask the extractor"
            ) from error
        return path

    def take(self) -> list[tuple[Path, Request]]:
        """Return waiting requests, oldest first, each with its file for `done`; a limited number per call. Never raises."""
        found = []
        for path in self._waiting():
            try:
                found.append((path, _read(path)))
            except OSError as error:
                if error.errno not in _PASSING:
                    self._reject(path, str(error.strerror))
            except InvalidValueError as error:
                self._reject(path, str(error))
        return found

    def done(self, path: Path) -> None:
        """Delete a request whose effect is durable. Never raises; one that cannot be deleted is ignored until a restart."""
        try:
            durable.unlink(path)
        except OSError as error:
            self._ignore(path, f"its effect is durable, but it cannot be removed ({error.strerror})")

    def _waiting(self) -> list[Path]:
        try:
            with os.scandir(self._folder) as entries:
                names = (entry.name for entry in entries if entry.name.endswith(".json"))
                waiting = (name for name in names if name[0] != "." and name not in self._ignored)
                return [self._folder / name for name in heapq.nsmallest(_MOST_A_TURN, waiting)]
        except FileNotFoundError:
            return []
        except OSError as error:
            self._ignore(self._folder, f"the requests cannot be listed ({error.strerror})")
            return []

    def _reject(self, path: Path, reason: str) -> None:
        try:
            path.rename(path.with_suffix(".bad"))
        except OSError as error:
            self._ignore(path, f"{reason}; it cannot be renamed ({error.strerror})")
        else:
            _log.warning("requests: %a is no request: %s; renamed to *.bad", path.name, reason)

    def _ignore(self, path: Path, reason: str) -> None:
        """Log it once, and ignore the file from now on."""
        if path.name not in self._ignored:
            self._ignored.add(path.name)
            _log.warning("requests: %a: %s", path.name, reason)


def _user(number: int) -> str:
    """Return the name of a user, or the number if there is no name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _read(path: Path) -> Request:
    """Return one request. Raises InvalidValueError and OSError."""
    # O_NOFOLLOW: no link; O_NONBLOCK: a named pipe must not block
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidValueError("it is not a regular file")
        content = os.read(descriptor, _MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MOST_BYTES:
        raise InvalidValueError(f"it has more than {_MOST_BYTES} bytes")
    return replace(_FORMAT.parse_input(content, path.name), by=_user(status.st_uid))
