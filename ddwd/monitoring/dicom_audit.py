"""Convert audit records to DICOM audit messages: XML of PS3.15 A.5, one patient per message. Pure.

PS3.15 A.5.3 requires of this node: its start and stop, begin and end of each transfer, deleted studies, and what concerns security
(a rejected association, changed settings, what an operator asks for, a changed custody record). All other records stay in the journal.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from xml.etree import ElementTree as Xml

from ddwd.core.audit import Event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddwd.config.schema import Config

NOT_DISCLOSED = "not disclosed"
"""Replaces the patient if audit.patient_id is false; the standard requires a patient in these messages (A.5.3.7)."""
_SOURCE = ("110153", "Source Role ID")
_DESTINATION = ("110152", "Destination Role ID")
_APPLICATION = ("110150", "Application")
_MINOR = "4"
_REPORT, _SECURITY_RESOURCE = "3", "13"
"""ParticipantObjectTypeCodeRole (A.5.1)."""
_BY_ADDRESS = "2"
"""NetworkAccessPointTypeCode of an IP address (A.5.1)."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Fields of one kind of event: EventID, action (C, R, U, D, E), type, source and destination hop."""

    event: tuple[str, str]
    action: str
    type: tuple[str, str] | None = None
    hop: tuple[str, str] | None = None
    outcome: str = "0"
    is_described: bool = False
    """The record's message is in the description also where all is well."""


_ACTIVITY = ("110100", "Application Activity")
_BEGIN = ("110102", "Begin Transferring DICOM Instances")
_TRANSFERRED = ("110104", "DICOM Instances Transferred")
_DELETED = ("110105", "DICOM Study Deleted")
_ALERT = ("110113", "Security Alert")
_REFUSED = _Kind(_ALERT, "E", ("110126", "Node Authentication"), outcome=_MINOR)
_RECORD = _Kind(_ALERT, "E", ("110135", "Object Security Attributes Changed"), is_described=True)
"""Of a custody record: its SHA-256 of each image is what proves the images."""
_RESTRICTED = ("110132", "Use of Restricted Function")
KINDS = {
    Event.STARTED: _Kind(_ACTIVITY, "E", ("110120", "Application Start")),
    Event.STOPPED: _Kind(_ACTIVITY, "E", ("110121", "Application Stop")),
    Event.RECEIVED: _Kind(_TRANSFERRED, "C", hop=("sender", "gateway")),
    Event.FORWARD_STARTED: _Kind(_BEGIN, "E", hop=("gateway", "storage")),
    Event.FORWARD_FAILED: _Kind(_TRANSFERRED, "R", hop=("gateway", "storage"), outcome=_MINOR),
    Event.FORWARDED: _Kind(_TRANSFERRED, "R", hop=("gateway", "storage")),
    Event.RETRIEVE_STARTED: _Kind(_BEGIN, "E", hop=("storage", "scp")),
    Event.RETRIEVE_FAILED: _Kind(_TRANSFERRED, "C", hop=("storage", "scp"), outcome=_MINOR),
    Event.PUBLISHED: _Kind(_TRANSFERRED, "C", hop=("storage", "scp")),
    Event.LATE_IMAGE: _Kind(_TRANSFERRED, "C", hop=("storage", "scp")),
    Event.CONFLICT: _Kind(_TRANSFERRED, "C", hop=("sender", "gateway"), outcome=_MINOR),
    Event.QUARANTINED: _Kind(_TRANSFERRED, "C", hop=("storage", "scp"), outcome=_MINOR),
    Event.DELIVERED: _Kind(_TRANSFERRED, "R", hop=("gateway", "destination")),
    Event.DELETED: _Kind(_DELETED, "D"),
    Event.VANISHED: _Kind(_DELETED, "D"),
    Event.RETIRED: _Kind(_DELETED, "D"),
    Event.LOST: _Kind(_DELETED, "D", is_described=True),
    Event.ASSOCIATION_REFUSED: _REFUSED,
    Event.SENDER_HELD_OFF: _REFUSED,
    Event.CHANGED_BY_REST: _Kind(_ALERT, "E", _RESTRICTED),
    Event.REQUESTED: _Kind(_ALERT, "E", _RESTRICTED, is_described=True),
    Event.RECORD_CHANGED: _RECORD,
    Event.RECORD_REMOVED: _RECORD,
    Event.STATE_REBUILT: replace(_RECORD, outcome=_MINOR),
    Event.CHAIN_HEAD: _Kind(_ALERT, "E", ("110134", "Audit Recording Started"), is_described=True),
    Event.CHAIN_BROKEN: _Kind(_ALERT, "E", ("110133", "Audit Recording Stopped"), outcome="8"),
    Event.CONFIG_CHANGED: _Kind(_ALERT, "E", ("110131", "Software Configuration")),
}
"""The events that become messages."""
_REPORTED_BY_PLUGIN = frozenset({"gateway", "storage"})
"""Deletions by retention at these places are reported by the Orthanc's own plugin (Event.DELETED)."""


def message(record: Mapping[str, str], config: Config) -> bytes | None:
    """Return the message for one record of the journal (its fields by name), or None if its event is not sent."""
    kind = KINDS.get(Event(record["DDWD_EVENT"])) if record.get("DDWD_EVENT") in set(Event) else None
    if kind is None or record.get("DDWD_PLACE") in _REPORTED_BY_PLUGIN:
        return None
    outcome = _MINOR if record.get("DDWD_GRANTED") == "no" else kind.outcome
    root = Xml.Element("AuditMessage")
    at = datetime.fromtimestamp(int(record["__REALTIME_TIMESTAMP"]) / 1_000_000, UTC)
    event = Xml.SubElement(
        root,
        "EventIdentification",
        EventActionCode=kind.action,
        EventDateTime=at.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=outcome,
    )
    _code(event, "EventID", kind.event)
    if kind.type:
        _code(event, "EventTypeCode", kind.type)
    if outcome != "0" or kind.is_described:
        Xml.SubElement(event, "EventOutcomeDescription").text = record.get("MESSAGE", "")
    _participants(root, kind, record, config)
    source = Xml.SubElement(root, "AuditSourceIdentification", AuditSourceID=f"ddwd@{socket.gethostname()}")
    Xml.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})
    if kind.hop or kind.event == _DELETED:
        _study(root, record, _REPORT)
        _patient(root, record)
    elif resource := record.get("DDWD_RESOURCE"):
        _resource(root, resource, f"{record.get('DDWD_METHOD', '')} {record.get('DDWD_PEER', '')}")
    elif record.get("DDWD_STUDY_UID"):
        _study(root, record, _SECURITY_RESOURCE)
    elif study := record.get("DDWD_STUDY"):
        _resource(root, f"/studies/{study}", "study")
    # on one line: a syslog receiver may end a message at a line feed, or escape it
    return b'<?xml version="1.0" encoding="UTF-8"?>' + bytes(Xml.tostring(root, encoding="utf-8"))


def _participants(root: Xml.Element, kind: _Kind, record: Mapping[str, str], config: Config) -> None:
    if kind.hop is None:
        requestor = _requestor(record) if kind.event == _ALERT else ""
        name = requestor or record.get("_SYSTEMD_UNIT", "ddwd")
        address = record.get("DDWD_ADDRESS", "") if record.get("DDWD_USER") else ""
        _participant(root, name, _APPLICATION, requestor=bool(requestor), address=address)
        return
    titles = {
        "sender": record.get("DDWD_AET") or "unknown",
        "gateway": config.gateway.aet,
        "storage": config.storage.aet,
        "scp": config.scp.aet,
        "destination": record.get("DDWD_PEER") or "unknown",
    }
    begin, end = kind.hop
    _participant(root, titles[begin], _SOURCE, requestor=begin != "storage")
    _participant(root, titles[end], _DESTINATION, requestor=begin == "storage")  # our C-MOVE requests it


def _requestor(record: Mapping[str, str]) -> str:
    """Return who asked: the login of a request by REST, the operator, or the AE title of an association."""
    return record.get("DDWD_USER") or record.get("DDWD_BY") or record.get("DDWD_AET", "")


def _participant(
    root: Xml.Element, name: str, role: tuple[str, str], *, requestor: bool, address: str = ""
) -> None:
    flag = "true" if requestor else "false"
    participant = Xml.SubElement(root, "ActiveParticipant", UserID=name, UserIsRequestor=flag)
    if address:
        participant.attrib |= {"NetworkAccessPointID": address, "NetworkAccessPointTypeCode": _BY_ADDRESS}
    _code(participant, "RoleIDCode", role)


def _study(root: Xml.Element, record: Mapping[str, str], role: str) -> None:
    """Add the study (A.5.2), which is the subject of an alert about it."""
    study = _object(root, record.get("DDWD_STUDY_UID") or record.get("DDWD_STUDY") or "unknown", "2", role)
    _code(study, "ParticipantObjectIDTypeCode", ("110180", "Study Instance UID"))
    Xml.SubElement(study, "ParticipantObjectName").text = record.get("DDWD_STUDY") or "study"
    about = Xml.SubElement(study, "ParticipantObjectDescription")
    if accession := record.get("DDWD_ACCESSION"):
        Xml.SubElement(about, "Accession", Number=accession)
    if instances := record.get("DDWD_INSTANCES"):
        Xml.SubElement(about, "SOPClass", NumberOfInstances=instances)


def _patient(root: Xml.Element, record: Mapping[str, str]) -> None:
    """Add the patient (A.5.2)."""
    patient = _object(root, record.get("DDWD_PATIENT_ID") or NOT_DISCLOSED, "1", "1")
    _code(patient, "ParticipantObjectIDTypeCode", ("2", "Patient Number"), system="RFC-3881")
    Xml.SubElement(patient, "ParticipantObjectName").text = NOT_DISCLOSED


def _resource(root: Xml.Element, resource: str, name: str) -> None:
    """Add a resource of an Orthanc's REST interface, as the subject of the alert (A.5.3.11)."""
    subject = _object(root, resource, "2", _SECURITY_RESOURCE)
    _code(subject, "ParticipantObjectIDTypeCode", ("12", "URI"), system="RFC-3881")
    Xml.SubElement(subject, "ParticipantObjectName").text = name


def _object(root: Xml.Element, identifier: str, code: str, role: str) -> Xml.Element:
    return Xml.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=identifier,
        ParticipantObjectTypeCode=code,
        ParticipantObjectTypeCodeRole=role,
    )


def _code(parent: Xml.Element, name: str, code: tuple[str, str], *, system: str = "DCM") -> None:
    """Add a coded value (A.5.1, CodedValueType)."""
    value, meaning = code
    Xml.SubElement(parent, name, {"csd-code": value, "codeSystemName": system, "originalText": meaning})
