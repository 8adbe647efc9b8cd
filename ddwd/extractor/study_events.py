"""Report the steps of a study as audit events, from what the reconciler saw and did. Makes no decision.

Each step is recorded once for each batch of new images, however often the study is observed: `received`, `forwarded`,
`retrieve-started`, `verified` and `published` for a study that simply passes, and again for images that come late. `received` is recorded
for the first images, so that it stands before what is done with them, and for the others once they have come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.core.audit import Audit, Event
from ddwd.core.printable import many
from ddwd.extractor.decision import Stage
from ddwd.store.custody import statement

if TYPE_CHECKING:
    from ddwd.core.errors import Failure
    from ddwd.extractor.decision import Decision, Observation
    from ddwd.extractor.study import StudyState
    from ddwd.store.custody import InstanceRecord, Record

_SETTLED = frozenset({Stage.FORWARDING, Stage.RETRIEVING, Stage.READY})


@dataclass
class StudyEvents:
    """Writes the events of studies; the audit sends them to the journal and the ledger."""

    audit: Audit

    def observed(self, study: StudyState, seen: Observation, decision: Decision) -> None:
        """Report what came, and how far it is on its way to storage."""
        timeline, is_settled = study.timeline, decision.stage in _SETTLED
        at_gateway, at_storage = timeline.count("gateway"), timeline.count("storage")
        if decision.stage is Stage.HELD and timeline.unreported(Event.HELD, 1):
            self._record(Event.HELD, decision.reason, study, instances=len(study.known))
        is_due = is_settled or not timeline.has_reported(Event.RECEIVED)
        if is_due and (more := timeline.unreported(Event.RECEIVED, at_gateway or at_storage)):
            where = "the gateway" if at_gateway else "storage, past the gateway"
            message = f"{many(more, 'image', 'images')} received by {where}"
            self._record(Event.RECEIVED, message + ("" if is_settled else " so far"), study, instances=more)
        if not at_gateway:
            return
        if at_storage and timeline.unreported(Event.FORWARD_STARTED, 1):
            message = "the first images are on storage"
            self._record(Event.FORWARD_STARTED, message, study, instances=at_storage)
        is_forwarded = is_settled and seen.gateway <= seen.storage
        if is_forwarded and (more := timeline.unreported(Event.FORWARDED, at_gateway)):
            self._record(Event.FORWARDED, f"storage has all {at_gateway} images", study, instances=more)

    def forwarding(self, study: StudyState, sent: int) -> None:
        """Report that the extractor sends what the gateway's own forwarding left behind."""
        message = f"sending {sent} images to storage that the gateway's own forwarding left behind"
        self._record(Event.FORWARD_STARTED, message, study, instances=sent)

    def copying(self, study: StudyState, left: int, error: str) -> None:
        """Report that images did not get to storage by STOW-RS, and are copied by REST now."""
        why = f" ({error})" if error else ""
        message = f"{left} images did not get to storage by STOW-RS{why}; they are sent by its REST interface"
        self._record(Event.FORWARD_FAILED, message, study, instances=left, status=error)

    def copied(self, study: StudyState, taken: int) -> None:
        """Report that storage took images by REST."""
        message = f"storage took {taken} images by its REST interface"
        self._record(Event.COPIED, message, study, instances=taken)

    def not_taken(self, study: StudyState, left: int, why: Failure) -> None:
        """Report that storage took images by REST neither."""
        message = f"{why.reason}; will be tried again"
        self._record(Event.FORWARD_FAILED, message, study, instances=left, status=why.status)

    def retrieving(self, study: StudyState) -> None:
        """Report that the first images are retrieved."""
        missing = study.timeline.count("storage")
        if study.timeline.unreported(Event.RETRIEVE_STARTED, 1):
            self._record(Event.RETRIEVE_STARTED, "images are retrieved by C-MOVE", study, instances=missing)

    def failed(self, study: StudyState, why: Failure) -> None:
        """Report that the study has to wait."""
        self._record(Event.RETRIEVE_FAILED, f"will be tried again: {why.reason}", study, status=why.status)

    def verified(self, study: StudyState, added: list[InstanceRecord]) -> None:
        """Report that every new file was compared with storage's copy."""
        identical = sum(image.verdict == "identical" for image in added)
        self._record(
            Event.VERIFIED,
            f"{len(added)} images compared with storage's copies: {identical} identical to the byte, "
            f"{len(added) - identical} equal in every element",
            study,
            instances=len(added),
            bytes=sum(image.size for image in added),
        )

    def published(self, study: StudyState, record: Record, record_sha256: str, seconds: float) -> None:
        """Report that the study, or what came late of it, is visible, and state its record."""
        added = record.history[-1]["added"]
        self._record(
            Event.PUBLISHED if record.revision == 1 else Event.LATE_IMAGE,
            f"{added} images published, {len(record.images)} in all, revision {record.revision}",
            study,
            added=added,
            bytes=sum(image.size for image in record.images.values()),
            seconds=seconds,
            **statement(record, record_sha256),
        )

    def vanished(self, study: StudyState, reason: str, files: int) -> None:
        """Report that both Orthancs deleted a study before it was published."""
        message = f"{reason}; {files} of its images are in quarantine"
        self._record(Event.VANISHED, message, study, instances=len(study.known))

    def _record(self, event: Event, message: str, study: StudyState, **fields: object) -> None:
        listing = study.listing
        details = fields | {
            "aet": study.timeline.aet,
            "route": study.route.name if study.route else "",
            "accession": listing.accession if listing else "",
        }
        self.audit.record(
            event,
            message,
            study_uid=listing.study_uid if listing else "",
            patient_id=listing.patient_id if listing else "",
            study=study.study_id,
            **{key: value for key, value in details.items() if value != ""},
        )
