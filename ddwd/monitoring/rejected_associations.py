"""Record rejected associations as audit events: those of our own SCP directly, those of the Orthancs from the journal.

An Orthanc reports only in its log whom it rejected. The monitor reads that log and stores its position, so that rejections while the
monitor is down are recorded later. Names in the log come from the sender: not trusted, and bounded in length.
"""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from ddwd.core import durable
from ddwd.core.audit import Event, journal
from ddwd.core.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from ddwd.core.audit import Audit
    from ddwd.core.clock import Clock

_MINUTE = 60.0
_TOLD_A_MINUTE = 10
_FIRST_LOOK = timedelta(hours=1)
_UNITS = {
    "ddwd-gateway.service": "gateway",
    "ddwd-storage.service": "storage",
    "ddwd-tls@gateway.service": "gateway",
    "ddwd-tls@storage.service": "storage",
    "ddwd-tls@link.service": "link",
}
_LINES = (
    (re.compile(r"\] Rejected association for remote AET (?P<aet>.*) on IP (?P<ip>\S+)$"), "an association"),
    (re.compile(r"\] Rejected association, because of a bad called AET in the request \((?P<called>.*)\)$"), "an association"),
    (re.compile(r"\] Rejected \S+ request from remote DICOM modality with AET \"(?P<aet>.*)\" and hostname \"(?P<ip>\S+)\"$"), "a request"),
    (re.compile(r"\]:\d+: ddwd: refused a C-STORE of AET (?P<aet>.*) on IP (?P<ip>\S+): not in senders$"), "an image"),
    (re.compile(r"\] Receiving Association failed: TLS error: (?P<why>.*)$"), "a connection by TLS"),
    (re.compile(r"LOG\d\[.*\]: SSL_accept: .*:(?P<why>[^:]+)$"), "a connection by TLS"),
)  # fmt: skip
"""What Orthanc 1.12 (CommandDispatcher.cpp, orthanc/senders.lua) and stunnel log for each rejection."""


class RejectionReporter:
    """Records rejections in the audit: each one while they are few, else their number."""

    def __init__(self, audit: Audit, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self._lock = threading.Lock()
        self._minute = float("-inf")
        self._told = 0
        self._untold = 0

    def refused(self, calling: str, called: str) -> None:
        """Record one rejected association, by its calling and called AE title. Called by the threads of the SCP."""
        self.report(f"refused an association that called {called}", calling)

    def report(self, message: str, aet: str, peer: str = "") -> None:
        """Record one rejection."""
        with self._lock:
            now = self._clock.monotonic()
            if now - self._minute >= _MINUTE:
                self._minute, self._told = now, 0
            if self._told >= _TOLD_A_MINUTE:
                self._untold += 1
                return
            self._told += 1
            more, self._untold = self._untold, 0
        also = f"; {more} more were refused in the minutes before" if more else ""
        where = {"peer": peer} if peer else {}
        self._audit.record(Event.ASSOCIATION_REFUSED, f"{message}{also}", aet=aet, **where)


class RejectionWatcher:
    """Reads new lines in the log of the two Orthancs at each `step`; `cursor` holds the position."""

    def __init__(
        self, refusals: RejectionReporter, cursor: Path, reader: Callable[[str], Reader | None] | None = None
    ) -> None:
        self._refusals = refusals
        self._cursor = cursor
        self._open = reader or open_journal
        self._reader: Reader | None = None

    def step(self) -> None:
        """Record new rejections. Raises StateError if the journal cannot be read, and OSError."""
        if self._reader is None:
            self._reader = self._open(self._seen())
        last = None
        for record in self._reader.new() if self._reader else ():
            self._tell(record)
            last = record["__CURSOR"]
        if last is not None:
            durable.replace_file(self._cursor, str(last).encode())

    def _seen(self) -> str:
        try:
            return self._cursor.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def _tell(self, record: Mapping[str, Any]) -> None:
        node = _UNITS[record["_SYSTEMD_UNIT"]]
        text = record.get("MESSAGE", "")
        if isinstance(text, bytes):  # not UTF-8
            text = text.decode("utf-8", "replace")
        for pattern, what in _LINES:
            if found := pattern.search(text):
                who = found.groupdict()
                aet = who.get("aet", "?")
                self._refusals.report(f"refused {what} {_details(who)}", aet, peer=node)
                return


def _details(who: Mapping[str, str]) -> str:
    if "ip" in who:
        return f"of {who['aet']} at {who['ip']}"
    return f"({who['why']})" if "why" in who else f"that called {who['called']}"


class Reader(Protocol):
    """What is read of the journal."""

    def new(self) -> Iterable[Mapping[str, Any]]:
        """Return the records of the two Orthancs since the last call."""


class Journal:
    """This machine's journal from a cursor on, or from an hour ago without one."""

    def __init__(self, cursor: str) -> None:
        try:
            self._reader = journal.Reader()
            self._reader.fileno()  # from here on `process` detects a journal file that was replaced
            for unit in _UNITS:
                self._reader.add_match(_SYSTEMD_UNIT=unit)
            if cursor:
                self._reader.seek_cursor(cursor)
                self._reader.get_next()  # the record that the cursor names was handled before
            else:
                self._reader.seek_realtime(datetime.now(UTC) - _FIRST_LOOK)
        except OSError as error:
            raise StateError(f"the journal cannot be read ({error.strerror})") from error

    def new(self) -> Iterable[Mapping[str, Any]]:
        """Return the records since the last call."""
        self._reader.process()
        return iter(self._reader.get_next, {})


def open_journal(cursor: str) -> Reader | None:
    """Open this machine's journal; None if systemd's library is absent."""
    return None if journal is None else Journal(cursor)
