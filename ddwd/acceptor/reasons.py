"""Why something was refused, in words for the operator and the vendor, and whether trying again can help. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.acceptor.senders import Refusal
from ddwd.dicom import contexts
from ddwd.dicom.association_pdu import ContextResult
from ddwd.dicom.command import UID_CHARACTERS
from ddwd.dicom.head import Head, UnreadableError, read_beginning, read_study_uid
from ddwd.orthanc.plugin.admission import Admission
from ddwd.store.status_files import RefusalKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ddwd.acceptor.relay import Exchange
    from ddwd.dicom.association_pdu import Answer, Proposal

OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND = 0xA700, 0xA900, 0xC000
_TEXT_CHARACTERS = 64
_NAMED = 4
"""Names that a reason lists: some senders propose all there are."""
_NAMES = (
    ("SOPClassUID", "sop_class"),
    ("SOPInstanceUID", "sop_uid"),
    ("StudyInstanceUID", "study_uid"),
    ("SeriesInstanceUID", "series_uid"),
)
NOT_OFFERED = {
    "1.2.840.10008.5.1.4.1.2.1.1": "C-FIND",
    "1.2.840.10008.5.1.4.1.2.1.2": "C-MOVE",
    "1.2.840.10008.5.1.4.1.2.1.3": "C-GET",
    "1.2.840.10008.5.1.4.1.2.2.1": "C-FIND",
    "1.2.840.10008.5.1.4.1.2.2.2": "C-MOVE",
    "1.2.840.10008.5.1.4.1.2.2.3": "C-GET",
    "1.2.840.10008.5.1.4.31": "the modality worklist",
}
"""Services that ORTHANC1 does not offer, by the abstract syntax of their contexts (PS3.4 annexes C and K)."""


_VERDICTS = {
    Admission.NO_SPACE.value: (OUT_OF_RESOURCES, "the disk has less free space than disk.reserve"),
    Admission.TOO_DEEP.value: (CANNOT_UNDERSTAND, "its sequences are nested too deep: ORTHANC1 would crash"),
}


def of_image(refusal: Refusal, exchange: Exchange, transfer_syntax: str, verdict: str = "") -> Refusal:
    """Return the refusal with what can be said of its image, and with its reason where it has only the status that ORTHANC1 answered.

    `verdict` is that of the admission filter, if it refused the image.
    """
    status, reason = refusal.status, refusal.reason
    if not reason and status is not None:
        status, reason = _judged(status, _fault(exchange.head, transfer_syntax), verdict)
    request = exchange.request
    sop_class, sop_uid = (request.sop_class, request.sop_instance) if request else ("", "")
    study_uid = read_study_uid(exchange.head, transfer_syntax)
    return Refusal(refusal.kind, reason, status, sop_class, sop_uid, study_uid)


def _judged(status: int, fault: str, verdict: str) -> tuple[int, str]:
    """Return the status that the modality gets, and why. ORTHANC1 answers 0xA700 also where trying again cannot help."""
    if verdict in _VERDICTS:
        status, reason = _VERDICTS[verdict]
    elif status == MISMATCH:
        reason = fault or "the SOP class or the SOP instance UID of the command is not that of the data set"
    elif fault:
        status, reason = CANNOT_UNDERSTAND, fault
    elif status == OUT_OF_RESOURCES:
        reason = "ORTHANC1 could not store it; its journal has the reason: journalctl -u ddwd-gateway"
    else:
        reason = "ORTHANC1 cannot understand the data set"
    return status, reason


def _fault(beginning: bytes, transfer_syntax: str) -> str:
    """Return what is wrong with the identifiers at the beginning of a data set; empty if nothing is."""
    try:
        head = read_beginning(beginning, transfer_syntax)
    except UnreadableError as error:
        return str(error)
    missing = [name for name, field in _NAMES if not getattr(head, field)]
    if missing and head != Head():
        return f"the data set has no {' and no '.join(missing)}"
    long = [name for name, field in _NAMES if len(getattr(head, field)) > UID_CHARACTERS]
    if long:
        return f"{' and '.join(long)} of more than {UID_CHARACTERS} characters"
    return "PatientID is too long" if len(head.patient_id) > _TEXT_CHARACTERS else ""


def of_contexts(proposals: Mapping[int, Proposal], answers: Mapping[int, Answer]) -> Refusal | None:
    """Return why presentation contexts were rejected: one refusal for all of an association; None if all were accepted.

    It is CONTEXTS if images were proposed and none can be sent.
    """
    reasons: dict[str, None] = {}
    declined: dict[str, list[str]] = {}
    storage: set[bool] = set()
    for context, proposal in proposals.items():
        abstract = proposal.abstract_syntax
        result = answers[context].result if context in answers else ContextResult.NO_REASON
        if contexts.is_storage(abstract):
            storage.add(result == ContextResult.ACCEPTANCE)
        if result == ContextResult.ACCEPTANCE:
            continue
        if service := NOT_OFFERED.get(abstract):
            reasons[f"{service} is not offered here"] = None
        elif result == ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED:
            declined.setdefault(abstract, []).extend(proposal.transfer_syntaxes)
        else:
            reasons[f"{contexts.named(abstract)} is not taken"] = None
    for abstract, syntaxes in declined.items():
        reasons[f"{contexts.named(abstract)} is not taken in {_listed(syntaxes)}"] = None
    kind = RefusalKind.CONTEXTS if storage == {False} else RefusalKind.CONTEXT
    return Refusal(kind, _shortened("; ", list(reasons))) if reasons else None


def _listed(syntaxes: Sequence[str]) -> str:
    return _shortened(", ", [contexts.named(syntax) for syntax in dict.fromkeys(syntaxes)])


def _shortened(separator: str, names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return separator.join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
