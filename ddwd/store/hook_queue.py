"""Queue of published studies for notification hooks: one notice per file, added by the extractor, removed by ddwd-hooks,
and by the extractor where an operator drops it.

A notice is durable before the ledger closes the study, and is removed only after its hook has succeeded, so that each revision is
notified at least once. The folder `told` has the last notified revision of each study, so that a repeated reconciliation causes no
second notification.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddwd.core import durable
from ddwd.core.errors import InvalidValueError
from ddwd.core.model import OrthancId
from ddwd.store.rejected_files import RejectedFiles
from ddwd.store.statefile import StateFormat

_NAME = re.compile(r"(?P<study>[0-9a-f]{8}(?:-[0-9a-f]{8}){4})\.(?P<revision>[0-9]{1,9})\.json")


@dataclass(frozen=True, slots=True)
class Notice:
    """The content of a notification; `path` is the folder of the study's files, `custody` the custody record as JSON."""

    study: OrthancId
    study_uid: str
    route: str
    path: str
    revision: int
    instances: int
    published_at: str
    custody: dict[str, Any] = field(hash=False, repr=False)

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.study}.{self.revision}.json"


@dataclass(frozen=True, slots=True)
class _Notified:
    """The last revision of a study whose hook has succeeded."""

    revision: int


_NOTICE = StateFormat(Notice, "notice")
_NOTIFIED = StateFormat(_Notified, "record of notified revisions")


class RetryRequest:
    """A file in `folder` by which the operator requests that a daemon retries everything now."""

    def __init__(self, folder: Path) -> None:
        self._retry_request = folder / "now"
        self._rejected = RejectedFiles("request to retry now")

    def request_retry(self) -> None:
        """Request it. Raises OSError."""
        durable.replace_file(self._retry_request, b"")

    def take_retry_request(self) -> bool:
        """Return whether it was requested since the last call."""
        requested = os.path.lexists(self._retry_request)
        if requested:
            try:
                durable.unlink(self._retry_request)
            except OSError as error:  # a folder
                self._rejected.reject(self._retry_request, str(error.strerror))
        return requested and self._retry_request not in self._rejected


class HookQueue(RetryRequest):
    """The two folders: the extractor adds to `waiting` and drops what an operator asks for, and only ddwd-hooks writes to `told`.

    `rejected` is ddwd-hooks', which puts aside what is no notice; for any other process that is only left out.
    """

    def __init__(self, folder: Path, rejected: RejectedFiles | None = None) -> None:
        super().__init__(folder / "waiting")
        self._rejected_notices = rejected
        self.waiting = folder / "waiting"
        self.told = folder / "told"

    def put(self, notice: Notice) -> bool:
        """Queue a notice durably; return False if this revision was notified already. Raises StorageFullError and OSError."""
        if self.notified_revision(notice.study) >= notice.revision:
            return False
        durable.make_dirs(self.waiting)
        if not (self.waiting / notice.name).exists():
            _NOTICE.write(self.waiting / notice.name, notice)
        return True

    def newest(self) -> list[Notice]:
        """Return the newest waiting notice of each study, oldest study first. Raises OSError if this user may not read them."""
        newest: dict[str, tuple[int, Path]] = {}
        for path in self.waiting.iterdir() if self.waiting.is_dir() else ():
            if name := _NAME.fullmatch(path.name):
                found = int(name["revision"]), path
                newest[name["study"]] = max(found, newest.get(name["study"], found))
        notices = (self._read(path) for _, path in newest.values())
        return sorted(filter(None, notices), key=lambda notice: (notice.published_at, notice.study))

    def _read(self, path: Path) -> Notice | None:
        """Return a notice; None for what is none, or is of another study or revision than its name."""
        rejected = self._rejected_notices
        if rejected is None:
            notice = _NOTICE.read_or_none(path)
            return notice if notice and notice.name == path.name else None
        if path in rejected or (found := rejected.read(path)) is None:
            return None
        try:
            notice = _NOTICE.parse_input(found.content, path.name)
        except InvalidValueError as error:
            rejected.reject(path, str(error))
            return None
        if notice.name != path.name:
            rejected.reject(path, "it is of another study or revision than its name")
            return None
        return notice

    def is_waiting(self, study: OrthancId) -> bool:
        """Return whether a notice of the study waits."""
        return any(self.waiting.glob(f"{study}.*.json"))

    def notified_revision(self, study: OrthancId) -> int:
        """Return the last notified revision; 0 for none."""
        last = _NOTIFIED.read_or_none(self._notified_path(study))
        return 0 if last is None else last.revision

    def done(self, notice: Notice) -> None:
        """Record that the hook has succeeded, then remove this notice and older ones. Raises StorageFullError and OSError."""
        target = self._notified_path(notice.study)
        durable.make_dirs(target.parent)
        _NOTIFIED.write(target, _Notified(notice.revision))
        self.drop(notice.study, notice.revision)

    def drop(self, study: OrthancId, revision: int) -> None:
        """Remove the notices of a study up to this revision. Raises OSError."""
        for path in self.waiting.glob(f"{study}.*.json"):
            name = _NAME.fullmatch(path.name)
            if name and int(name["revision"]) <= revision:
                with suppress(IsADirectoryError):  # another user's: ddwd-hooks puts it aside
                    durable.unlink(path)

    def _notified_path(self, study: OrthancId) -> Path:
        return self.told / study[:2] / f"{study}.json"
