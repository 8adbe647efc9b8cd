"""Entries of the chain: one audit event each, as one line of canonical JSON. Says which events are entered, and with which fields.

An entry can never be removed again. So it has neither patient ID nor accession number, also where the journal has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from ddwd.core.audit import DOWNGRADE, FIELDS, RESTORE, Event
from ddwd.core.clock import stamp
from ddwd.core.errors import DamagedStateError

Entry = dict[str, Any]

CHAINED = frozenset(
    {
        *(Event.PUBLISHED, Event.LATE_IMAGE, Event.REPAIRED, Event.VANISHED, Event.DELETED, Event.RETIRED),
        *(Event.RECORD_CHANGED, Event.RECORD_REMOVED, Event.CHANGED_BY_REST),
        *(Event.CONFLICT, Event.TWO_PATIENTS, Event.QUARANTINED, Event.RELEASED),
        *(Event.CHAIN_HEAD, Event.CHAIN_BROKEN),
        *(Event.COMMITMENT_ANSWERED, Event.DELIVERED),
        *(Event.REQUESTED, Event.PAUSED, Event.RESUMED, Event.CONFIG_CHANGED, Event.STATE_REBUILT),
    }
)
"""What changes the images that the portal has, what it promised about them to others, operators' actions, and the chain's own heads."""
HEAD = Event.CHAIN_HEAD.value
BEGUN, KNOWN = "chain-begun", "record-known"
"""Entries that the signer makes itself: the first one, and a custody record that no entry is about."""
_REPLACED = tuple(f'"place":"{place}"'.encode() for place in (RESTORE, DOWNGRADE))
_ROOT = "0"
_LEFT_OUT = frozenset({"accession"})
_MICRO = 1_000_000


def encode(entry: Entry) -> bytes:
    """Return the one line of an entry, without its line feed: the bytes that are hashed."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def decode(line: bytes, where: str) -> Entry:
    """Return the entry of a line. Raises DamagedStateError unless it is exactly what `encode` writes."""
    try:
        entry = json.loads(line)
        if type(entry) is dict and encode(entry) == line:
            return entry
    except (ValueError, RecursionError) as error:
        raise DamagedStateError(where, "entry of the chain", type(error).__name__) from error
    raise DamagedStateError(where, "entry of the chain", "not canonical")


def replaced_by(line: bytes) -> str:
    """Return RESTORE or DOWNGRADE if root states so in this entry, empty otherwise.

    Only root restores and installs: user ddwd, who may write any event, is not believed.
    """
    if any(place in line for place in _REPLACED):
        with suppress(ValueError, RecursionError, AttributeError):
            entry = json.loads(line)
            if (entry.get("event"), entry.get("uid")) == (Event.REQUESTED.value, _ROOT):
                return str(entry["place"])
    return ""


def entry_of(record: Mapping[str, Any]) -> Entry | None:
    """Return the entry for a record of the journal, None if its event is not entered.

    `record` has the journal's fields by name, as text. `time`, `unit`, `uid` and `cursor` are what journald says of the writer;
    a process can write any other field.
    """
    if record.get("DDWD_EVENT") not in CHAINED:
        return None
    entry: Entry = {
        key: str(record[name]) for key in FIELDS - _LEFT_OUT if (name := f"DDWD_{key.upper()}") in record
    }
    return entry | {
        "time": stamp(datetime.fromtimestamp(int(record["__REALTIME_TIMESTAMP"]) / _MICRO, UTC)),
        "event": str(record["DDWD_EVENT"]),
        "message": str(record.get("MESSAGE", "")),
        "unit": str(record.get("_SYSTEMD_UNIT", "")),
        "uid": str(record.get("_UID", "")),
        "cursor": str(record["__CURSOR"]),
    }
