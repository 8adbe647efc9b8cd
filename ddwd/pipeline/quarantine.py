"""What could not be delivered as it should: the file itself and its reason beside it. The extractor alone writes here.

Nothing in quarantine is ever removed by the portal; the operator releases it (`ddwd quarantine`).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from ddwd import durable
from ddwd.audit import Audit, Event
from ddwd.clock import Clock, stamp
from ddwd.model import safe_component

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1


class Quarantine:
    """The folder `quarantine/StudyInstanceUID/`, one `.dcm` and one `.json` for each object."""

    def __init__(self, folder: Path, clock: Clock, audit: Audit) -> None:
        self._folder = folder
        self._clock = clock
        self._audit = audit

    def put(self, source: Path, *, study_uid: str, reason: str) -> Path:
        """Move `source` here, durably, the reason first; the name it has now. May be repeated after a crash."""
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        folder = self._folder / safe_component(study_uid)
        durable.make_dirs(folder)
        target = folder / f"{digest[:32]}.dcm"
        note = {
            "schema": SCHEMA,
            "at": stamp(self._clock.utc()),
            "study_uid": study_uid,
            "sha256": digest,
            "from": source.name,
            "reason": reason,
        }
        durable.replace_file(target.with_suffix(".json"), json.dumps(note, indent=1).encode() + b"\n")
        self._move(source, target)
        self._audit.record(Event.QUARANTINED, f"put aside: {reason}", study_uid=study_uid, file=target.name)
        return target

    @staticmethod
    def _move(source: Path, target: Path) -> None:
        """Copy and remove: OUTPUT_DIR may be another volume than the quarantine."""
        if not target.exists():
            temporary = target.with_suffix(".part")
            durable.unlink(temporary)
            with source.open("rb") as file:
                durable.write_new(temporary, iter(lambda: file.read(1 << 20), b""))
            durable.rename(temporary, target)
        durable.unlink(source)

    def count(self) -> int:
        """Objects that wait for the operator."""
        return sum(1 for _ in self._folder.glob("*/*.json")) if self._folder.is_dir() else 0
