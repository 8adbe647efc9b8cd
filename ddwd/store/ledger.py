"""The rotating ledger: the studies that the extractor has opened and not closed, over restarts. Only the extractor writes it.

Append-only JSON Lines, `CRC32 JSON\\n` each, in segments `00000001.jsonl`, `00000002.jsonl`, ... of bounded size. Each segment
begins with a snapshot of the open studies and the cursors, so that a start reads one segment. A torn tail is cut off. The lines after
a damaged line are ignored, and because of `damaged` the extractor compares everything with both Orthancs and the disk. Finished
studies are in the custody records. Closed segments are compressed and kept for `keep_days`.

A segment of an older schema is read, and a new one started; one of a newer schema is refused and not changed, so that no older
version works with state that it cannot read. A change of the meaning of any state file raises SCHEMA.
"""

from __future__ import annotations

import gzip
import json
import zlib
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ddwd.core import durable
from ddwd.core.clock import Clock, stamp
from ddwd.core.errors import NewerStateError
from ddwd.core.model import OrthancId

SCHEMA = 2
_READS = (1, 2)  # 1 (ddwd 0.1) has the same records, but its custody records have no routes and no retention
_DAY_SECONDS = 86400
_MOST_EVENTS = 10_000
CLOSED = 500  # number of last closed studies in the snapshot


@dataclass(frozen=True, slots=True)
class Pause:
    """Who has paused retrieving, and when as a UTC stamp; both empty for a pause of a version that did not record them."""

    by: str = ""
    at: str = ""

    @classmethod
    def of(cls, stored: object) -> Pause | None:
        """Return what a snapshot has: the fields, true by an older version, or false."""
        if isinstance(stored, dict):
            return cls(str(stored.get("by", "")), str(stored.get("at", "")))
        return cls() if stored else None


@dataclass
class LedgerState:
    """The content of the ledger: `/changes` cursors by Orthanc name, open studies with the UTC stamp of their opening, the last
    closed studies, the UTC stamp of the last complete sweep, and the pause of retrieving, None without one."""

    cursors: dict[str, int] = field(default_factory=dict)
    open: dict[OrthancId, str] = field(default_factory=dict)
    closed: deque[OrthancId] = field(default_factory=lambda: deque(maxlen=CLOSED))
    swept: str = ""
    paused: Pause | None = None

    @property
    def stored_pause(self) -> dict[str, str] | bool:
        """The pause as a snapshot has it."""
        return asdict(self.paused) if self.paused is not None else False

    def apply(self, record: dict[str, Any]) -> None:
        """Apply one record; other kinds, such as events, have no effect."""
        match record["kind"]:
            case "snapshot":
                cursors = {str(node): int(seq) for node, seq in record["cursors"].items()}
                opened = {OrthancId(str(key)): str(value) for key, value in record["open"].items()}
                self.closed = deque((OrthancId(str(one)) for one in record.get("closed", ())), maxlen=CLOSED)
                self.cursors, self.open = cursors, opened
                self.swept = str(record.get("swept", ""))
                self.paused = Pause.of(record.get("paused"))
            case "cursor":
                self.cursors[str(record["node"])] = int(record["seq"])
            case "opened":
                self.open.setdefault(OrthancId(str(record["study"])), str(record["at"]))
            case "closed":
                self.open.pop(OrthancId(str(record["study"])), None)
                self.closed.append(OrthancId(str(record["study"])))
            case "lost":
                self.open.pop(OrthancId(str(record["study"])), None)
            case "swept":
                self.swept = str(record["at"])
            case "paused":
                self.paused = Pause(str(record.get("by", "")), str(record["at"]))
            case "resumed":
                self.paused = None


class LedgerPort(ABC):
    """The ledger of one extractor: in files, or in the database that several extractors share (postgres_store.py)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._batch: list[dict[str, Any]] = []
        self.state = LedgerState()
        self.damaged = False

    def append(self, kind: str, **values: object) -> None:
        """Apply one record and collect it; it is durable only after `commit`."""
        record = {"kind": kind, "at": stamp(self._clock.utc()), **values}
        self.state.apply(record)
        self._batch.append(record)

    def note(self, event: str, message: str, fields: dict[str, str]) -> None:
        """Collect an audit event, for people; safe from any thread."""
        # the events stay in memory while the disk is full or the database is unreachable
        if len(self._batch) < _MOST_EVENTS:
            self.append("event", event=event, message=message, fields=fields)

    def commit(self) -> None:
        """Make the collected records durable. Raises StorageFullError or PeerDownError, and keeps them for the next commit."""
        if batch := tuple(self._batch):
            self._write(batch)
            del self._batch[: len(batch)]  # not more: another thread may have added an event
            self._tidy()

    @abstractmethod
    def _write(self, batch: tuple[dict[str, Any], ...]) -> None:
        """Make these records durable."""

    @abstractmethod
    def _tidy(self) -> None:
        """Remove what is older than `keep_days`."""


class Ledger(LedgerPort):
    """The ledger in files. Open it with `Ledger.open`."""

    def __init__(self, folder: Path, clock: Clock, segment_bytes: int, keep_days: int) -> None:
        super().__init__(clock)
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._keep_seconds = keep_days * _DAY_SECONDS
        self._number = 0

    @classmethod
    def open(cls, folder: Path, clock: Clock, *, segment_bytes: int, keep_days: int) -> Ledger:
        """Read the newest segment, and start a new one if it is torn, damaged or of an older schema.

        Raises NewerStateError for a schema that this version does not read, before any file is changed.
        """
        durable.make_dirs(folder)
        ledger = cls(folder, clock, segment_bytes, keep_days)
        numbers = sorted(int(path.stem) for path in folder.glob("*.jsonl"))
        if not numbers:
            ledger.damaged = any(folder.glob("*.gz"))  # segments were there and the live one is gone
            ledger._begin(1 + max((int(path.name[:8]) for path in folder.glob("*.gz")), default=0))
            return ledger
        ledger._number = numbers[-1]
        ledger._read()
        return ledger

    def _path(self) -> Path:
        return self._folder / f"{self._number:08}.jsonl"

    def _write(self, batch: tuple[dict[str, Any], ...]) -> None:
        durable.append(self._path(), b"".join(map(_line, batch)))

    def _read(self) -> None:
        """Apply the lines of the segment up to the last sound one."""
        data = self._path().read_bytes()
        if (schema := _schema(data)) > SCHEMA:
            raise NewerStateError(self._path(), schema, SCHEMA)
        sound = 0
        for raw in data.splitlines(keepends=True):
            record = parse_line(raw)
            if record is None or (not sound and record["kind"] != "snapshot") or not self._applies(record):
                break
            sound += len(raw)
        # a whole line with a wrong checksum was damaged after it was written; a part of a line is the tail of a power cut
        self.damaged = not sound or b"\n" in data[sound:]
        if sound < len(data) or schema < SCHEMA:
            self._begin(self._number + 1)

    def _applies(self, record: dict[str, Any]) -> bool:
        """Apply the record; return False if its values are not those of its kind, which is damage despite a right checksum."""
        try:
            self.state.apply(record)
        except (KeyError, TypeError, ValueError, AttributeError):
            return False
        return True

    def _begin(self, number: int) -> None:
        """Start segment `number` with a snapshot; the old one is closed after the new one is durable."""
        snapshot = {
            "kind": "snapshot",
            "at": stamp(self._clock.utc()),
            "schema": SCHEMA,
            "cursors": self.state.cursors,
            "open": self.state.open,
            "closed": list(self.state.closed),
            "swept": self.state.swept,
            "paused": self.state.stored_pause,
        }
        durable.replace_file(self._folder / f"{number:08}.jsonl", _line(snapshot))
        self._number = number

    def _tidy(self) -> None:
        """Start a new segment if this one is large; compress the old ones, and remove those that are older than `keep_days`."""
        if self._path().stat().st_size < self._segment_bytes:
            return
        self._begin(self._number + 1)
        for path in sorted(self._folder.glob("*.jsonl"))[:-1]:
            packed = path.with_name(f"{path.name}.gz")
            durable.replace_file(packed, gzip.compress(path.read_bytes()))
            durable.unlink(path)
        limit = self._clock.utc().timestamp() - self._keep_seconds
        for path in self._folder.glob("*.gz"):
            if path.stat().st_mtime < limit:
                durable.unlink(path)


def schema_of(folder: Path) -> int:
    """Return the schema of the newest segment; 0 if there is none, or if it is damaged."""
    newest = max(folder.glob("*.jsonl"), default=None)
    return 0 if newest is None else _schema(newest.read_bytes())


def _schema(data: bytes) -> int:
    record = parse_line(data[: data.find(b"\n") + 1])
    found = record.get("schema") if record is not None and record["kind"] == "snapshot" else None
    return found if isinstance(found, int) else 0


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def parse_line(raw: bytes) -> dict[str, Any] | None:
    """Return the record of one line; None if the line is torn or damaged."""
    digits, _, text = raw.partition(b" ")
    if not raw.endswith(b"\n") or digits != b"%08x" % zlib.crc32(text[:-1]):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("kind"), str)
    return record if is_record else None
