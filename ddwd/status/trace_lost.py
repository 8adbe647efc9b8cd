"""What a trace says of images that were received and that an Orthanc no longer has: how many, where, since when, by whose request, what to do. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core.audit import Event
from ddwd.core.printable import many
from ddwd.status.formatting import second
from ddwd.status.journal_events import BULK_DELETE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ddwd.config.schema import Config
    from ddwd.extractor.lost_images import LostImages
    from ddwd.status.events import AuditEvent
    from ddwd.store.custody import Record
    from ddwd.store.status_files import LostStudy

_MOST = 3
"""Requests that are named: an image each may have been deleted by a request of its own."""
_ALSO_DELETES = ("/modify", "/anonymize", "/split", "/merge")
"""Ends of resources that delete by POST, where the request says so."""


def missing(lost: LostImages, accepted: LostStudy | None) -> Iterator[str]:
    """Yield a line for each Orthanc, or one about what the operator accepted."""
    if accepted is not None and not lost:
        images = many(max(accepted.gateway, accepted.storage), "image is", "images are")
        yield f"{images} no longer on an Orthanc, accepted {second(accepted.accepted)}"
    if lost.gateway:
        count = many(len(lost.gateway), "image is", "images are")
        yield f"{count} missing on the gateway, which had received them"
    if lost.storage:
        yield f"{many(len(lost.storage), 'image is', 'images are')} missing on storage, and on the gateway"


def verdict(lost: LostImages, events: Sequence[AuditEvent], changes: Sequence[AuditEvent]) -> str:
    """Return what is missing where, since when, and by whose requests."""
    places = " and ".join(
        f"{len(images)} on {place}"
        for images, place in ((lost.gateway, "ORTHANC1"), (lost.storage, "ORTHANC2"))
        if images
    )
    return f"images that were received are missing: {places}{_since(events)}; {_by_whom(changes)}"


def _since(events: Sequence[AuditEvent]) -> str:
    """Return when the extractor noticed it, if it has."""
    told = [event for event in events if event.event in {Event.LOST, Event.LOST_FOUND}]
    noticed = ""
    for event in told:  # the oldest first: of several losses in a row the first one began it
        noticed = "" if event.event == Event.LOST_FOUND else noticed or event.at
    return f", noticed {second(noticed)}" if noticed else ""


def _by_whom(changes: Sequence[AuditEvent]) -> str:
    deleting = [event for event in changes if _may_delete(event)]
    if not deleting:
        return "the journal has no request by REST that removed them"
    texts = [
        f"{second(event.at)} {event.fields.get('user')} from {event.fields.get('address')}:"
        f" {event.fields.get('method')} {event.fields.get('resource')} on the {event.fields.get('peer')}"
        for event in deleting[-_MOST:]
    ]
    more = len(deleting) - len(texts)
    before = f" ({more:,} more before)" if more else ""
    return f"asked for by REST{before}: {', '.join(texts)}"


def _may_delete(event: AuditEvent) -> bool:
    method, resource = event.fields.get("method", ""), event.fields.get("resource", "")
    is_deleting = method == "DELETE" or resource.endswith(_ALSO_DELETES) or resource == BULK_DELETE
    return is_deleting and "/metadata/" not in resource and event.fields.get("granted") == "yes"


def of_record(changes: Sequence[AuditEvent], record: Record) -> list[AuditEvent]:
    """Return the changes that may be about the study: not a request to delete a list of things that came before it."""
    return [
        event
        for event in changes
        if event.fields.get("resource") != BULK_DELETE or event.at >= record.published_at
    ]


def remedy(config: Config, record: Record) -> str:
    """Return the command that brings the images from the disk back to both Orthancs; its folder without the PatientID."""
    _, _, name = record.folder.rpartition("/")
    where = (
        f"{config.output_dir}/*/{name}"
        if name == record.study_uid
        else f"the study's folder below {config.output_dir}"
    )
    accept = f"if they were removed on purpose: ddwd reconcile --accept {record.study_uid}"
    return f"{accept}; otherwise ddwd verify {record.study_uid}, then from the disk: ddwd send {where}"
