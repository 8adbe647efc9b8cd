"""Publish step: verified files become the study's folder in OUTPUT_DIR, then the custody record proves it. Written by the extractor alone.

A new study is laid out in `staging/` (same file system) and appears in one rename of the finished folder. Images that come
later are added one by one, each by a link that cannot replace a file. No link below OUTPUT_DIR is followed. No file is ever
overwritten: other content under a name that is taken is a conflict and goes to quarantine with its reason.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ddwd.core import durable, safe_folder
from ddwd.core.clock import stamp
from ddwd.extractor.quarantine import QuarantinedObject
from ddwd.store.custody import FORMAT, Record, report_change
from ddwd.store.hook_queue import Notice
from ddwd.store.status_files import FinishedStudy

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.config.routing import Route
    from ddwd.core.clock import Clock
    from ddwd.core.model import OrthancId, Study, Wanted
    from ddwd.extractor.namesakes import Namesakes
    from ddwd.extractor.quarantine import Quarantine
    from ddwd.extractor.spool import Spool
    from ddwd.extractor.study import StudyState
    from ddwd.extractor.study_events import StudyEvents
    from ddwd.store.claims import Claims
    from ddwd.store.custody import Custody
    from ddwd.store.hook_queue import HookQueue
    from ddwd.store.output_tree import OutputTree


@dataclass
class Publisher:
    """Moves the files of studies from the spool to staging, and from staging to OUTPUT_DIR."""

    paths: Paths
    quarantine: Quarantine

    def staged(self, study: OrthancId, file: str) -> Path:
        """Return the path of a verified file in staging."""
        return self.paths.staging / study / file

    def stage(self, source: Path, study: OrthancId, wanted: Wanted) -> Path:
        """Link a verified file of the spool into staging; return the new path. Remove the name in the spool once the new one is durable.

        The receiver may just be making the spool's name durable, to answer Success: until then it must stay.
        """
        target, below = self.staged(study, wanted.file), self.paths.output
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
        staging, target = self.paths.staging / study.orthanc_id, self.paths.output / study.folder
        if not staging.is_dir():
            return []
        if target.is_dir():
            return self._add(study, staging, target)
        durable.make_dirs(target.parent, below=self.paths.output)
        durable.rename(staging, target, below=self.paths.output)
        return []

    def _add(self, study: Study, staging: Path, target: Path) -> list[str]:
        conflicts = []
        for source in sorted(staging.rglob("*.dcm")):
            file = source.relative_to(staging)
            durable.make_dirs((target / file).parent, below=self.paths.output)
            if not self._place(source, target / file):
                reason = f"other content is already published as {file.as_posix()}"
                self.quarantine.put(
                    source, QuarantinedObject("conflict", study.study_uid, reason, study.orthanc_id)
                )
                conflicts.append(file.as_posix())
        remove_empty(staging, self.paths.output)
        return conflicts

    def _place(self, source: Path, final: Path) -> bool:
        """Give `source` its final name and drop the old one; return False if other content has that name."""
        try:
            durable.link_new(source, final, self.paths.output)
        except FileExistsError:
            if self._digest(source) != self._digest(final):
                return False
        durable.fsync_dir(final.parent, self.paths.output)
        durable.unlink(source, self.paths.output)
        return True

    def _digest(self, path: Path) -> bytes:
        with safe_folder.opened(path, self.paths.output) as file:
            return hashlib.file_digest(file, "sha256").digest()


def remove_empty(folder: Path, below: Path) -> None:
    """Remove a folder and those in it, if they are empty; `below` is OUTPUT_DIR."""
    for inner in [*sorted(folder.rglob("*"), reverse=True), folder]:
        if inner.is_dir() and not inner.is_symlink():
            durable.remove_folder(inner, below)


@dataclass
class PublishNotifier:
    """Writes the marker file of a published study, and queues its hook, as its route says. Both effects are idempotent."""

    routes: Mapping[str, Route]
    output: OutputTree
    notices: HookQueue
    folder: Path
    """OUTPUT_DIR."""

    def notify(self, record: Record) -> None:
        """Notify of one study, after its record is durable and before the ledger closes it: a crash between the two repeats it.

        Raises StorageFullError, LinkedError and OSError: call it again then.
        """
        route = self.routes.get(record.route)
        if route is None:
            return
        if route.marker:
            self.output.mark(record, route.marker, _marker(record))
        if route.has_hook:
            notice = Notice(
                study=record.study,
                study_uid=record.study_uid,
                route=record.route,
                path=str(self.folder / record.folder),
                revision=record.revision,
                instances=len(record.images),
                published_at=record.published_at,
                custody=FORMAT.body(record),
            )
            self.notices.put(notice)


@dataclass
class PublishStep:
    """Files, record, namesakes, notification, spool: in this order, so that a crash between two of them repeats the rest."""

    publisher: Publisher
    custody: Custody
    claims: Claims
    namesakes: Namesakes
    notifier: PublishNotifier
    spool: Spool
    events: StudyEvents
    clock: Clock

    def publish(self, study: StudyState, in_flight: Collection[StudyState]) -> FinishedStudy | None:
        """Make the study visible and record it; return what was published, None if no image was.

        `in_flight` are all studies in flight: files in the spool of one with the same StudyInstanceUID are left alone.
        Raises DdwdError and OSError; call it again then.
        """
        listing = study.listing
        if listing is None:
            return None
        self.claims.confirm(study.study_id)
        _leave_out(study, self.publisher.publish(listing))
        if study.is_changed:
            published = self._record(study, listing)
        else:
            published = None
            self.confirm(study)
        if study.record is not None:
            self.namesakes.report(study.record)
            self.notifier.notify(study.record)
        has_namesake = any(
            one is not study and one.listing is not None and one.listing.study_uid == listing.study_uid
            for one in in_flight
        )
        self.spool.clear(listing, study.verified, others=has_namesake)
        return published

    def confirm(self, study: StudyState) -> None:
        """State the record of a finished study again if its last change may have no audit event."""
        if study.is_unstated and study.record is not None:
            content = self.custody.stored(study.study_id) or b""
            digest = hashlib.sha256(content).hexdigest()
            report_change(
                self.events.audit, study.record, digest, "confirmed after an interruption or a retry"
            )
        study.is_unstated = False

    def _record(self, study: StudyState, listing: Study) -> FinishedStudy | None:
        seconds = round(self.clock.monotonic() - study.grew_at, 3)
        record = _next_revision(study, listing, stamp(self.clock.utc()), seconds)
        before = study.record.images if study.record else {}
        added = [image for one, image in record.images.items() if one not in before]
        if added:
            self.events.verified(study, added)
        digest = self.custody.write(record)
        is_new = record.history[-1]["added"] or (record.revision == 1 and not record.passed)
        published = None
        if is_new or study.restored:
            self.events.published(study, record, digest, seconds)
            published = FinishedStudy(
                study=record.study,
                study_uid=record.study_uid,
                aet=study.timeline.aet,
                route=record.route,
                instances=len(record.images),
                added=record.history[-1]["added"],
                bytes=sum(image.size for image in record.images.values()),
                revision=record.revision,
                published_at=record.published_at,
                seconds=seconds,
            )
        else:
            report_change(self.events.audit, record, digest, "no image added")
        study.record, study.restored, study.is_unstated = record, 0, False
        return published


def _next_revision(study: StudyState, listing: Study, at: str, seconds: float) -> Record:
    """Return the next custody record, of the study's present state, published at the UTC stamp `at`, `seconds` after its newest image."""
    before = study.record.images if study.record else {}
    # images that retention removed stay recorded: no Orthanc can give them back
    removed = {one: image for one, image in before.items() if image.removed and one not in study.set_aside}
    revision = study.record.revision + 1 if study.record else 1
    history = list(study.record.history) if study.record else []
    history.append(
        {
            "revision": revision,
            "at": at,
            "added": len(study.verified.keys() - before.keys()),
            "restored": study.restored,
            "aet": study.timeline.aet,
            "hops": study.timeline.hops,
            "seconds": seconds,
        }
    )
    return Record(
        study=study.study_id,
        study_uid=listing.study_uid,
        accession=listing.accession,
        folder=study.record.folder if study.record else listing.folder,
        revision=revision,
        published_at=at,
        images=dict(sorted((removed | study.verified).items())),
        set_aside=dict(sorted(study.set_aside.items())),
        history=history,
        route=study.route.name if study.route else "",
        retired=dict(study.record.retired) if study.record else {},
        passed=sorted(study.passed),
        namesakes=list(study.record.namesakes) if study.record else [],
        tags=_tags(listing),
    )


def _tags(listing: Study) -> dict[str, str]:
    """Return what describes the study, as storage has it; without the tags that are empty."""
    found = {"PatientID": listing.patient_id}
    found |= {tag: listing.tags.get(tag, "") for tag in ("StudyDate", "StudyDescription")}
    found["Modality"] = "\\".join(
        sorted({series.tags.get("Modality", "") for series in listing.series} - {""})
    )
    return {tag: value for tag, value in found.items() if value}


def _leave_out(study: StudyState, taken: Collection[str]) -> None:
    """Take the images out whose file names (`taken`) already had other content on disk: they are in quarantine, not published."""
    for instance, image in list(study.verified.items()):
        if image.file not in taken:
            continue
        if study.record is not None and instance in study.record.images:
            study.verified[instance] = replace(study.record.images[instance], at_gateway=True)
        else:
            del study.verified[instance]
            study.set_aside[instance] = "other content is published under its name"


def _marker(record: Record) -> bytes:
    """Return the content of the marker file; the same for the same revision."""
    body = {
        "study_uid": record.study_uid,
        "revision": record.revision,
        "instances": len(record.images),
        "published_at": record.published_at,
    }
    return json.dumps(body).encode("ascii") + b"\n"
