"""Requests for storage commitment (PS3.4 annex J) that wait for their answer: one small file each, so that a restart loses none.

Added inside the Orthanc that was asked (orthanc/plugin.py), taken away by ddwd-commitment once it was answered. The folder is shared
by two users, and what stands in a request is the modality's own words: nothing is believed before it was parsed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from ddwd.core import durable
from ddwd.core.audit import Event
from ddwd.core.errors import DamagedStateError, DdwdError, InvalidValueError, NewerStateError, StateError
from ddwd.core.model import is_uid, parse_aet
from ddwd.store.statefile import StateFormat

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ddwd.core.audit import Audit
    from ddwd.core.clock import Clock

_MOST = 1000
"""Requests that may wait at once; a modality has a handful."""
_NAME_DIGITS = 32
_MODE = 0o644
"""Readable for ddwd-commitment; its folder keeps everyone else out."""
_PADDING = " \0"


class Reference(NamedTuple):
    """One object that is asked for: its SOP class and its SOPInstanceUID."""

    sop_class: str
    sop_uid: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One N-ACTION (PS3.4 table J.3-1): who asks, under which transaction, when it came, and for what.

    Raises InvalidValueError for what could not be answered: other than UIDs, or nothing at all.
    """

    aet: str
    transaction: str
    at: datetime
    references: tuple[Reference, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        parse_aet(self.aet)
        if not is_uid(self.transaction):
            raise InvalidValueError("its transaction UID is no UID")
        if not self.references:
            raise InvalidValueError("it asks for no object")
        if not all(is_uid(uid) for reference in self.references for uid in reference):
            raise InvalidValueError("it asks for objects by what is no UID")


_FORMAT = StateFormat(Asked, "request", schema=1)


def asked(
    aet: str, transaction: str, sop_classes: Sequence[str], sop_uids: Sequence[str], at: datetime
) -> Asked:
    """The request as Orthanc hands it on, without padding. Raises InvalidValueError."""
    pairs = zip(sop_classes, sop_uids, strict=True)
    references = (Reference(one.strip(_PADDING), other.strip(_PADDING)) for one, other in pairs)
    return Asked(aet.strip(), transaction.strip(_PADDING), at, tuple(dict.fromkeys(references)))


class CommitmentQueue:
    """The folder of requests."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, request: Asked) -> None:
        """Keep a request, durably; the same again while it waits is the same request. Raises StateError where too many wait, OSError."""
        path = self._folder / _name(request)
        if path.exists():
            return
        if len(self.waiting()) >= _MOST:
            raise StateError(f"{_MOST} requests wait already")
        _FORMAT.write_readable(path, request, _MODE)

    def waiting(self) -> list[Path]:
        """The requests that wait, by name. Raises OSError."""
        return sorted(
            path for path in self._folder.iterdir() if path.suffix == ".json" and path.name[0] != "."
        )

    def read(self, path: Path) -> Asked:
        """One of them. Raises InvalidValueError where it is damaged, OSError."""
        with durable.opened(path) as file:
            content = file.read()
        try:
            return _FORMAT.parse(content, path.name)
        except DamagedStateError as error:
            raise InvalidValueError(f"it is damaged ({error.reason})") from error
        except NewerStateError as error:
            raise InvalidValueError("it is of another schema than this version reads") from error

    def done(self, path: Path) -> None:
        """Forget a request. Raises OSError."""
        durable.unlink(path)


class CommitmentIntake:
    """Where a modality's request is taken: written down, and told in the audit. `commitments` is None where nobody would answer."""

    def __init__(self, commitments: CommitmentQueue | None, audit: Audit, clock: Clock) -> None:
        self._commitments = commitments
        self._audit = audit
        self._clock = clock

    def take(self, aet: str, transaction: str, sop_classes: Sequence[str], sop_uids: Sequence[str]) -> None:
        """Take one request. What cannot be taken is told of, and never answered: the modality keeps its images then."""
        try:
            if self._commitments is None:
                raise StateError("it is not in commitment.modalities")
            request = asked(aet, transaction, sop_classes, sop_uids, self._clock.utc())
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


def _name(request: Asked) -> str:
    words = [request.aet, request.transaction, *(uid for one in request.references for uid in one)]
    return hashlib.sha256("|".join(words).encode()).hexdigest()[:_NAME_DIGITS] + ".json"
