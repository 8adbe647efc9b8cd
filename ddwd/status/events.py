"""Audit events of the extractor from the ledger: for trace, dashboard and metrics. Reads only.

The journal has them too, with those of the other daemons, but only root and group systemd-journal may read it; the ledger is
for group ddwd. A damaged line ends its segment, as it does for the ledger itself.
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ddwd.config.paths import Paths
from ddwd.core import safe_folder
from ddwd.store.backends import history_of
from ddwd.store.ledger import parse_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ddwd.config.schema import Config
    from ddwd.store.postgres_store import SharedHistory

_EVENT = b'"kind":"event"'
_PREFIX = "DDWD_"
_SHOWN_APART = frozenset({"event", "study", "study_uid"})


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One event: `at` in UTC, `event` as audit.Event spells it, the study by Orthanc ID and UID if it concerns one.

    `extractor` is the AE title of the extractor that wrote it, if several share the ledger.
    """

    at: str
    event: str
    study: str
    study_uid: str
    message: str
    fields: dict[str, str] = field(default_factory=dict)
    extractor: str = ""


def of_study(config: Config, study: str) -> list[AuditEvent]:
    """Return every event of a study, by any extractor. Raises OSError if this user may not read the ledger, PeerDownError, StateError."""
    shared = history_of(config)
    if shared is None:
        return read(Paths(config).ledger, study)
    return list(map(event_of, shared.events(study=study)))


def all_since(config: Config, since: str) -> Iterator[AuditEvent]:
    """Yield every event since a stamp, in no order. Raises as `of_study`."""
    shared = history_of(config)
    if shared is None:
        return past(Paths(config).ledger, since)
    return map(event_of, shared.events(since=since))


def tail_of(config: Config, *, last: int = 0, since: str = "") -> Callable[[], list[AuditEvent]]:
    """Return a function that returns the new events at each call, as Tail does. It raises as `of_study`."""
    shared = history_of(config)
    if shared is None:
        return Tail(Paths(config).ledger, last=last, since=since).new
    return _SharedTail(shared, last=last, since=since).new


def of_this_machine(config: Config, events: list[AuditEvent]) -> list[AuditEvent]:
    """Return the events that no other extractor wrote."""
    return [event for event in events if event.extractor in {"", config.scp.aet}]


def read(folder: Path, study: str = "") -> list[AuditEvent]:
    """Return the events of all segments, oldest first: all, or those of one study (either of its names).

    Raises OSError if this user may not read the ledger.
    """
    found: list[AuditEvent] = []
    for content in contents(folder):
        # most segments do not name the study: one search in the whole segment, before it is parsed
        rows = _events(content, study.encode()) if study.encode() in content else ()
        found[:0] = [row for row in rows if study in {"", row.study, row.study_uid}]
    return found


def past(folder: Path, since: str) -> Iterator[AuditEvent]:
    """Yield events since a stamp, the newest segment first; one segment is in memory at a time. Raises OSError."""
    for content in contents(folder):
        yield from (event for event in _events(content) if event.at >= since)
        first = parse_line(content[: content.find(b"\n") + 1])
        if first is not None and str(first["at"]) < since:
            return


def contents(folder: Path) -> Iterator[bytes]:
    """Yield the content of every segment, the newest first. Raises OSError."""
    for number in sorted(_segments(folder), reverse=True):
        yield _content(folder, number)


class Tail:
    """New events of the ledger at each call; the first call returns the latest `last` events, or those since a stamp."""

    def __init__(self, folder: Path, *, last: int = 0, since: str = "") -> None:
        self._folder = folder
        self._last = None if since else last
        self._since = since
        self._number = -1
        self._offset = 0

    def new(self) -> list[AuditEvent]:
        """Return the events since the last call, oldest first. Raises OSError."""
        if self._number < 0:
            return self._begin()
        found: list[AuditEvent] = []
        for number in sorted(number for number in _segments(self._folder) if number >= self._number):
            found += self._more(number)
        return found

    def _more(self, number: int) -> list[AuditEvent]:
        start = self._offset if number == self._number else 0
        content = _content(self._folder, number, start)
        whole = content.rfind(b"\n") + 1
        self._number, self._offset = number, start + whole
        return list(_events(content[:whole]))

    def _begin(self) -> list[AuditEvent]:
        numbers = sorted(_segments(self._folder))
        if not numbers:
            return []
        # the newest segment is read once, so that no event is returned twice or left out while it grows
        found = self._more(numbers[-1])
        for number in reversed(numbers[:-1]):
            if (self._last is not None and len(found) >= self._last) or (found and found[0].at < self._since):
                break
            found[:0] = _events(_content(self._folder, number))
        found = [event for event in found if event.at >= self._since]
        return found if self._last is None else found[max(0, len(found) - self._last) :]


class _SharedTail:
    """The same for a shared ledger: new events at each call."""

    def __init__(self, history: SharedHistory, *, last: int, since: str) -> None:
        self._history = history
        self._last = last
        self._since = since
        self._seq = -1

    def new(self) -> list[AuditEvent]:
        """Return the events since the last call, oldest first. Raises PeerDownError."""
        if self._seq >= 0:
            rows = self._history.after(self._seq)
        else:
            self._seq = self._history.last()
            limit = None if self._since else self._last
            rows = self._history.events(since=self._since, limit=limit)
        self._seq = max([self._seq, *(row["seq"] for row in rows)])
        return list(map(event_of, rows))


def _segments(folder: Path) -> set[int]:
    """Return the numbers of the segments; one that is being compressed has two files."""
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return {int(name[:8]) for name in names if name[:8].isdigit() and name.endswith((".jsonl", ".jsonl.gz"))}


def _content(folder: Path, number: int, start: int = 0) -> bytes:
    try:
        with safe_folder.opened(folder / f"{number:08}.jsonl") as file:
            file.seek(start)
            return file.read()
    except FileNotFoundError:
        return gzip.decompress(safe_folder.read(folder / f"{number:08}.jsonl.gz"))[start:]


def _events(content: bytes, needle: bytes = b"") -> Iterator[AuditEvent]:
    for raw in io.BytesIO(content):  # line by line: a segment has tens of thousands
        if _EVENT in raw and needle in raw and (record := parse_line(raw)) is not None:
            yield event_of(record)


def event_of(record: dict[str, Any]) -> AuditEvent:
    """Return a record of an event, with its DDWD_* fields, as an AuditEvent."""
    fields = {key.removeprefix(_PREFIX).lower(): value for key, value in record["fields"].items()}
    return AuditEvent(
        at=record["at"],
        event=record["event"],
        study=fields.get("study", ""),
        study_uid=fields.get("study_uid", ""),
        message=record["message"],
        fields={key: value for key, value in fields.items() if key not in _SHOWN_APART},
        extractor=record.get("extractor", ""),
    )
