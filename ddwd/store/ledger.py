"""The rotating ledger: what the extractor has begun and not finished, over restarts. The extractor alone writes it.

Append-only JSON Lines, `CRC32 JSON\\n` each, in segments `00000001.jsonl`, `00000002.jsonl`, ... of bounded size. Each segment
begins with a snapshot of the open studies and the cursors, so that a start reads one segment. A torn tail is cut. A damaged
line means the rest of the segment cannot be trusted: what was read before it is kept, and `damaged` tells the extractor to
compare everything with both Orthancs and the disk. Finished studies live in the custody records, not here.
Closed segments are compressed and kept for a set time.

A segment of an older schema is read, and a new one begun; one of a newer schema is refused and nothing is written, so that no older
version ever works beside what a newer one knows. Whoever changes the meaning of any state file raises SCHEMA.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ddwd.core import durable
from ddwd.core.clock import Clock, stamp
from ddwd.core.errors import NewerStateError
from ddwd.core.model import OrthancId

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 2
_READS = (1, 2)
"""1 (ddwd 0.1) has the same records; its custody records knew no rules and no retention."""
_DAY_SECONDS = 86400
MOST_EVENTS = 10_000
CLOSED = 500
"""Studies finished last that are remembered."""


@dataclass
class LedgerState:
    """What the ledger remembers: `/changes` cursors by Orthanc name, open studies with the moment they were opened, those closed
    last, when all studies had been compared, and whether the operator has paused the retrieving."""

    cursors: dict[str, int] = field(default_factory=dict)
    open: dict[OrthancId, str] = field(default_factory=dict)
    closed: deque[OrthancId] = field(default_factory=lambda: deque(maxlen=CLOSED))
    swept: str = ""
    paused: bool = False

    def apply(self, record: dict[str, Any]) -> None:
        """Fold one record in; unknown kinds are for people and change nothing."""
        match record["kind"]:
            case "snapshot":
                cursors = {str(node): int(seq) for node, seq in record["cursors"].items()}
                opened = {OrthancId(str(key)): str(value) for key, value in record["open"].items()}
                self.closed = deque((OrthancId(str(one)) for one in record.get("closed", ())), maxlen=CLOSED)
                self.cursors, self.open = cursors, opened
                self.swept = str(record.get("swept", ""))
                self.paused = bool(record.get("paused"))
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
                self.paused = True
            case "resumed":
                self.paused = False


class LedgerPort(Protocol):
    """What the extractor has begun and not finished: in files, or in the database that several extractors share (shared.py)."""

    state: LedgerState
    damaged: bool

    def append(self, kind: str, **values: object) -> None:
        """Collect one record and fold it in; durable only after `commit`."""

    def note(self, event: str, message: str, fields: dict[str, str]) -> None:
        """Collect an audit event, for people to read; safe from any thread."""

    def commit(self) -> None:
        """Make durable what was collected. Raises StorageFullError or PeerDownError; it is then kept for the next commit."""


class Ledger:
    """Open with `Ledger.open`; `append` collects, `commit` makes the batch durable and rotates."""

    def __init__(self, folder: Path, clock: Clock, segment_bytes: int, keep_days: int) -> None:
        self._folder = folder
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._keep_seconds = keep_days * _DAY_SECONDS
        self._batch: list[dict[str, Any]] = []
        self._number = 0
        self.state = LedgerState()
        self.damaged = False

    @classmethod
    def open(cls, folder: Path, clock: Clock, *, segment_bytes: int, keep_days: int) -> Ledger:
        """Read the newest segment, cut its torn tail, and begin a new one where it cannot be continued.

        Raises NewerStateError for a schema this version does not know: everything is left as it is.
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

    def append(self, kind: str, **values: object) -> None:
        """Collect one record and fold it in; durable only after `commit`."""
        record = {"kind": kind, "at": stamp(self._clock.utc()), **values}
        self.state.apply(record)
        self._batch.append(record)

    def note(self, event: str, message: str, fields: dict[str, str]) -> None:
        """Collect an audit event, for people to read; safe from any thread."""
        if len(self._batch) < MOST_EVENTS:  # while the disk is full they wait in memory
            self.append("event", event=event, message=message, fields=fields)

    def commit(self) -> None:
        """Write and fsync what was collected; start a new segment when this one is large.

        Raises StorageFullError; what was collected is then kept for the next commit.
        """
        batch = tuple(self._batch)
        if not batch:
            return
        self._extend(b"".join(map(_line, batch)))
        del self._batch[: len(batch)]  # and no more: an event of another thread may have come meanwhile
        if self._path().stat().st_size >= self._segment_bytes:
            self._rotate()

    def _path(self) -> Path:
        return self._folder / f"{self._number:08}.jsonl"

    def _extend(self, content: bytes) -> None:
        path = self._path()
        durable.step("append", path)
        with durable.translated(), path.open("ab") as file:
            length = os.fstat(file.fileno()).st_size
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):  # a disk that fills up takes a part: give it back
                    os.ftruncate(file.fileno(), length)
                raise

    def _read(self) -> None:
        """Fold the segment in; whatever stands behind the last sound line is cut off."""
        data = self._path().read_bytes()
        if (schema := _schema(data)) > SCHEMA:
            raise NewerStateError(
                f"{self._path()}: schema {schema}, from a newer ddwd; this one reads {SCHEMA} and before, and has changed nothing: "
                "install the newer one again, or go back as it said (docs/upgrade.md)"
            )
        sound = 0
        first = True
        for raw in data.splitlines(keepends=True):
            record = parse_line(raw)
            if record is None or (first and record["kind"] != "snapshot") or not self._folds(record):
                break
            sound += len(raw)
            first = False
        if sound == len(data) and not first:
            if schema < SCHEMA:
                self._begin(self._number + 1)
            return
        torn_tail = (
            not first and b"\n" not in data[sound:]
        )  # a line that is whole and wrong was damaged later
        self.damaged = not torn_tail
        self._begin(self._number + 1)

    def _folds(self, record: dict[str, Any]) -> bool:
        """Fold it in; False where it has not the values of its kind: damage, whatever its checksum says."""
        try:
            self.state.apply(record)
        except (KeyError, TypeError, ValueError, AttributeError):
            return False
        return True

    def _begin(self, number: int) -> None:
        """Start segment `number` with a snapshot; the old one is closed only after the new one is durable."""
        snapshot = {
            "kind": "snapshot",
            "at": stamp(self._clock.utc()),
            "schema": SCHEMA,
            "cursors": self.state.cursors,
            "open": self.state.open,
            "closed": list(self.state.closed),
            "swept": self.state.swept,
            "paused": self.state.paused,
        }
        durable.replace_file(self._folder / f"{number:08}.jsonl", _line(snapshot))
        self._number = number

    def _rotate(self) -> None:
        self._begin(self._number + 1)
        for path in sorted(self._folder.glob("*.jsonl"))[:-1]:
            packed = path.with_name(f"{path.name}.gz")
            durable.replace_file(packed, gzip.compress(path.read_bytes()))
            durable.unlink(path)
        self._forget_old()

    def _forget_old(self) -> None:
        limit = self._clock.utc().timestamp() - self._keep_seconds
        for path in self._folder.glob("*.gz"):
            if path.stat().st_mtime < limit:
                durable.unlink(path)


def schema_of(folder: Path) -> int:
    """The schema of the newest segment; 0 where there is none, or none that can be trusted."""
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
    """The record of one line, which has a kind; None where the line is torn or damaged."""
    digits, _, text = raw.partition(b" ")
    if not raw.endswith(b"\n") or digits != b"%08x" % zlib.crc32(text[:-1]):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("kind"), str)
    return record if is_record else None
