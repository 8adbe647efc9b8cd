"""Write the audit trail: one journald record per event of a study or of the portal.

The daemons and the operator's commands write it; `journalctl -t ddwd-audit` shows it. Each event has a stable MESSAGE_ID and
fields (DDWD_EVENT, DDWD_STUDY_UID, ...). Patient names and birth dates have no field, so they cannot get into the journal; a
patient ID is written only if ddwd.yaml requests it. Without python3-systemd a record is one line on stderr.

Any local user can write a record under this name: journald takes SYSLOG_IDENTIFIER, MESSAGE_ID and DDWD_* from the writer. It
sets the fields that begin with _ itself. Every reader of the trail therefore starts from `selection` and keeps what `is_genuine`.
"""

from __future__ import annotations

import importlib
import pwd
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from typing import Any, Self

from ddwd.core.printable import one_line

journal: Any
try:
    journal = importlib.import_module("systemd.journal")
except ImportError:  # a clone on a host without python3-systemd, or `ddwd try`
    journal = None

Sink = Callable[["Event", str, dict[str, str]], None]

IDENTIFIER = "ddwd-audit"
_LOG_WARNING, _LOG_NOTICE = 4, 5  # syslog(3)


class Event(StrEnum):
    """What can happen to a study or to the portal: the name that operators search the journal for, its MESSAGE_ID and its priority.

    An event that another user than root and ddwd writes is named in `_WRITERS` too; otherwise no reader of the trail shows it.
    """

    message_id: str
    priority: int

    def __new__(cls, name: str, message_id: str = "", priority: int = _LOG_NOTICE) -> Self:
        """Make a member whose value is `name`; a call with the name alone returns the member."""
        event = str.__new__(cls, name)
        event._value_ = name
        event.message_id = message_id
        event.priority = priority
        return event

    STARTED = "started", "9a6f0f1c4f0b4c5c8d2e6b7a10d40001"
    STOPPED = "stopped", "9a6f0f1c4f0b4c5c8d2e6b7a10d40002"
    RECEIVED = "received", "9a6f0f1c4f0b4c5c8d2e6b7a10d40003"
    FORWARD_STARTED = "forward-started", "9a6f0f1c4f0b4c5c8d2e6b7a10d40004"
    FORWARD_FAILED = "forward-failed", "9a6f0f1c4f0b4c5c8d2e6b7a10d40005", _LOG_WARNING
    RETRIEVE_FAILED = "retrieve-failed", "9a6f0f1c4f0b4c5c8d2e6b7a10d40006", _LOG_WARNING
    PUBLISHED = "published", "9a6f0f1c4f0b4c5c8d2e6b7a10d40007"
    LATE_IMAGE = "late-image", "9a6f0f1c4f0b4c5c8d2e6b7a10d40008"
    CONFLICT = "conflict", "9a6f0f1c4f0b4c5c8d2e6b7a10d40009", _LOG_WARNING
    QUARANTINED = "quarantined", "9a6f0f1c4f0b4c5c8d2e6b7a10d4000a", _LOG_WARNING
    RELEASED = "released", "9a6f0f1c4f0b4c5c8d2e6b7a10d4000b"
    PEER_DOWN = "peer-down", "9a6f0f1c4f0b4c5c8d2e6b7a10d4000c", _LOG_WARNING
    PEER_UP = "peer-up", "9a6f0f1c4f0b4c5c8d2e6b7a10d4000d"
    STATE_REBUILT = "state-rebuilt", "9a6f0f1c4f0b4c5c8d2e6b7a10d4000e", _LOG_WARNING
    DISK_LOW = "disk-low", "9a6f0f1c4f0b4c5c8d2e6b7a10d4000f", _LOG_WARNING
    DISK_OK = "disk-ok", "9a6f0f1c4f0b4c5c8d2e6b7a10d40010"
    REQUESTED = "requested", "9a6f0f1c4f0b4c5c8d2e6b7a10d40011"
    VANISHED = "vanished", "9a6f0f1c4f0b4c5c8d2e6b7a10d40012", _LOG_WARNING
    REPAIRED = "repaired", "9a6f0f1c4f0b4c5c8d2e6b7a10d40013", _LOG_WARNING
    FORWARDED = "forwarded", "9a6f0f1c4f0b4c5c8d2e6b7a10d40014"
    COPIED = "copied", "9a6f0f1c4f0b4c5c8d2e6b7a10d40020"
    RETRIEVE_STARTED = "retrieve-started", "9a6f0f1c4f0b4c5c8d2e6b7a10d40015"
    VERIFIED = "verified", "9a6f0f1c4f0b4c5c8d2e6b7a10d40016"
    DELETED = "deleted", "9a6f0f1c4f0b4c5c8d2e6b7a10d40017", _LOG_WARNING
    CONFIG_CHANGED = "config-changed", "9a6f0f1c4f0b4c5c8d2e6b7a10d40018"
    ASSOCIATION_REFUSED = "association-refused", "9a6f0f1c4f0b4c5c8d2e6b7a10d40019", _LOG_WARNING
    ASSOCIATION_ABORTED = "association-aborted", "9a6f0f1c4f0b4c5c8d2e6b7a10d40070", _LOG_WARNING
    CONTEXT_REFUSED = "context-refused", "9a6f0f1c4f0b4c5c8d2e6b7a10d40071", _LOG_WARNING
    IMAGE_REFUSED = "image-refused", "9a6f0f1c4f0b4c5c8d2e6b7a10d40072", _LOG_WARNING
    SENDER_HELD_OFF = "sender-held-off", "9a6f0f1c4f0b4c5c8d2e6b7a10d40073", _LOG_WARNING
    TWO_PATIENTS = "two-patients", "9a6f0f1c4f0b4c5c8d2e6b7a10d40074", _LOG_WARNING
    CHANGED_BY_REST = "changed-by-rest", "9a6f0f1c4f0b4c5c8d2e6b7a10d40080", _LOG_WARNING
    LOST = "lost", "9a6f0f1c4f0b4c5c8d2e6b7a10d40083", _LOG_WARNING
    LOST_FOUND = "lost-found", "9a6f0f1c4f0b4c5c8d2e6b7a10d40084"
    PAUSED = "paused", "9a6f0f1c4f0b4c5c8d2e6b7a10d4001a"
    RESUMED = "resumed", "9a6f0f1c4f0b4c5c8d2e6b7a10d4001b"
    SELF_TEST = "self-test", "9a6f0f1c4f0b4c5c8d2e6b7a10d4001c"
    ALERT = "alert", "9a6f0f1c4f0b4c5c8d2e6b7a10d4001d", _LOG_WARNING
    INBOX_SENT = "inbox-sent", "9a6f0f1c4f0b4c5c8d2e6b7a10d4001e"
    INBOX_REJECTED = "inbox-rejected", "9a6f0f1c4f0b4c5c8d2e6b7a10d4001f", _LOG_WARNING
    HELD = "held", "9a6f0f1c4f0b4c5c8d2e6b7a10d40042", _LOG_WARNING
    HOOK_DONE = "hook-done", "9a6f0f1c4f0b4c5c8d2e6b7a10d40040"
    HOOK_FAILED = "hook-failed", "9a6f0f1c4f0b4c5c8d2e6b7a10d40041", _LOG_WARNING
    COMMITMENT_ASKED = "commitment-asked", "9a6f0f1c4f0b4c5c8d2e6b7a10d40030"
    COMMITMENT_ANSWERED = "commitment-answered", "9a6f0f1c4f0b4c5c8d2e6b7a10d40031"
    COMMITMENT_FAILED = "commitment-failed", "9a6f0f1c4f0b4c5c8d2e6b7a10d40032", _LOG_WARNING
    RETIRED = "retired", "9a6f0f1c4f0b4c5c8d2e6b7a10d40050"
    DELIVERED = "delivered", "9a6f0f1c4f0b4c5c8d2e6b7a10d40060"
    DESTINATION_DOWN = "destination-down", "9a6f0f1c4f0b4c5c8d2e6b7a10d40061", _LOG_WARNING
    DESTINATION_UP = "destination-up", "9a6f0f1c4f0b4c5c8d2e6b7a10d40062"
    RECORD_CHANGED = "record-changed", "9a6f0f1c4f0b4c5c8d2e6b7a10d40082"
    RECORD_REMOVED = "record-removed", "9a6f0f1c4f0b4c5c8d2e6b7a10d40081"
    CHAIN_HEAD = "chain-head", "9a6f0f1c4f0b4c5c8d2e6b7a10d40090"
    CHAIN_BROKEN = "chain-broken", "9a6f0f1c4f0b4c5c8d2e6b7a10d40091", _LOG_WARNING


RESTORE, DOWNGRADE = "restore", "downgrade"
"""DDWD_PLACE of the requests by which root states that other custody records are there from then on; the chain reads it."""
_OF_AN_ORTHANC = {Event.DELETED, Event.CHANGED_BY_REST, Event.COMMITMENT_ASKED, Event.COMMITMENT_FAILED}
_WRITERS: dict[str, frozenset[Event]] = {
    "root": frozenset(Event),
    # the extractor; until 0.2.0 most of the other units too, whose records may still be on their way
    "ddwd": frozenset(Event),
    "ddwd-gateway": frozenset(_OF_AN_ORTHANC),
    "ddwd-storage": frozenset(_OF_AN_ORTHANC),
    "ddwd-acceptor": frozenset(
        {
            *(Event.STARTED, Event.STOPPED, Event.SENDER_HELD_OFF),
            *(Event.ASSOCIATION_REFUSED, Event.ASSOCIATION_ABORTED),
            *(Event.CONTEXT_REFUSED, Event.IMAGE_REFUSED),
        },
    ),
    "ddwd-scp": frozenset({Event.STARTED, Event.STOPPED, Event.ASSOCIATION_REFUSED}),
    "ddwd-monitor": frozenset({Event.ALERT, Event.ASSOCIATION_REFUSED}),
    "ddwd-inbox": frozenset({Event.INBOX_SENT, Event.INBOX_REJECTED}),
    "ddwd-hooks": frozenset({Event.HOOK_DONE, Event.HOOK_FAILED}),
    "ddwd-commitment": frozenset({Event.COMMITMENT_ANSWERED, Event.COMMITMENT_FAILED}),
    "ddwd-courier": frozenset({Event.DELIVERED, Event.DESTINATION_DOWN, Event.DESTINATION_UP}),
    "ddwd-signer": frozenset({Event.CHAIN_HEAD, Event.CHAIN_BROKEN}),
    "ddwd-doctor": frozenset({Event.SELF_TEST}),
}
"""The users whose records belong to the trail, and which events each may write: a unit has a user of its own.

The user is compared, not the unit: journald loses the unit of a process that ends right after its last record. Of people, root
alone: what members of group ddwd request, the extractor records.
"""

WARNINGS = frozenset(event for event in Event if event.priority == _LOG_WARNING)
FIELDS = frozenset(
    {
        *(
            "study",
            "study_uid",
            "series_uid",
            "sop_uid",
            "instance",
            "accession",
            "aet",
            "address",
            "sop_class",
        ),
        *("instances", "added", "bytes", "revision", "seconds", "status", "entry"),
        *("peer", "open", "level", "keys", "by", "route", "place", "transaction", "failed"),
        *("user", "method", "resource", "granted"),
        *("images_sha256", "record_sha256"),
    },
)
"""Fields that an event may have, as DDWD_* in upper case. None identifies a patient; any other field is omitted."""
_MAX_CHARACTERS = 1000


class Audit:
    """Write events to `sink`, which receives (event, message, fields): journald, unless a test passes another one.

    A patient ID goes to `sink` alone, and only if `patient_ids` is set (audit.patient_id in ddwd.yaml).
    """

    def __init__(self, sink: Sink | None = None, *, patient_ids: bool = False) -> None:
        self._sink = sink or _journald
        self._patient_ids = patient_ids
        self._more_sinks: list[Sink] = []

    def add_sink(self, sink: Sink) -> None:
        """Pass every event to `sink` as well, without the patient ID."""
        self._more_sinks.append(sink)

    def record(
        self, event: Event, message: str, *, study_uid: str = "", patient_id: str = "", **fields: object
    ) -> None:
        """Write one record. Each of `fields` whose name is in FIELDS becomes DDWD_* in upper case."""
        recorded = {"DDWD_EVENT": event.value}
        recorded |= {
            f"DDWD_{key.upper()}": _printable(value) for key, value in fields.items() if key in FIELDS
        }
        if study_uid:
            recorded["DDWD_STUDY_UID"] = _printable(study_uid)
        text = _printable(message)
        for sink in self._more_sinks:
            sink(event, text, dict(recorded))
        if self._patient_ids and patient_id:
            recorded["DDWD_PATIENT_ID"] = _printable(patient_id)
        self._sink(event, text, recorded)


def selection() -> list[str]:
    """Return the matches FIELD=VALUE that select the trail in the journal, for journalctl(1) and for `journal.Reader.add_match(*...)`.

    Add a match of another field (DDWD_EVENT=..., DDWD_STUDY_UID=...) to narrow it, never one of these fields: journald accepts a
    record if any match of the same field fits. Then keep the records that are `is_genuine`.
    """
    return [f"SYSLOG_IDENTIFIER={IDENTIFIER}", "_TRANSPORT=journal", *(f"_UID={uid}" for uid in _uids())]


def is_genuine(record: Mapping[str, object]) -> bool:
    """Return whether this journal record was written by a user that may write its event; the record has at least the fields below."""
    event = record.get("DDWD_EVENT")
    return (
        record.get("SYSLOG_IDENTIFIER") == IDENTIFIER
        and record.get("_TRANSPORT") == "journal"
        and isinstance(event, str)
        and event in _uids().get(str(record.get("_UID")), ())
    )


@cache
def _uids() -> dict[str, frozenset[Event]]:
    """Return what each user of `_WRITERS` that this machine has may write, by its number; looked up once, since that costs a millisecond."""
    found = {}
    for name, events in _WRITERS.items():
        try:
            found[str(pwd.getpwnam(name).pw_uid)] = events
        except KeyError:  # a machine that has not all roles, or none
            continue
    return found


def _printable(value: object) -> str:
    """Return `value` as one line of printable text, cut to `_MAX_CHARACTERS`: a modality may send anything."""
    return one_line(value)[:_MAX_CHARACTERS]


def _journald(event: Event, message: str, fields: dict[str, str]) -> None:
    if journal is None:
        rendered = " ".join(f"{key}={value}" for key, value in fields.items())
        sys.stderr.write(f"{IDENTIFIER}: {message} {rendered}\n")
        return
    journal.send(
        message, MESSAGE_ID=event.message_id, PRIORITY=event.priority, SYSLOG_IDENTIFIER=IDENTIFIER, **fields
    )
