"""Record rejected associations as audit events: those of our own SCP directly, those of ORTHANC2 and of stunnel from the journal.

They report only in their logs whom they rejected. Those of ORTHANC1 are recorded by ddwd-acceptor, which knows the sender's address. The monitor reads that log and stores its position, so that rejections while the
monitor is down are recorded later. Names in the log come from the sender: not trusted, and bounded in length.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ddwd.core import durable
from ddwd.core.audit import Event
from ddwd.core.journal_reader import open_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ddwd.core.audit import Audit
    from ddwd.core.clock import Clock
    from ddwd.core.journal_reader import Reader

_MINUTE = 60.0
_MOST_A_MINUTE = 10
_UNITS = {
    "ddwd-storage.service": "storage",
    "ddwd-tls@storage.service": "storage",
    "ddwd-tls@web-gateway.service": "gateway",
    "ddwd-tls@web-storage.service": "storage",
    "ddwd-tls@link.service": "link",
}
_LINES = (
    (re.compile(r"\] Rejected association for remote AET (?P<aet>.*) on IP (?P<ip>\S+)$"), "an association"),
    (re.compile(r"\] Rejected association, because of a bad called AET in the request \((?P<called>.*)\)$"), "an association"),
    (re.compile(r"\] Rejected \S+ request from remote DICOM modality with AET \"(?P<aet>.*)\" and hostname \"(?P<ip>\S+)\"$"), "a request"),
    (re.compile(r"\] Receiving Association failed: TLS error: (?P<why>.*)$"), "a connection by TLS"),
    (re.compile(r"LOG\d\[.*\]: SSL_accept: .*:(?P<why>[^:]+)$"), "a connection by TLS"),
)  # fmt: skip
"""What Orthanc 1.12 (CommandDispatcher.cpp) and stunnel log for each rejection."""


class RejectionReporter:
    """Records rejections in the audit: each one while they are few, else their number."""

    def __init__(self, audit: Audit, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self._lock = threading.Lock()
        self._minute = float("-inf")
        self._recorded = self._omitted = 0

    def refused(self, calling: str, called: str) -> None:
        """Record one rejected association, by its calling and called AE title. Called by the threads of the SCP."""
        self.report(f"refused an association that called {called}", calling)

    def report(self, message: str, aet: str, peer: str = "") -> None:
        """Record one rejection."""
        with self._lock:
            now = self._clock.monotonic()
            if now - self._minute >= _MINUTE:
                self._minute, self._recorded = now, 0
            if self._recorded >= _MOST_A_MINUTE:
                self._omitted += 1
                return
            self._recorded += 1
            omitted, self._omitted = self._omitted, 0
        also = f"; {omitted} more were refused in the minutes before" if omitted else ""
        where = {"peer": peer} if peer else {}
        self._audit.record(Event.ASSOCIATION_REFUSED, f"{message}{also}", aet=aet, **where)


def read_cursor(path: Path) -> str:
    """Return the stored position in the journal; empty if there is none. Raises OSError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def open_journal(cursor: str) -> Reader:
    """Open this machine's journal at a cursor, or an hour ago; without systemd's library there are no records. Raises StateError."""
    return open_reader([f"_SYSTEMD_UNIT={unit}" for unit in _UNITS], cursor, timedelta(hours=1))


@dataclass
class RejectionWatcher:
    """Reads new lines in the log of the two Orthancs at each `step`; the file `cursor` holds the position."""

    reporter: RejectionReporter
    cursor: Path
    open_reader: Callable[[str], Reader] = open_journal
    _new_records: Reader | None = field(default=None, init=False)

    def step(self) -> None:
        """Record new rejections. Raises StateError if the journal cannot be read, and OSError."""
        if self._new_records is None:
            self._new_records = self.open_reader(read_cursor(self.cursor))
        last = None
        for record in self._new_records():
            self._report(record)
            last = record["__CURSOR"]
        if last is not None:
            durable.replace_file(self.cursor, str(last).encode())

    def _report(self, record: Mapping[str, Any]) -> None:
        text = record.get("MESSAGE", "")
        if isinstance(text, bytes):  # not UTF-8
            text = text.decode("utf-8", "replace")
        for pattern, what in _LINES:
            if found := pattern.search(text):
                sender = found.groupdict()
                message = f"refused {what} {_details(sender)}"
                self.reporter.report(message, sender.get("aet", "?"), _UNITS[record["_SYSTEMD_UNIT"]])
                return


def _details(sender: Mapping[str, str]) -> str:
    if "ip" in sender:
        return f"of {sender['aet']} at {sender['ip']}"
    return f"({sender['why']})" if "why" in sender else f"that called {sender['called']}"
