"""Finished studies that a hook is to be told of: one small file each, added by the extractor, taken away by ddwd-hooks.

A notice is durable before the ledger closes the study, and goes only when its hook has succeeded, so that each revision is told at
least once; what was told last stands in `told`, so that a study looked at again is not told again.
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

_WISH = "now"


@dataclass(frozen=True, slots=True)
class Notice:
    """What a hook is told: the study, the rule that took it, where its files are, which revision of it, and its custody record."""

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
        """Its file."""
        return f"{self.study}.{self.revision}.json"


@dataclass(frozen=True, slots=True)
class _Told:
    """The revision of a study that its hook was told of last."""

    revision: int


_NOTICE = StateFormat(Notice, "notice")
_TOLD = StateFormat(_Told, "record of what a hook was told")


class HookQueue:
    """The two folders: `waiting`, which the extractor adds to, and `told`, which ddwd-hooks alone writes."""

    def __init__(self, folder: Path) -> None:
        self.waiting = folder / "waiting"
        self.told = folder / "told"

    def put(self, notice: Notice) -> bool:
        """Have the hook told, durably; False where it was told of this revision already. Raises StorageFullError and OSError."""
        if self.revision_told(notice.study) >= notice.revision:
            return False
        durable.make_dirs(self.waiting)
        if not (self.waiting / notice.name).exists():
            _NOTICE.write(self.waiting / notice.name, notice)
        return True

    def newest(self) -> list[Notice]:
        """The newest notice of each study that waits, oldest study first. Raises OSError where this user may not look."""
        found: dict[str, tuple[int, Path]] = {}
        for path in sorted(self.waiting.iterdir()) if self.waiting.is_dir() else ():
            if name := _NAME.fullmatch(path.name):
                revision = int(name["revision"])
                if revision > found.get(name["study"], (0, path))[0]:
                    found[name["study"]] = revision, path
        read = [_NOTICE.read_or_none(path) for _, path in found.values()]
        return sorted((one for one in read if one), key=lambda one: (one.published_at, one.study))

    def is_waiting(self, study: OrthancId) -> bool:
        """Whether a hook has still to be told of that study."""
        return any(self.waiting.glob(f"{study}.*.json"))

    def revision_told(self, study: OrthancId) -> int:
        """The revision that the hook was told of last; 0 for none."""
        told = _TOLD.read_or_none(self._told_of(study))
        return 0 if told is None else told.revision

    def done(self, notice: Notice) -> None:
        """The hook has succeeded: remember it, then take away this notice and those before it. Raises StorageFullError and OSError."""
        target = self._told_of(notice.study)
        durable.make_dirs(target.parent)
        _TOLD.write(target, _Told(notice.revision))
        self.drop(notice)

    def drop(self, notice: Notice) -> None:
        """Take away this notice and those before it."""
        for path in self.waiting.glob(f"{notice.study}.*.json"):
            name = _NAME.fullmatch(path.name)
            if name and int(name["revision"]) <= notice.revision:
                durable.unlink(path)

    def wish(self) -> None:
        """Ask ddwd-hooks to try everything at once. Raises OSError."""
        durable.replace_file(self.waiting / _WISH, b"")

    def take_wish(self) -> bool:
        """Whether the operator has asked for that since it was looked at last."""
        wished = (self.waiting / _WISH).exists()
        if wished:
            durable.unlink(self.waiting / _WISH)
        return wished

    def _told_of(self, study: OrthancId) -> Path:
        return self.told / study[:2] / f"{study}.json"
