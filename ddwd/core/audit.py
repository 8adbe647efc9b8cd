"""Write the audit trail: one journald record per event of a study or of the portal.

Written by the daemons and the operator's commands, read with `journalctl -t ddwd-audit`. Each event has a stable
MESSAGE_ID and fields of its own (DDWD_EVENT, DDWD_STUDY_UID, ...). Names and birth dates have no field, so they cannot get
into the journal; a patient ID gets there only if ddwd.yaml asks for it. Without python3-systemd a record is one line on stderr.
"""

from __future__ import annotations

import importlib
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Any

journal: Any
try:
    journal = importlib.import_module("systemd.journal")
except ImportError:  # a clone on a host without python3-systemd, or `ddwd try`
    journal = None

if TYPE_CHECKING:
    from collections.abc import Callable

IDENTIFIER = "ddwd-audit"


class Event(StrEnum):
    """What can happen to a study or to the portal; operators search the journal for the values."""

    STARTED = "started"
    STOPPED = "stopped"
    RECEIVED = "received"
    FORWARD_STARTED = "forward-started"
    FORWARD_FAILED = "forward-failed"
    RETRIEVE_FAILED = "retrieve-failed"
    PUBLISHED = "published"
    LATE_IMAGE = "late-image"
    CONFLICT = "conflict"
    QUARANTINED = "quarantined"
    RELEASED = "released"
    PEER_DOWN = "peer-down"
    PEER_UP = "peer-up"
    STATE_REBUILT = "state-rebuilt"
    DISK_LOW = "disk-low"
    DISK_OK = "disk-ok"
    REQUESTED = "requested"
    VANISHED = "vanished"
    REPAIRED = "repaired"
    FORWARDED = "forwarded"
    RETRIEVE_STARTED = "retrieve-started"
    VERIFIED = "verified"
    DELETED = "deleted"
    CONFIG_CHANGED = "config-changed"
    ASSOCIATION_REFUSED = "association-refused"
    PAUSED = "paused"
    RESUMED = "resumed"
    SELF_TEST = "self-test"
    ALERT = "alert"
    INBOX_SENT = "inbox-sent"
    INBOX_REJECTED = "inbox-rejected"
    HELD = "held"
    HOOK_DONE = "hook-done"
    HOOK_FAILED = "hook-failed"
    COMMITMENT_ASKED = "commitment-asked"
    COMMITMENT_ANSWERED = "commitment-answered"
    COMMITMENT_FAILED = "commitment-failed"
    RETIRED = "retired"
    DELIVERED = "delivered"
    DESTINATION_DOWN = "destination-down"
    DESTINATION_UP = "destination-up"


MESSAGE_IDS = {
    Event.STARTED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40001",
    Event.STOPPED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40002",
    Event.RECEIVED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40003",
    Event.FORWARD_STARTED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40004",
    Event.FORWARD_FAILED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40005",
    Event.RETRIEVE_FAILED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40006",
    Event.PUBLISHED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40007",
    Event.LATE_IMAGE: "9a6f0f1c4f0b4c5c8d2e6b7a10d40008",
    Event.CONFLICT: "9a6f0f1c4f0b4c5c8d2e6b7a10d40009",
    Event.QUARANTINED: "9a6f0f1c4f0b4c5c8d2e6b7a10d4000a",
    Event.RELEASED: "9a6f0f1c4f0b4c5c8d2e6b7a10d4000b",
    Event.PEER_DOWN: "9a6f0f1c4f0b4c5c8d2e6b7a10d4000c",
    Event.PEER_UP: "9a6f0f1c4f0b4c5c8d2e6b7a10d4000d",
    Event.STATE_REBUILT: "9a6f0f1c4f0b4c5c8d2e6b7a10d4000e",
    Event.DISK_LOW: "9a6f0f1c4f0b4c5c8d2e6b7a10d4000f",
    Event.DISK_OK: "9a6f0f1c4f0b4c5c8d2e6b7a10d40010",
    Event.REQUESTED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40011",
    Event.VANISHED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40012",
    Event.REPAIRED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40013",
    Event.FORWARDED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40014",
    Event.RETRIEVE_STARTED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40015",
    Event.VERIFIED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40016",
    Event.DELETED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40017",
    Event.CONFIG_CHANGED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40018",
    Event.ASSOCIATION_REFUSED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40019",
    Event.PAUSED: "9a6f0f1c4f0b4c5c8d2e6b7a10d4001a",
    Event.RESUMED: "9a6f0f1c4f0b4c5c8d2e6b7a10d4001b",
    Event.SELF_TEST: "9a6f0f1c4f0b4c5c8d2e6b7a10d4001c",
    Event.ALERT: "9a6f0f1c4f0b4c5c8d2e6b7a10d4001d",
    Event.INBOX_SENT: "9a6f0f1c4f0b4c5c8d2e6b7a10d4001e",
    Event.INBOX_REJECTED: "9a6f0f1c4f0b4c5c8d2e6b7a10d4001f",
    Event.HELD: "9a6f0f1c4f0b4c5c8d2e6b7a10d40042",
    Event.HOOK_DONE: "9a6f0f1c4f0b4c5c8d2e6b7a10d40040",
    Event.HOOK_FAILED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40041",
    Event.COMMITMENT_ASKED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40030",
    Event.COMMITMENT_ANSWERED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40031",
    Event.COMMITMENT_FAILED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40032",
    Event.RETIRED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40050",
    Event.DELIVERED: "9a6f0f1c4f0b4c5c8d2e6b7a10d40060",
    Event.DESTINATION_DOWN: "9a6f0f1c4f0b4c5c8d2e6b7a10d40061",
    Event.DESTINATION_UP: "9a6f0f1c4f0b4c5c8d2e6b7a10d40062",
}
WARNINGS = frozenset(
    {
        Event.FORWARD_FAILED,
        Event.RETRIEVE_FAILED,
        Event.CONFLICT,
        Event.QUARANTINED,
        Event.PEER_DOWN,
        Event.STATE_REBUILT,
        Event.DISK_LOW,
        Event.VANISHED,
        Event.REPAIRED,
        Event.DELETED,
        Event.ASSOCIATION_REFUSED,
        Event.ALERT,
        Event.INBOX_REJECTED,
        Event.HOOK_FAILED,
        Event.HELD,
        Event.COMMITMENT_FAILED,
        Event.DESTINATION_DOWN,
    },
)
_LOG_WARNING, _LOG_NOTICE = 4, 5  # syslog(3)


FIELDS = frozenset(
    {
        *("study", "study_uid", "series_uid", "sop_uid", "instance", "accession", "aet"),
        *("instances", "added", "bytes", "revision", "seconds", "status", "entry"),
        *("peer", "open", "level", "keys", "by", "route", "place", "transaction", "failed"),
    },
)
"""Fields that an event may have, as DDWD_* in upper case. None of them identifies a patient; any other field is left out."""
_MAX_CHARACTERS = 1000


class Audit:
    """Write events to `sink`, which receives (event, message, fields): journald, unless a test passes another one.

    A patient ID goes to `sink` alone, and only if `patient_ids` is set (audit.patient_id in ddwd.yaml).
    """

    def __init__(
        self,
        sink: Callable[[Event, str, dict[str, str]], None] | None = None,
        *,
        patient_ids: bool = False,
    ) -> None:
        self._sink = sink or _journald
        self._patient_ids = patient_ids
        self._more_sinks: list[Callable[[Event, str, dict[str, str]], None]] = []

    def add_sink(self, sink: Callable[[Event, str, dict[str, str]], None]) -> None:
        """Pass every event to `sink` as well, without the patient ID."""
        self._more_sinks.append(sink)

    def record(
        self, event: Event, message: str, *, study_uid: str = "", patient_id: str = "", **fields: object
    ) -> None:
        """Write one record. Each of `fields` whose name is in FIELDS becomes DDWD_* in upper case."""
        known = {key: _printable(value) for key, value in fields.items() if key in FIELDS}
        if study_uid:
            known["study_uid"] = _printable(study_uid)
        named = {"DDWD_EVENT": event.value} | {f"DDWD_{key.upper()}": value for key, value in known.items()}
        text = _printable(message)
        for sink in self._more_sinks:
            sink(event, text, dict(named))
        if self._patient_ids and patient_id:
            named["DDWD_PATIENT_ID"] = _printable(patient_id)
        self._sink(event, text, named)


def _printable(value: object) -> str:
    """Return `value` as one line of printable text, cut to `_MAX_CHARACTERS`: a modality may send anything."""
    return "".join(char if char.isprintable() else "?" for char in str(value))[:_MAX_CHARACTERS]


def _journald(event: Event, message: str, fields: dict[str, str]) -> None:
    if journal is None:
        rendered = " ".join(f"{key}={value}" for key, value in fields.items())
        sys.stderr.write(f"{IDENTIFIER}: {message} {rendered}\n")
        return
    priority = _LOG_WARNING if event in WARNINGS else _LOG_NOTICE
    journal.send(
        message,
        MESSAGE_ID=MESSAGE_IDS[event],
        PRIORITY=priority,
        SYSLOG_IDENTIFIER=IDENTIFIER,
        **fields,
    )
