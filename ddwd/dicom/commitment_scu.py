"""One N-EVENT-REPORT of storage commitment (PS3.4 section J.3.3), on an association of its own. Called by daemon/commitment.

We are the SCP of the service and the requestor of the association: the role is negotiated (PS3.7 section D.3.3.4). A modality
that accepts the context without an answer to that gets its report too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pynetdicom import build_role

from ddwd.core.errors import PeerDownError, PeerRefusedError
from ddwd.dicom import contexts
from ddwd.dicom.upper_layer import Peer, associate, check_established

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pynetdicom.association import Association

Pair = tuple[str, str]
"""SOP class and SOPInstanceUID."""

SILENCE = 60.0
"""Seconds that the modality has to answer the report; the association may take another ten."""
_INSTANCE = "1.2.840.10008.1.20.1.1"  # the one well-known SOP instance of the service
_ALL_COMMITTED, _SOME_FAILED = 1, 2  # PS3.4 section J.3.3.1: event type ID


def report(
    peer: Peer, transaction: str, committed: Sequence[Pair], failed: Sequence[tuple[Pair, int]]
) -> None:
    """Report to the modality which instances are committed, and which are not for which reason (PS3.3 section C.14.1.1).

    Raises PeerDownError if it does not answer, PeerRefusedError if it does not accept the report.
    """
    role = build_role(contexts.COMMITMENT_MODEL, scp_role=True)
    association = associate(peer, contexts.for_report(), silence=SILENCE, roles=[role])
    where = str(peer)
    if association.rejected_contexts and not association.accepted_contexts:
        raise PeerRefusedError(f"{where} takes no reports of storage commitment")
    check_established(association, peer)
    try:
        _send(association, where, _information(transaction, committed, failed))
    finally:
        if association.is_established:
            association.release()


def _send(association: Association, where: str, information: Dataset) -> None:
    event = _SOME_FAILED if "FailedSOPSequence" in information else _ALL_COMMITTED
    try:
        status, _ = association.send_n_event_report(information, event, contexts.COMMITMENT_MODEL, _INSTANCE)
    except (RuntimeError, ConnectionError) as error:
        raise PeerDownError(f"{where} broke off the association") from error
    if "Status" not in status:
        raise PeerDownError(f"{where} got the report and did not answer it")
    if status.Status:
        code = int(status.Status)
        raise PeerRefusedError(f"{where} answered the report with 0x{code:04X}", code)


def _information(transaction: str, committed: Sequence[Pair], failed: Sequence[tuple[Pair, int]]) -> Dataset:
    """Return the event information of PS3.4 table J.3-2, without empty sequences; UIDs are as in the request."""
    with disable_value_validation():
        found = Dataset()
        found.TransactionUID = transaction
        if committed:
            found.ReferencedSOPSequence = [_item(pair) for pair in committed]
        if failed:
            found.FailedSOPSequence = [_item(pair, reason) for pair, reason in failed]
    return found


def _item(pair: Pair, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = pair
    if reason is not None:
        item.FailureReason = reason
    return item
