"""Events of a study that are in the journal alone: refused images, and requests by REST. Reads only.

ddwd-acceptor and the plugin of the Orthancs, which must not reach the ledger, record them there.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddwd.core.audit import Event, is_genuine, journal, selection
from ddwd.core.clock import stamp
from ddwd.core.errors import StateError
from ddwd.status.events import AuditEvent, event_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    JournalEvents = Callable[[str], list[AuditEvent]]
    """A study -> its events of one kind, the oldest first. Raises StateError if this user may not read the journal."""

_MOST = 200
BULK_DELETE = "/tools/bulk-delete"
"""The resource of requests whose body names what to delete."""
_JOURNALS = (Path("/var/log/journal"), Path("/run/log/journal"))


def refusals_of(study_uid: str) -> list[AuditEvent]:
    """Return the latest refused images of a StudyInstanceUID, the oldest first; none without systemd. Raises StateError."""
    if not study_uid:
        return []
    return _events(Event.IMAGE_REFUSED, {"DDWD_STUDY_UID": study_uid})


def changes_of(study: str) -> list[AuditEvent]:
    """Return the latest requests by REST to change a study (its Orthanc ID), and those to delete a list of things, which is in their body.

    The oldest first; otherwise as `refusals_of`.
    """
    about = [{"DDWD_STUDY": study}, {"DDWD_RESOURCE": BULK_DELETE}]
    found = [event for matches in about for event in _events(Event.CHANGED_BY_REST, matches)]
    return sorted(found, key=lambda event: event.at)


def _events(event: Event, matches: Mapping[str, str]) -> list[AuditEvent]:
    if journal is None:
        return []
    if not is_readable():
        raise StateError(
            "refused images and requests by REST are in the journal, for root and group systemd-journal"
        )
    try:
        reader = journal.Reader()
        reader.add_match(*selection())
        reader.add_match(DDWD_EVENT=event.value, **matches)
        reader.seek_tail()
        found: list[AuditEvent] = []
        while len(found) < _MOST and (record := reader.get_previous()):
            if is_genuine(record):
                found.append(_event(event, record))
    except OSError as error:
        raise StateError(f"the journal cannot be read ({error.strerror})") from error
    return found[::-1]


def is_readable() -> bool:
    """Return whether this user may read the system's journal: to others it looks empty."""
    for folder in _JOURNALS:
        with suppress(OSError):
            for path in folder.glob("*/system.journal"):
                with suppress(OSError), path.open("rb"):
                    return True
    return False


def written_at(record: Mapping[str, Any]) -> str:
    """Return the stamp of a record of the journal."""
    written = record["__REALTIME_TIMESTAMP"]
    moment = (
        written if isinstance(written, datetime) else datetime.fromtimestamp(int(written) / 1_000_000, UTC)
    )
    return stamp(moment.astimezone(UTC))


def _event(event: Event, record: Mapping[str, Any]) -> AuditEvent:
    fields = {key: str(value) for key, value in record.items() if key.startswith("DDWD_")}
    message = str(record.get("MESSAGE", ""))
    return event_of({"at": written_at(record), "event": event.value, "message": message, "fields": fields})
