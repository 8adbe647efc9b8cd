"""Requests of the operator: one JSON file each, written by the CLI and the dashboard, read by the extractor in each turn.

Root and group ddwd may put anything into the folder: a pipe, a link, a file of a gigabyte, half a file. `take` therefore checks
everything, reads at most a few KiB, never blocks and never raises; a file that is no request is renamed to `*.bad`.
"""

from __future__ import annotations

import heapq
import os
import pwd
import re
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from ddwd.core import durable
from ddwd.core.clock import Clock, SystemClock, stamp
from ddwd.core.errors import InvalidValueError, StateError
from ddwd.store.rejected_files import RejectedFiles
from ddwd.store.statefile import StateFormat, stored

Kind = Literal[
    "retry", "release", "reconcile", "pause", "resume", "forget", "retention", "accept", "drop-hook"
]

_STUDY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_ITEM = re.compile(r"[0-9a-f]{32}")
_MOST_BYTES = 4096
_MOST_A_TURN = 100
"""Requests taken in one turn, so that a flood of them delays no study; the others wait for the next turn."""
_FOLDER_MODE = 0o770


@dataclass(frozen=True, slots=True)
class Request:
    """One request: `retry` a study, `release` an entry of the quarantine (`item`), `reconcile` one study or all, `pause` and
    `resume` retrieving, `forget` a study of the self test, start a round of `retention` now, `accept` that images of a study or of all are
    missing on an Orthanc, `drop-hook`: a study's hook is not called for revisions up to `revision`.

    `by` is the user who made the request, and `at` the UTC stamp. As taken from the folder, `by` is the owner of the file, whatever
    stands in it: a user can write any name, and cannot give a file away. Raises InvalidValueError for anything
    else, so that its values are safe in file names.
    """

    kind: Kind
    study: str = field(default="", metadata=stored(required=True))
    item: str = field(default="", metadata=stored(required=True))
    revision: int = field(default=0, kw_only=True, metadata=stored(omit_empty=True))
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
        if (
            bool(self.item) != (self.kind == "release")
            or (self.revision > 0) != (self.kind == "drop-hook")
            or (self.kind in {"retry", "forget", "drop-hook"} and not self.study)
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
        self._rejected = RejectedFiles("request")

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
                if (request := self._read(path)) is not None:
                    found.append((path, request))
            except InvalidValueError as error:
                self._rejected.reject(path, str(error))
        return found

    def done(self, path: Path) -> None:
        """Delete a request whose effect is durable. Never raises; one that cannot be deleted is ignored until a restart."""
        try:
            durable.unlink(path)
        except OSError as error:
            self._rejected.ignore(path, f"its effect is durable, but it cannot be removed ({error.strerror})")

    def _waiting(self) -> list[Path]:
        try:
            with os.scandir(self._folder) as entries:
                names = (entry.name for entry in entries if entry.name.endswith(".json"))
                waiting = (n for n in names if n[0] != "." and self._folder / n not in self._rejected)
                return [self._folder / name for name in heapq.nsmallest(_MOST_A_TURN, waiting)]
        except FileNotFoundError:
            return []
        except OSError as error:
            self._rejected.ignore(self._folder, f"the requests cannot be listed ({error.strerror})")
            return []

    def _read(self, path: Path) -> Request | None:
        """Return one request, with the owner of its file as the one who made it. Raises InvalidValueError."""
        if (found := self._rejected.read(path, _MOST_BYTES + 1)) is None:
            return None
        if len(found.content) > _MOST_BYTES:
            raise InvalidValueError(f"it has more than {_MOST_BYTES} bytes")
        return replace(_FORMAT.parse_input(found.content, path.name), by=_user(found.owner))


def _user(number: int) -> str:
    """Return the name of a user, or the number if there is no name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
