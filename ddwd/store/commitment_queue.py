"""Queue of storage commitment requests (PS3.4 annex J) without an answer yet: one file each, so that a restart loses none.

The Orthanc that received the request adds it (orthanc/plugin.py); ddwd-commitment removes it after the answer. Two users share the
folder, and a request has the modality's own values, so that each file is checked when it is read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from ddwd.core import durable
from ddwd.core.audit import Event
from ddwd.core.errors import DdwdError, InvalidValueError, StateError
from ddwd.core.model import is_uid, parse_aet
from ddwd.store.statefile import StateFormat

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ddwd.core.audit import Audit
    from ddwd.core.clock import Clock

_MOST = 1000
"""Limit of waiting requests; a modality has a handful."""
_NAME_DIGITS = 32
_PADDING = " \0"


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
        """Reject a request that cannot be answered."""
        parse_aet(self.aet)
        if not is_uid(self.transaction):
            raise InvalidValueError("its transaction UID is no UID")
        if not self.references:
            raise InvalidValueError("it asks for no object")
        if not all(is_uid(uid) for reference in self.references for uid in reference):
            raise InvalidValueError("it asks for objects by what is no UID")


_FORMAT = StateFormat(CommitmentRequest, "request", schema=1)


def commitment_request(
    aet: str, transaction: str, sop_classes: Sequence[str], sop_uids: Sequence[str], at: datetime
) -> CommitmentRequest:
    """Return the request that Orthanc passes on, without padding and duplicates. Raises InvalidValueError."""
    pairs = zip(sop_classes, sop_uids, strict=True)
    references = (Reference(one.strip(_PADDING), other.strip(_PADDING)) for one, other in pairs)
    return CommitmentRequest(aet.strip(), transaction.strip(_PADDING), at, tuple(dict.fromkeys(references)))


class CommitmentQueue:
    """The folder of requests."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, request: CommitmentRequest) -> None:
        """Store a request durably; a duplicate of a waiting request has no effect. Raises StateError if too many wait, and OSError."""
        path = self._folder / _name(request)
        if path.exists():
            return
        if len(self.waiting()) >= _MOST:
            raise StateError(f"{_MOST} requests wait already")
        _FORMAT.write_readable(path, request)

    def waiting(self) -> list[Path]:
        """Return the files of the waiting requests, by name. Raises OSError."""
        return sorted(
            path for path in self._folder.iterdir() if path.suffix == ".json" and path.name[0] != "."
        )

    def read(self, path: Path) -> CommitmentRequest:
        """Return one request. Raises InvalidValueError if it is damaged, and OSError."""
        with durable.opened(path) as file:
            content = file.read()
        return _FORMAT.parse_input(content, path.name)

    def done(self, path: Path) -> None:
        """Delete a request that was answered. Raises OSError."""
        durable.unlink(path)


class CommitmentIntake:
    """Accepts the requests of modalities: stores and audits each. `commitments` is None if no request is answered."""

    def __init__(self, commitments: CommitmentQueue | None, audit: Audit, clock: Clock) -> None:
        self._commitments = commitments
        self._audit = audit
        self._clock = clock

    def take(self, aet: str, transaction: str, sop_classes: Sequence[str], sop_uids: Sequence[str]) -> None:
        """Accept one request. One that cannot be stored is audited and never answered, so that the modality keeps its images."""
        try:
            if self._commitments is None:
                raise StateError("it is not in commitment.modalities")
            request = commitment_request(aet, transaction, sop_classes, sop_uids, self._clock.utc())
            self._commitments.add(request)
        except (DdwdError, OSError) as error:
            why = (
                f"its request cannot be kept ({error.strerror})" if isinstance(error, OSError) else str(error)
            )
            self._audit.record(
                Event.COMMITMENT_FAILED, f"{aet} asks for storage commitment in vain: {why}", aet=aet
            )
            return
        self._audit.record(
            Event.COMMITMENT_ASKED,
            f"{request.aet} asks whether {len(request.references)} objects are kept",
            aet=request.aet,
            instances=len(request.references),
            transaction=request.transaction,
        )


def _name(request: CommitmentRequest) -> str:
    words = [request.aet, request.transaction, *(uid for one in request.references for uid in one)]
    return hashlib.sha256("|".join(words).encode()).hexdigest()[:_NAME_DIGITS] + ".json"
