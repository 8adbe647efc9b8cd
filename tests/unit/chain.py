"""A chain for the tests: entries as a portal's audit trail makes them, and a signer's key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ddwd.chain import head
from ddwd.chain.entry import encode
from ddwd.chain.head import HeadFiles, SignedHead
from ddwd.chain.log import ChainLog, ChainWriter
from ddwd.core.audit import Event
from ddwd.store.custody import images_digest
from tests.unit.fakes import orthanc_id

if TYPE_CHECKING:
    from pathlib import Path

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
        "_UID": "990",
        **{f"DDWD_{key.upper()}": str(value) for key, value in fields.items()},
    }


def lines(count: int, first: int = 0) -> list[bytes]:
    """Some entries, each another one."""
    return [encode({"event": "published", "study": f"study-{n}", "time": STAMP}) for n in range(first, count)]


def entry(study: str = STUDY, images: list[tuple[str, str]] | None = None, **fields: Any) -> bytes:
    """The entry of a publication."""
    digest = {} if images is None else {"images": str(len(images)), "images_sha256": images_digest(images)}
    return encode({"event": "published", "study": study, "time": STAMP} | digest | fields)


def signed(folder: Path) -> SignedHead:
    """Sign the head of the log as it is, and keep it as the newest."""
    files, log = HeadFiles(folder), ChainLog(folder)
    head.make_key(files)
    found = head.sign(files, log.size, log.root(log.size), STAMP)
    head.FORMAT.write(files.newest, found)
    return found


def chain(folder: Path, entries: list[bytes]) -> SignedHead:
    """A chain of these entries, with a signed head."""
    ChainWriter(folder).append(entries)
    return signed(folder)


def changed(line: bytes, **fields: Any) -> bytes:
    """The same entry with other values."""
    return encode(json.loads(line) | fields)
