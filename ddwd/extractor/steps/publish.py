"""Publish step: verified files become the study's folder in OUTPUT_DIR, then the custody record proves it. Written by the extractor alone.

A new study is laid out in `staging/` (same file system) and appears in one rename of the finished folder. Images that come
later are added one by one, each by a link that cannot replace a file. No link below OUTPUT_DIR is followed. No file is ever
overwritten: other content under a name that is taken is a conflict and goes to quarantine with its reason.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.core import durable
from ddwd.core.clock import stamp
from ddwd.extractor.quarantine import QuarantinedObject
from ddwd.extractor.revision import leave_out, next_revision

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.core.clock import Clock
    from ddwd.core.model import OrthancId, Study, Wanted
    from ddwd.extractor.quarantine import Quarantine
    from ddwd.extractor.spool import Spool
    from ddwd.extractor.steps.notify import PublishNotifier
    from ddwd.extractor.study import StudyState
    from ddwd.extractor.study_events import StudyEvents
    from ddwd.store.backends import Stores
    from ddwd.store.custody import Record


class Publisher:
    """Moves the files of studies from the spool to staging, and from staging to OUTPUT_DIR."""

    def __init__(self, paths: Paths, quarantine: Quarantine) -> None:
        self._paths = paths
        self._quarantine = quarantine

    def staged(self, study: OrthancId, file: str) -> Path:
        """Return the path of a verified file in staging."""
        return self._paths.staging / study / file

    def stage(self, source: Path, study: OrthancId, wanted: Wanted) -> Path:
        """Link a verified file of the spool into staging; return the new path. Remove the name in the spool once the new one is durable.

        The receiver may just be making the spool's name durable, to answer Success: until then it must stay.
        """
        target, below = self.staged(study, wanted.file), self._paths.output
        durable.make_dirs(target.parent, below=below)
        try:
            durable.link_new(source, target, below)
        except FileExistsError:
            durable.rename(source, target, below=below)
        return target

    def publish(self, study: Study) -> list[str]:
        """Make the staged files of the study visible; return those whose names were already taken by other content.

        May be interrupted anywhere and called again. Raises StorageFullError, LinkedError and OSError.
        """
        staging, target = self._paths.staging / study.orthanc_id, self._paths.output / study.folder
        if not staging.is_dir():
            return []
        if target.is_dir():
            return self._add(study, staging, target)
        durable.make_dirs(target.parent, below=self._paths.output)
        durable.rename(staging, target, below=self._paths.output)
        return []

    def _add(self, study: Study, staging: Path, target: Path) -> list[str]:
        conflicts = []
        for source in sorted(staging.rglob("*.dcm")):
            file = source.relative_to(staging)
            durable.make_dirs((target / file).parent, below=self._paths.output)
            if not self._place(source, target / file):
                self._quarantine.put(source, _taken(study, file.as_posix()))
                conflicts.append(file.as_posix())
        self._remove_empty(staging)
        return conflicts

    def _remove_empty(self, folder: Path) -> None:
        """Remove a folder and those below it that are empty."""
        for inner in [*sorted(folder.rglob("*"), reverse=True), folder]:
            if inner.is_dir() and not inner.is_symlink():
                durable.remove_folder(inner, self._paths.output)

    def _place(self, source: Path, final: Path) -> bool:
        """Give `source` its final name and drop the old one; return False if other content has that name."""
        try:
            durable.link_new(source, final, self._paths.output)
        except FileExistsError:
            if self._digest(source) != self._digest(final):
                return False
        durable.fsync_dir(final.parent, self._paths.output)
        durable.unlink(source, self._paths.output)
        return True

    def _digest(self, path: Path) -> bytes:
        with durable.opened(path, self._paths.output) as file:
            return hashlib.file_digest(file, "sha256").digest()


def _taken(study: Study, file: str) -> QuarantinedObject:
    return QuarantinedObject(
        kind="conflict",
        study_uid=study.study_uid,
        reason=f"other content is already published as {file}",
        study=study.orthanc_id,
    )


@dataclass(frozen=True, slots=True)
class Published:
    """One study that was just published; `seconds` from its newest image seen on either Orthanc to publication."""

    study: OrthancId
    study_uid: str
    aet: str
    route: str
    instances: int
    added: int
    bytes: int
    revision: int
    published_at: str
    seconds: float


class PublishStep:
    """Files, record, notification, spool: in this order, so that a crash between two of them repeats the rest."""

    def __init__(
        self,
        publisher: Publisher,
        stores: Stores,
        notifier: PublishNotifier,
        spool: Spool,
        events: StudyEvents,
        clock: Clock,
    ) -> None:
        self._publisher = publisher
        self._custody = stores.custody
        self._claims = stores.claims
        self._notifier = notifier
        self._spool = spool
        self._events = events
        self._clock = clock

    def publish(self, study: StudyState, in_flight: Collection[StudyState]) -> Published | None:
        """Make the study visible and record it; return what was published, None if no image was.

        `in_flight` are all studies in flight: files in the spool of one with the same StudyInstanceUID are left alone.
        Raises DdwdError and OSError; call it again then.
        """
        listing = study.listing
        if listing is None:
            return None
        self._claims.confirm(study.study_id)
        leave_out(study, self._publisher.publish(listing))
        published = self._record(study, listing)
        if study.record is not None:
            self._notifier.notify(study.record)
        has_namesake = any(
            one is not study and one.listing is not None and one.listing.study_uid == listing.study_uid
            for one in in_flight
        )
        self._spool.clear(listing, study.verified, others=has_namesake)
        return published

    def _record(self, study: StudyState, listing: Study) -> Published | None:
        record = next_revision(study, listing, stamp(self._clock.utc()))
        if record is None:
            return None
        before = study.record.images if study.record else {}
        added = [kept for one, kept in record.images.items() if one not in before]
        if added:
            self._events.verified(study, added)
        self._custody.write(record)
        is_new = record.history[-1]["added"] or (record.revision == 1 and not record.passed)
        published = self._published(study, record) if is_new or study.restored else None
        study.record, study.restored = record, 0
        return published

    def _published(self, study: StudyState, record: Record) -> Published:
        seconds = round(self._clock.monotonic() - study.grew_at, 3)
        self._events.published(study, record, seconds)
        return Published(
            study=record.study,
            study_uid=record.study_uid,
            aet=study.timeline.aet,
            route=record.route,
            instances=len(record.images),
            added=record.history[-1]["added"],
            bytes=sum(kept.size for kept in record.images.values()),
            revision=record.revision,
            published_at=record.published_at,
            seconds=seconds,
        )
