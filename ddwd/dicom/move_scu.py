"""One C-MOVE: have ORTHANC2 send instances to our SCP. Called by steps/cmove.

Its status is a hint only: an Orthanc can answer Success although it sent no instance, and one refused instance ends the whole
operation without counts. Only the spool shows what arrived. The identifier carries the level and UIDs and no other key:
an AccessionNumber in it would take precedence over the StudyInstanceUID and move another set.
"""

from __future__ import annotations

import queue
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.status import QR_MOVE_SERVICE_CLASS_STATUS

from ddwd.core.errors import PeerDownError, PeerRefusedError
from ddwd.dicom import contexts
from ddwd.dicom.upper_layer import Peer, associate, check_established, notice_loss

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

_PENDING = frozenset({0xFF00, 0xFF01})  # PS3.4 table C.4-2
_LOOK = 0.2
"""Seconds between two checks of `cancel` and of the progress at the destination."""
_LONGEST = 3600.0
"""Seconds without a response after which progress at the destination, which may be of another move, no longer counts."""
_CANCEL_GRACE = 10.0
"""Seconds that the peer has to answer a C-CANCEL."""


@dataclass(frozen=True, slots=True)
class MoveOutcome:
    """One C-MOVE-RSP (PS3.7 section 9.1.4): DIMSE status, counts of sub-operations, the peer's comment."""

    status: int
    completed: int = 0
    failed: int = 0
    comment: str = ""

    @property
    def ok(self) -> bool:
        """Whether the peer claims that every sub-operation succeeded."""
        return self.status == 0 and not self.failed

    @property
    def code(self) -> str:
        """The DIMSE status as `status_codes.MEANINGS` spells it."""
        return f"0x{self.status:04X}"

    def describe(self) -> str:
        """Return the status in words, with the counts; no identifiers of a patient."""
        _, words = QR_MOVE_SERVICE_CLASS_STATUS.get(self.status, ("", ""))
        text = f"C-MOVE status {self.code}" + (f" ({words})" if words else "")
        text += f", {self.completed} sent, {self.failed} failed"
        return f"{text}: {self.comment}" if self.comment else text


class _WatchedDimse(DIMSEServiceProvider):
    """Waits for a response in short turns, while `turn(since)` is true; `since` is when the wait began."""

    turn: Callable[[float], bool] | None = None

    def get_msg(self, block: bool = False) -> Any:
        """Return the next message; (None, None) once `turn` returns False."""
        if not block or self.turn is None:
            return super().get_msg(block)
        since = time.monotonic()
        while self.turn(since):
            with suppress(queue.Empty):
                return self.msg_queue.get(timeout=_LOOK)
        return None, None


class Mover:
    """A C-MOVE SCU that keeps its association between moves, for one thread; use it in a `with` statement.

    `timeout` is the silence in seconds (no response of the peer, no progress at the destination) after which the peer counts as down.
    """

    def __init__(self, peer: Peer, destination: str, timeout: float = 300.0) -> None:
        self._peer = peer
        self._destination = destination
        self._timeout = timeout
        self._association: Association | None = None
        self._message_id = 0
        self._cancel: threading.Event | None = None
        self._cancelled_at: float | None = None
        self._progressed: Callable[[], float] | None = None

    def __enter__(self) -> Mover:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the association; after an exception abort it, because its peer may still be sending."""
        association, self._association = self._association, None
        if association is not None and error is not None:
            association.abort()
        if association is not None and association.is_established:
            association.release()

    def move(
        self,
        study_uid: str,
        series_uid: str | Sequence[str] | None = None,
        sop_uids: Sequence[str] | None = None,
        *,
        on_progress: Callable[[MoveOutcome], None] | None = None,
        progressed: Callable[[], float] | None = None,
        cancel: threading.Event | None = None,
    ) -> MoveOutcome:
        """Move a study, one or more of its series, or instances of it (PS3.4 section C.4.2), and wait for the end.

        `on_progress` gets each pending response. `progressed` returns when (time.monotonic) something last arrived at the
        destination, so that one huge instance does not count as silence; it is called five times a second during the move.
        Setting `cancel` sends a C-CANCEL; a peer that does not answer it counts as down after ten seconds.
        Raises PeerDownError where there is no association or it broke, PeerRefusedError where it was rejected.
        """
        association = self._associated()
        self._cancel, self._cancelled_at, self._progressed = cancel, None, progressed
        self._message_id = self._message_id % 0xFFFF + 1
        responses = association.send_c_move(
            identifier(study_uid, series_uid, sop_uids),
            self._destination,
            contexts.MOVE_MODEL,
            msg_id=self._message_id,
        )
        for status, _ in responses:
            outcome = _outcome(status)
            if outcome.status not in _PENDING:
                return outcome
            if on_progress is not None:
                on_progress(outcome)
        raise PeerDownError(f"{self._peer.called} broke off a C-MOVE without a final response")

    def _associated(self) -> Association:
        if self._association is not None and self._association.is_established:
            return self._association
        self._association = None
        association = _established(self._peer, contexts.for_move(), self._timeout)
        if not any(
            context.abstract_syntax == contexts.MOVE_MODEL for context in association.accepted_contexts
        ):
            association.release()
            raise PeerRefusedError(f"{self._peer.called} does not offer C-MOVE to {self._peer.calling}")
        notice_loss(association)
        watched = _WatchedDimse(association)
        watched.turn = self._turn
        association.dimse = watched
        self._association = association
        return association

    def _turn(self, since: float) -> bool:
        """Return whether to go on waiting for a response."""
        now = time.monotonic()
        progressed = self._progressed() if self._progressed is not None else since
        if self._cancel is not None and self._cancel.is_set():
            return self._cancelling(now)
        last = max(since, min(progressed, since + _LONGEST))
        return now - last < self._timeout

    def _cancelling(self, now: float) -> bool:
        if self._cancelled_at is None:
            self._cancelled_at = now
            if self._association is not None and self._association.is_established:
                self._association.send_c_cancel(self._message_id, query_model=contexts.MOVE_MODEL)
        return now - self._cancelled_at < _CANCEL_GRACE


def identifier(
    study_uid: str, series_uid: str | Sequence[str] | None, sop_uids: Sequence[str] | None
) -> Dataset:
    """Return the identifier of a retrieve (PS3.4 section C.4.2.1.4): the level and its unique keys only."""
    keys = Dataset()
    keys.QueryRetrieveLevel = "IMAGE" if sop_uids else "SERIES" if series_uid else "STUDY"
    keys.StudyInstanceUID = study_uid
    if series_uid:
        keys.SeriesInstanceUID = [series_uid] if isinstance(series_uid, str) else list(series_uid)
    if sop_uids:
        keys.SOPInstanceUID = list(sop_uids)
    return keys


def echo(peer: Peer, timeout: float = 5.0) -> bool:
    """Return whether the peer answers a C-ECHO within `timeout` seconds (PS3.7 section 9.1.5)."""
    try:
        require_echo(peer, timeout)
    except (PeerDownError, PeerRefusedError):
        return False
    return True


def require_echo(peer: Peer, timeout: float = 5.0) -> None:
    """Send a C-ECHO. Raises PeerDownError or PeerRefusedError, which say why there is no success within `timeout` seconds."""
    association = _established(peer, contexts.for_echo(), timeout)
    answer = association.send_c_echo()
    if association.is_established:
        association.release()
    status = getattr(answer, "Status", None)
    if status is None:
        raise PeerDownError(f"{peer} accepted the association and did not answer the C-ECHO")
    if status != 0:
        raise PeerRefusedError(f"{peer} answered the C-ECHO with status 0x{int(status):04X}")


def _established(peer: Peer, proposal: Sequence[PresentationContext], silence: float) -> Association:
    association = associate(peer, proposal, connect=min(silence, 10.0), silence=silence)
    check_established(association, peer)
    return association


def _outcome(status: Dataset) -> MoveOutcome:
    """Read a C-MOVE-RSP. Without a status, which means that the association ended, raises PeerDownError."""
    if "Status" not in status:
        raise PeerDownError("the peer closed the association, or was silent too long, during a C-MOVE")
    return MoveOutcome(
        status=int(status.Status),
        completed=int(status.get("NumberOfCompletedSuboperations") or 0),
        failed=int(status.get("NumberOfFailedSuboperations") or 0),
        comment=str(status.get("ErrorComment") or ""),
    )
