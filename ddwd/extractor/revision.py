"""The next revision of a study's custody record. Pure, but for the study's own state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ddwd.store.custody import Record

if TYPE_CHECKING:
    from collections.abc import Collection

    from ddwd.core.model import Study
    from ddwd.extractor.study import StudyState


def next_revision(study: StudyState, listing: Study, at: str) -> Record | None:
    """Return the record of the study's present state, published at the UTC stamp `at`; None if its record says all already."""
    if not study.is_changed:
        return None
    before = study.record.images if study.record else {}
    # images that retention removed stay recorded: no Orthanc can give them back
    removed = {one: kept for one, kept in before.items() if kept.removed and one not in study.set_aside}
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
        passed=sorted(study.all_passed),
    )


def leave_out(study: StudyState, taken: Collection[str]) -> None:
    """Take the images out whose file names (`taken`) already had other content on disk: they are in quarantine, not published."""
    for instance, kept in list(study.verified.items()):
        if kept.file not in taken:
            continue
        if study.record is not None and instance in study.record.images:
            study.verified[instance] = replace(study.record.images[instance], at_gateway=True)
        else:
            del study.verified[instance]
            study.set_aside[instance] = "other content is published under its name"
