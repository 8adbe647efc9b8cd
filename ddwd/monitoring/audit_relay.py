"""Relay audit records from the journal to the audit repository: a queue of messages on disk, and a thread that sends them in order.

At least once: the journal's cursor moves only past records that are in the queue, and a message leaves the queue only after it was
sent. While the repository does not answer the queue grows to its limit; further records wait in the journal. Messages are sent by
syslog: RFC 5424 frames, over UDP (RFC 5426) or TLS (RFC 5425). A record that another user wrote under the trail's name is not sent.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from ddwd.core import durable
from ddwd.core.audit import is_genuine, selection
from ddwd.core.errors import DdwdError, PeerDownError, StateError
from ddwd.monitoring.dicom_audit import message
from ddwd.monitoring.rejected_associations import read_cursor
from ddwd.monitoring.retried_work import RetriedWork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from ddwd.config.schema import AuditConfig, Config

log = logging.getLogger("ddwd.monitoring")

_MOST_QUEUED = 50_000
_RECORDS_A_STEP = 500
_SENT_AT_ONCE = 200
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 5.0, 300.0
_JOURNAL_SECONDS = 20
_CONNECT_SECONDS = 15.0
_PRIORITY = 10 * 8 + 5
"""Facility 10 (security), severity 5 (notice): PS3.15 A.6."""
_LARGEST_DATAGRAM = 65_000


def journalctl(arguments: Sequence[str]) -> str:
    """Run journalctl of this machine; return its output. Raises StateError."""
    words = ["/usr/bin/journalctl", *arguments]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_JOURNAL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StateError(f"the journal cannot be read ({type(error).__name__})") from error
    if done.returncode:
        raise StateError("the journal cannot be read: user ddwd-monitor must be in group systemd-journal")
    return done.stdout


class AuditRelay:
    """Queues new records at each `step`, and sends them in a thread of its own once started; `journal` runs journalctl with its arguments."""

    def __init__(
        self, config: Config, folder: Path, journal: Callable[[Sequence[str]], str] = journalctl
    ) -> None:
        self._config = config
        self._folder = folder
        self._cursor_file = folder / "cursor"
        self._journal = journal
        self._full = False
        self._is_away = False
        self._thread = RetriedWork(
            "ddwd-audit-relay", self._send, _FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS
        )
        durable.make_dirs(folder)

    def start(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def step(self) -> None:
        """Queue new records. Raises StateError, StorageFullError and OSError; no record is skipped then."""
        queued = self.queued()
        was_full, self._full = self._full, len(queued) >= _MOST_QUEUED
        if self._full:
            if not was_full:
                log.warning("the audit queue is full (%d messages): records wait in the journal", len(queued))
            return
        number = int(queued[-1].stem) + 1 if queued else 1
        for record in self._new_records():
            content = message(record, self._config) if is_genuine(record) else None
            if content is not None:
                durable.replace_file(self._folder / f"{number:012}.xml", content)
                number += 1
            durable.replace_file(self._cursor_file, record["__CURSOR"].encode())
        if queued or number > 1:
            self._thread.wake()

    def queued(self) -> list[Path]:
        """Return the queued messages, oldest first."""
        return sorted(self._folder.glob("*.xml"))

    def _new_records(self) -> list[dict[str, str]]:
        cursor = read_cursor(self._cursor_file)
        # the very first step begins at the newest record: those before the repository was set are not sent
        begin = [f"--after-cursor={cursor}"] if cursor else ["-n", "1"]
        lines = self._journal(["-o", "json", "--no-pager", *begin, *selection()]).splitlines()
        records = [json.loads(line) for line in lines[:_RECORDS_A_STEP]]
        return [{key: value for key, value in one.items() if isinstance(value, str)} for one in records]

    def stop(self) -> None:
        """End soon; queued messages are sent after the next start."""
        self._thread.stop()

    def _send(self) -> bool:
        """Send some messages, and the next ones right after; return False if that failed, which is logged once."""
        try:
            if self.send_some():
                self._thread.wake()
        except (DdwdError, OSError) as error:
            if not self._is_away:
                log.warning("%s; audit messages wait in the queue", error)
            self._is_away = True
            return False
        self._is_away = False
        return True

    def send_some(self) -> bool:
        """Send the oldest messages; return whether there were any. Raises PeerDownError."""
        batch = self.queued()[:_SENT_AT_ONCE]
        for path in send(self._config.audit, [(path, path.read_bytes()) for path in batch]):
            durable.unlink(path)
        return bool(batch)


# --- syslog -----------------------------------------------------------------------------------------------------------


def frame(xml: bytes, at: datetime | None = None) -> bytes:
    """Return one RFC 5424 message around an audit message; the byte order mark marks it as UTF-8."""
    stamp = (at or datetime.now(UTC)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = f"<{_PRIORITY}>1 {stamp} {socket.gethostname()} ddwd {os.getpid()} DICOM+RFC3881 - "
    return head.encode("ascii", "replace") + b"\xef\xbb\xbf" + xml


def send(settings: AuditConfig, messages: Iterable[tuple[Path, bytes]]) -> Iterable[Path]:
    """Send the messages in order; yield each that was sent. Raises PeerDownError."""
    try:
        yield from (_by_udp if settings.transport == "udp" else _by_tls)(settings, messages)
    except (OSError, ValueError) as error:
        reason = getattr(error, "verify_message", "") or getattr(error, "strerror", "")
        raise PeerDownError(
            f"audit repository {settings.host}:{settings.port}: {reason or type(error).__name__}"
        ) from error


def _by_udp(settings: AuditConfig, messages: Iterable[tuple[Path, bytes]]) -> Iterable[Path]:
    found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_DGRAM)
    family, _, _, _, address = found[0]
    with socket.socket(family, socket.SOCK_DGRAM) as out:
        for path, xml in messages:
            out.sendto(frame(xml)[:_LARGEST_DATAGRAM], address)
            yield path


def _by_tls(settings: AuditConfig, messages: Iterable[tuple[Path, bytes]]) -> Iterable[Path]:
    context = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate:
        context.load_cert_chain(settings.certificate, settings.key)
    with (
        socket.create_connection((settings.host, settings.port), timeout=_CONNECT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=settings.host) as out,
    ):
        sent = []
        for path, xml in messages:
            content = frame(xml)
            out.sendall(b"%d %s" % (len(content), content))
            sent.append(path)
        out.unwrap()  # the receiver has read all messages: only now may they be deleted here
        yield from sent
