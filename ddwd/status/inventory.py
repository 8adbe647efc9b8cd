"""Counts of what the portal has done and keeps: ledger, custody records, quarantine, studies in flight. Reads only."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from ddwd.extractor.quarantine import read_entries
from ddwd.status.events import contents
from ddwd.store.backends import history_of
from ddwd.store.ledger import parse_line

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.config.paths import Paths

_MOST_BYTES = 64 * 1024 * 1024


def counts(paths: Paths) -> dict[str, Any]:
    """Count everything. Raises OSError if this user may not read it."""
    return {
        **_kept(paths),
        "quarantine": dict(Counter(entry.subject.kind for entry in read_entries(paths.quarantine))),
        "requests": _files(paths.requests),
        "incoming": _files(paths.incoming),
        "spool": _files(paths.spool),
        "staging": _files(paths.staging),
        "audit_queue": _files(paths.audit_queue),
    }


def _kept(paths: Paths) -> dict[str, Any]:
    """Count ledger and custody records in either backend. Raises PeerDownError too."""
    shared = history_of(paths.config)
    if shared is None:
        return {"ledger": _ledger(paths.ledger), "custody": {"records": _files(paths.custody)["files"]}}
    return shared.counts()


def _ledger(folder: Path) -> dict[str, Any]:
    """Count records and events by kind, the newest segments first, up to 64 MiB."""
    kinds: Counter[str] = Counter()
    events: Counter[str] = Counter()
    stamps: list[str] = []
    damaged, read = 0, 0
    for content in contents(folder):
        read += len(content)
        for line in content.splitlines(keepends=True):
            record = parse_line(line)
            damaged += record is None
            if record is not None:
                kinds[record["kind"]] += 1
                stamps = _span(stamps, str(record.get("at", "")))
                if record["kind"] == "event":
                    events[str(record.get("event"))] += 1
        if read > _MOST_BYTES:
            break
    return {
        **_files(folder),
        "bytes_read": read,
        "span": stamps,
        "records": dict(kinds),
        "events": dict(events),
        "damaged_lines": damaged,
    }


def _span(known: list[str], at: str) -> list[str]:
    return [min([*known, at]), max([*known, at])] if at else known


def _files(folder: Path) -> dict[str, int]:
    """Count files below a folder, and their bytes."""
    count = size = 0
    for inner, _folders, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(inner, name)).st_size  # noqa: PTH118 - a hundred thousand of them
            except FileNotFoundError:  # it was moved meanwhile
                continue
            count += 1
    return {"files": count, "bytes": size}
