"""Queue of published studies for notification hooks: one notice per file, added by the extractor, removed by ddwd-hooks.

A notice is durable before the ledger closes the study, and is removed only after its hook has succeeded, so that each revision is
notified at least once. `told` has the last notified revision of each study, so that a repeated reconciliation notifies no second time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ddwd.core import durable
from ddwd.core.model import OrthancId
from ddwd.store.statefile import StateFormat

if TYPE_CHECKING:
    from pathlib import Path

_NAME = re.compile(r"(?P<study>[0-9a-f]{8}(?:-[0-9a-f]{8}){4})\.(?P<revision>[0-9]{1,9})\.json")

_RETRY_REQUEST = "now"


@dataclass(frozen=True, slots=True)
class Notice:
    """The content of a notification: the study, its route, the path of its files, the revision, and the custody record as JSON."""

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
        """Return the name of its file."""
        return f"{self.study}.{self.revision}.json"


@dataclass(frozen=True, slots=True)
class _Notified:
    """The last revision of a study whose hook has succeeded."""

    revision: int


_NOTICE = StateFormat(Notice, "notice")
_NOTIFIED = StateFormat(_Notified, "record of notified revisions")


class HookQueue:
    """The two folders: the extractor adds to `waiting`, and only ddwd-hooks writes `told`."""

    def __init__(self, folder: Path) -> None:
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
        found: dict[str, tuple[int, Path]] = {}
        for path in sorted(self.waiting.iterdir()) if self.waiting.is_dir() else ():
            if name := _NAME.fullmatch(path.name):
                revision = int(name["revision"])
                if revision > found.get(name["study"], (0, path))[0]:
                    found[name["study"]] = revision, path
        read = [_NOTICE.read_or_none(path) for _, path in found.values()]
        return sorted((one for one in read if one), key=lambda one: (one.published_at, one.study))

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
        self.drop(notice)

    def drop(self, notice: Notice) -> None:
        """Remove this notice and the older ones of its study."""
        for path in self.waiting.glob(f"{notice.study}.*.json"):
            name = _NAME.fullmatch(path.name)
            if name and int(name["revision"]) <= notice.revision:
                durable.unlink(path)

    def request_retry(self) -> None:
        """Ask ddwd-hooks to retry every notice now. Raises OSError."""
        durable.replace_file(self.waiting / _RETRY_REQUEST, b"")

    def take_retry_request(self) -> bool:
        """Return whether the operator has asked for that since the last call."""
        requested = (self.waiting / _RETRY_REQUEST).exists()
        if requested:
            durable.unlink(self.waiting / _RETRY_REQUEST)
        return requested

    def _notified_path(self, study: OrthancId) -> Path:
        return self.told / study[:2] / f"{study}.json"
