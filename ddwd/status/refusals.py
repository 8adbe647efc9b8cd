"""Refused images of a study, from the journal: ddwd-acceptor, which must not reach the ledger, records them only there. Reads only."""

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

    Refusals = Callable[[str], list[AuditEvent]]
    """StudyInstanceUID -> its refused images, the oldest first. Raises StateError if this user may not read the journal."""

_MOST = 200
_JOURNALS = (Path("/var/log/journal"), Path("/run/log/journal"))


def of_study(study_uid: str) -> list[AuditEvent]:
    """Return the latest refused images of a study, the oldest first; none without systemd. Raises StateError if the journal cannot be read."""
    if journal is None or not study_uid:
        return []
    if not _is_readable():
        raise StateError("refused images are in the journal, for root and group systemd-journal")
    try:
        reader = journal.Reader()
        reader.add_match(*selection())
        reader.add_match(DDWD_EVENT=Event.IMAGE_REFUSED.value)
        reader.add_match(DDWD_STUDY_UID=study_uid)
        reader.seek_tail()
        found: list[AuditEvent] = []
        while len(found) < _MOST and (record := reader.get_previous()):
            if is_genuine(record):
                found.append(_refused(record))
    except OSError as error:
        raise StateError(f"the journal cannot be read ({error.strerror})") from error
    return found[::-1]


def _is_readable() -> bool:
    """Return whether this user may read the system's journal: to others it looks empty."""
    for folder in _JOURNALS:
        with suppress(OSError):
            for path in folder.glob("*/system.journal"):
                with suppress(OSError), path.open("rb"):
                    return True
    return False


def _refused(record: Mapping[str, Any]) -> AuditEvent:
    at = record["__REALTIME_TIMESTAMP"]
    fields = {key: str(value) for key, value in record.items() if key.startswith("DDWD_")}
    moment = at if isinstance(at, datetime) else datetime.fromtimestamp(int(at) / 1_000_000, UTC)
    message = str(record.get("MESSAGE", ""))
    event = Event.IMAGE_REFUSED.value
    return event_of(
        {"at": stamp(moment.astimezone(UTC)), "event": event, "message": message, "fields": fields}
    )
