"""Find images that the portal received and that an Orthanc no longer has, although retention did not remove them there; remember since when.

Somebody with a login of an Orthanc can delete an image, a series or a study. The sweep compares the lists of both Orthancs with each
custody record, and `LostRegister` remembers the studies that are not whole. Nothing is repaired here: what the gateway has and storage
is missing is sent again by the reconciler, and counts as missing in no place.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ddwd.core import durable
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import stamp
from ddwd.core.errors import StorageFullError
from ddwd.store.statefile import StateFormat
from ddwd.store.status_files import LostStatus, LostStudy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ddwd.core.clock import Clock
    from ddwd.core.model import OrthancId
    from ddwd.store.custody import Record

_SECONDS = 10.0
"""A study counts if images are missing twice, this many seconds apart: a repair deletes an image and stores it anew."""
_MOST = 10_000
"""Studies that are remembered; the next ones are when those are whole again."""
_AGAIN = 100
"""Studies that are compared again at once, beside the rounds of the sweep."""


@dataclass(frozen=True, slots=True)
class LostImages:
    """The images of one study that are missing on the gateway, which had them, and on storage and the gateway."""

    gateway: frozenset[OrthancId]
    storage: frozenset[OrthancId]

    def __bool__(self) -> bool:
        """Whether any image is missing."""
        return bool(self.gateway or self.storage)


def lost_images(record: Record, gateway: frozenset[OrthancId], storage: frozenset[OrthancId]) -> LostImages:
    """Return what is missing of a published study where `gateway` and `storage` are its images on the Orthancs.

    Once retention has removed images of the study from an Orthanc, none counts as missing there: the record does not say which went.
    """
    received = frozenset(record.images) | frozenset(record.passed)
    at_gateway = frozenset(one for one, image in record.images.items() if image.at_gateway)
    return LostImages(
        gateway=frozenset() if "gateway" in record.retired else at_gateway - gateway,
        storage=frozenset() if "storage" in record.retired else received - storage - gateway,
    )


@dataclass(frozen=True, slots=True)
class LostList:
    """The content of the register's file."""

    studies: tuple[LostStudy, ...] = ()


FORMAT = StateFormat(LostList, "list of studies with missing images", schema=1, indent=1)


@dataclass
class LostRegister:
    """The studies that are missing images, over restarts. Safe to call from several threads of the extractor, its only writer."""

    path: Path
    clock: Clock
    audit: Audit
    _found: dict[OrthancId, LostStudy] = field(default_factory=dict)
    _suspected: dict[OrthancId, tuple[float, str]] = field(default_factory=dict)
    """Studies that are missing images for the first time: when that was, in monotonic seconds and as a stamp."""
    _again_at: float = float("-inf")
    _is_written: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Begin with the file; without one that can be read the sweep finds them again."""
        known = FORMAT.read_or_none(self.path)
        self._found = {row.study: row for row in known.studies} if known else {}

    def note(self, record: Record, sets: tuple[Mapping[OrthancId, frozenset[OrthancId]], ...]) -> None:
        """Compare a published study with what the gateway and storage list of it."""
        gateway, storage = (images.get(record.study, frozenset()) for images in sets)
        self._note(record, lost_images(record, gateway, storage))

    def forget(self, study: OrthancId) -> None:
        """Drop a study that has no record."""
        with self._lock:
            self._suspected.pop(study, None)
            if self._found.pop(study, None):
                self._is_written = False

    def accept(self, study: OrthancId | None) -> None:
        """Report what is missing of this study, or of all, no longer, until more is missing. Raises StorageFullError and OSError."""
        now = stamp(self.clock.utc())
        with self._lock:
            for one, row in self._found.items():
                if study in {None, one} and not row.accepted:
                    self._found[one] = replace(row, accepted=now)
            self._write()

    def due(self) -> list[OrthancId]:
        """Return the studies to compare again now, so that one that is whole again is not reported for a round of the sweep."""
        now = self.clock.monotonic()
        with self._lock:
            if now - self._again_at < _SECONDS or not (self._suspected or self._found):
                return []
            self._again_at = now
            standing = (one for one, row in self._found.items() if not row.accepted)
            return [*self._suspected, *standing][:_AGAIN]

    def commit(self) -> None:
        """Make the register durable; without room on the disk it is written later."""
        with self._lock:
            if self._is_written:
                return
            with suppress(StorageFullError, OSError):
                self._write()

    def _write(self) -> None:
        durable.make_dirs(self.path.parent)
        FORMAT.write(self.path, LostList(tuple(self._found.values())))
        self._is_written = True

    def status(self) -> LostStatus | None:
        """Return the sums for the status file; None if no image is missing."""
        with self._lock:
            rows = [row for row in self._found.values() if not row.accepted]
        if not rows:
            return None
        return LostStatus(
            studies=len(rows),
            on_gateway=sum(row.gateway for row in rows),
            on_storage=sum(row.storage for row in rows),
            since=min(row.since for row in rows),
            example=rows[0].study_uid,
        )

    def _note(self, record: Record, lost: LostImages) -> None:
        with self._lock:
            before = self._found.get(record.study)
            after = self._row(record, lost, before)
            if after is not None:
                self._found[record.study] = after
            elif before is not None:
                del self._found[record.study]
            self._is_written = self._is_written and after == before
        if after is not None and (before is None or lost_text(before) != lost_text(after)):
            self._record(Event.LOST, after, lost_text(after))
        elif before is not None and after is None:
            self._record(
                Event.LOST_FOUND, before, "the images that were missing are back, or retention took them"
            )

    def _row(self, record: Record, lost: LostImages, before: LostStudy | None) -> LostStudy | None:
        """Return what is to be remembered of the study; None if no image is missing, or only since a moment."""
        study = record.study
        since = before.since if before else self._confirmed_since(study) if lost else ""
        if since or not lost:
            self._suspected.pop(study, None)
        if not lost or not since:
            return None
        row = LostStudy(study, record.study_uid, len(lost.gateway), len(lost.storage), since)
        is_accepted = before is not None and is_covered(lost, before)
        return replace(row, accepted=before.accepted) if before and is_accepted else row

    def _confirmed_since(self, study: OrthancId) -> str:
        """Return since when images of the study are missing; empty if that was not seen some seconds ago too, or too many studies are."""
        if len(self._found) >= _MOST:
            return ""
        now = self.clock.monotonic()
        seen_at, since = self._suspected.setdefault(study, (now, stamp(self.clock.utc())))
        return since if now - seen_at >= _SECONDS else ""

    def _record(self, event: Event, row: LostStudy, message: str) -> None:
        images = max(row.gateway, row.storage)
        self.audit.record(event, message, study_uid=row.study_uid, study=row.study, instances=images)


def is_covered(lost: LostImages, row: LostStudy) -> bool:
    """Return whether the operator accepted that so many images are missing."""
    return bool(row.accepted) and len(lost.gateway) <= row.gateway and len(lost.storage) <= row.storage


def accepted(path: Path) -> dict[OrthancId, LostStudy]:
    """Return the studies of the register's file whose missing images the operator accepted; none if this user may not read it."""
    known = FORMAT.read_or_none(path) or LostList()
    return {row.study: row for row in known.studies if row.accepted}


def lost_text(row: LostStudy) -> str:
    """Return how many images are missing where, for people."""
    places = [(row.gateway, "ORTHANC1"), (row.storage, "ORTHANC2")]
    counts = " and ".join(f"{count} on {place}" for count, place in places if count)
    return f"images that were received are missing, and retention did not remove them: {counts}"
