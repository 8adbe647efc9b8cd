"""Queue of storage commitment requests (PS3.4 annex J) without a report yet: one file each, so that a restart loses none.

The Orthanc that received the request adds it (orthanc/plugin.py); ddwd-commitment removes it after the report. Two users share the
folder, and a request has values from the modality, so that each file is checked when it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from ddwd.core import durable
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock
from ddwd.core.errors import DdwdError, InvalidValueError, StateError
from ddwd.core.model import PADDING, is_uid, parse_aet
from ddwd.store.rejected_files import RejectedFiles
from ddwd.store.statefile import StateFormat

_MOST = 1000  # limit of waiting requests
_MOST_BYTES = 64 * 1024 * 1024
"""More than a request for a hundred thousand objects has; what is longer is cut, and so damaged."""
_NAME_DIGITS = 32


class Reference(NamedTuple):
    """One requested object: its SOP class UID and SOPInstanceUID."""

    sop_class: str
    sop_uid: str


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """One N-ACTION (PS3.4 table J.3-1): AE title, transaction UID, time of arrival, requested objects.

    Raises InvalidValueError for a request that cannot be answered: an invalid UID, or no object.
    """

    aet: str
    transaction: str
    at: datetime
    references: tuple[Reference, ...]

    def __post_init__(self) -> None:
        parse_aet(self.aet)
        if not is_uid(self.transaction):
            raise InvalidValueError("its transaction UID is not a UID")
        if not self.references:
            raise InvalidValueError("it has no object")
        if not all(is_uid(uid) for reference in self.references for uid in reference):
            raise InvalidValueError("it names an object by a text that is not a UID")


_FORMAT = StateFormat(CommitmentRequest, "request", schema=1)


def commitment_request(
    aet: str, transaction: str, sop_classes: Sequence[str], sop_uids: Sequence[str], at: datetime
) -> CommitmentRequest:
    """Return the request that Orthanc received, without padding and duplicates. Raises InvalidValueError."""
    pairs = zip(sop_classes, sop_uids, strict=True)
    references = (Reference(sop_class.strip(PADDING), uid.strip(PADDING)) for sop_class, uid in pairs)
    return CommitmentRequest(aet.strip(), transaction.strip(PADDING), at, tuple(dict.fromkeys(references)))


class CommitmentQueue:
    """The folder of requests."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rejected = RejectedFiles("request for storage commitment")

    def add(self, request: CommitmentRequest) -> None:
        """Store a request durably; a duplicate of a waiting request has no effect. Raises StateError if too many wait, and OSError."""
        words = [request.aet, request.transaction, *(uid for pair in request.references for uid in pair)]
        name = hashlib.sha256("|".join(words).encode()).hexdigest()[:_NAME_DIGITS]
        path = self._folder / f"{name}.json"
        if path.exists():
            return
        if len(self.waiting()) >= _MOST:
            raise StateError(f"{_MOST} requests are waiting already")
        _FORMAT.write_readable(path, request)

    def waiting(self) -> list[Path]:
        """Return the files of the waiting requests, by name. Raises OSError."""
        found = (path for path in self._folder.iterdir() if path.suffix == ".json" and path.name[0] != ".")
        return sorted(path for path in found if path not in self._rejected)

    def read(self, path: Path) -> CommitmentRequest | None:
        """Return one request; None if it is no file that can be read, and was put aside. Raises InvalidValueError if it is damaged."""
        found = self._rejected.read(path, _MOST_BYTES)
        return None if found is None else _FORMAT.parse_input(found.content, path.name)

    def done(self, path: Path) -> None:
        """Delete a request that was answered. Raises OSError."""
        durable.unlink(path)


class CommitmentIntake:
    """Accepts the requests of modalities: stores and audits each. `queue` is None if the settings allow no modality."""

    def __init__(self, queue: CommitmentQueue | None, audit: Audit, clock: Clock) -> None:
        self._queue = queue
        self._audit = audit
        self._clock = clock

    def take(self, aet: str, transaction: str, sop_classes: Sequence[str], sop_uids: Sequence[str]) -> None:
        """Accept one request. One that cannot be stored gets an audit event and no report, so that the modality keeps its images."""
        try:
            if self._queue is None:
                raise StateError("the modality is not in commitment.modalities")
            request = commitment_request(aet, transaction, sop_classes, sop_uids, self._clock.utc())
            self._queue.add(request)
        except (DdwdError, OSError) as error:
            reason = f"it cannot be stored ({error.strerror})" if isinstance(error, OSError) else str(error)
            message = f"the storage commitment request of {aet} gets no report: {reason}"
            self._audit.record(Event.COMMITMENT_FAILED, message, aet=aet)
            return
        self._audit.record(
            Event.COMMITMENT_ASKED,
            f"{request.aet} asks whether {len(request.references)} objects are kept",
            aet=request.aet,
            instances=len(request.references),
            transaction=request.transaction,
        )
