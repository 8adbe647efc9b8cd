"""A chain for the tests: entries as a portal's audit trail makes them, and a signer's key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ddwd.chain import head
from ddwd.chain.entry import encode
from ddwd.chain.head import HeadFiles, SignedHead
from ddwd.chain.log import ChainLog, ChainWriter
from ddwd.core.audit import Audit, Event
from ddwd.store.custody import images_digest
from tests.unit.fakes import orthanc_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ddwd.core.journal_reader import Reader

STUDY = orthanc_id("P", "1")
STAMP = "2026-01-05T12:00:00.000Z"


def journal_record(event: Event, number: int, **fields: Any) -> dict[str, str]:
    """One record of the audit trail, as the journal has it."""
    return {
        "DDWD_EVENT": event.value,
        "MESSAGE": f"what happened as number {number}",
        "__REALTIME_TIMESTAMP": str(1_767_614_400_000_000 + number),
        "__CURSOR": f"s=1;i={number:x}",
        "_SYSTEMD_UNIT": "ddwd-extractor.service",
        "_UID": "0",
        "_TRANSPORT": "journal",
        "SYSLOG_IDENTIFIER": "ddwd-audit",
        **{f"DDWD_{key.upper()}": str(value) for key, value in fields.items()},
    }


class Journal:
    """The journal of a machine, as far as the audit trail is in it."""

    def __init__(self) -> None:
        self.records: list[dict[str, str]] = []
        self.audit = Audit(self._write)
        self.problem: Exception | None = None
        self._written = 0

    def _write(self, event: Event, message: str, fields: dict[str, str]) -> None:
        self._written += 1
        found = journal_record(event, self._written)
        self.records.append(found | {"MESSAGE": message, "_SYSTEMD_UNIT": "ddwd-signer.service"} | fields)

    def happen(self, event: Event, count: int = 1, **fields: Any) -> None:
        """Some processes of the portal write events."""
        for _ in range(count):
            self._written += 1
            self.records.append(journal_record(event, self._written, **fields))

    def rotate(self, kept: int) -> None:
        """Lose all but the newest records."""
        del self.records[:-kept]

    def open(self, cursor: str, _time: str) -> Reader:
        """Open the trail as the daemon does: behind a cursor, at the next record that is left if its own is gone."""
        last = _number(cursor)

        def new_records() -> Iterator[dict[str, str]]:
            nonlocal last
            if self.problem is not None:
                raise self.problem
            for one in [one for one in self.records if _number(one["__CURSOR"]) > last]:
                last = _number(one["__CURSOR"])
                yield one

        return new_records


def _number(cursor: str) -> int:
    return int(cursor.rpartition("=")[2] or "0", 16)


def lines(count: int, first: int = 0) -> list[bytes]:
    """Some entries, each another one."""
    return [encode({"event": "published", "study": f"study-{n}", "time": STAMP}) for n in range(first, count)]


def entry(study: str = STUDY, images: list[tuple[str, str]] | None = None, **fields: Any) -> bytes:
    """The entry of a publication."""
    digest = {} if images is None else {"images": str(len(images)), "images_sha256": images_digest(images)}
    return encode({"event": "published", "study": study, "time": STAMP} | digest | fields)


def key_of(folder: Path) -> Path:
    """The signer's key of a chain."""
    return folder.with_name(f"{folder.name}.key")


def signed(folder: Path) -> SignedHead:
    """Sign the head of the log as it is, and keep it as the newest."""
    files, log = HeadFiles(folder), ChainLog(folder)
    head.make_key(key_of(folder), files)
    found = head.sign(key_of(folder), files, log.size, log.root(log.size), STAMP)
    head.FORMAT.write(files.newest, found)
    return found


def chain(folder: Path, entries: list[bytes]) -> SignedHead:
    """A chain of these entries, with a signed head."""
    ChainWriter(folder).append(entries)
    return signed(folder)


def changed(line: bytes, **fields: Any) -> bytes:
    """The same entry with other values."""
    return encode(json.loads(line) | fields)
