"""Relay audit records from the journal to the audit repository: a queue of messages on disk, and a thread that sends them in order.

At least once: the journal's cursor moves only past records that are in the queue, and a message leaves the queue only after it was
sent. While the repository is away the queue grows to its limit; further records wait in the journal.
"""

from __future__ import annotations

import json
import logging
import subprocess
import threading
from typing import TYPE_CHECKING

from ddwd.core import durable
from ddwd.core.errors import DdwdError, StateError
from ddwd.core.retry import Backoff
from ddwd.monitoring.dicom_audit import message
from ddwd.monitoring.syslog import send

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ddwd.config.loader import Config

    Journal = Callable[[Sequence[str]], str]
    """Runs journalctl with these arguments; returns its output. Raises StateError."""

log = logging.getLogger("ddwd.monitoring")

_MOST_QUEUED = 50_000
_RECORDS_A_STEP = 500
_SENT_AT_ONCE = 200
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 5.0, 300.0
_SECONDS = 20


class AuditRelay:
    """Queues new records at each `step`, and sends them in a thread of its own."""

    def __init__(self, config: Config, folder: Path, journal: Journal | None = None) -> None:
        self._config = config
        self._folder = folder
        self._cursor_file = folder / "cursor"
        self._journal = journal or journalctl
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._full = False
        durable.make_dirs(folder)
        self._thread = threading.Thread(target=self._run, name="ddwd-audit-relay", daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Queue new records. Raises StateError, StorageFullError and OSError; no record is skipped then."""
        queued = self.queued()
        if len(queued) >= _MOST_QUEUED:
            if not self._full:
                log.warning("the audit queue is full (%d messages): records wait in the journal", len(queued))
            self._full = True
            return
        self._full = False
        number = int(queued[-1].stem) + 1 if queued else 1
        for record in self._new_records():
            content = message(record, self._config)
            if content is not None:
                durable.replace_file(self._folder / f"{number:012}.xml", content)
                number += 1
            durable.replace_file(self._cursor_file, record["__CURSOR"].encode())
        if queued or number > 1:
            self._wanted.set()

    def queued(self) -> list[Path]:
        """Return the queued messages, oldest first."""
        return sorted(self._folder.glob("*.xml"))

    def _new_records(self) -> list[dict[str, str]]:
        words = ["-t", "ddwd-audit", "-o", "json", "--no-pager"]
        try:
            cursor = self._cursor_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            cursor = ""
        # the very first step begins at the newest record: those before the repository was set are not sent
        words += [f"--after-cursor={cursor}"] if cursor else ["-n", "1"]
        records = [json.loads(line) for line in self._journal(words).splitlines()[:_RECORDS_A_STEP]]
        return [{key: value for key, value in one.items() if isinstance(value, str)} for one in records]

    def stop(self) -> None:
        """End soon; queued messages are sent after the next start."""
        self._stopping.set()
        self._wanted.set()

    def _run(self) -> None:
        backoff = Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
        while not self._stopping.is_set():
            self._wanted.wait()
            self._wanted.clear()
            try:
                while not self._stopping.is_set() and self.send_some():
                    backoff.succeeded()
            except (DdwdError, OSError) as error:
                if not backoff.failures:
                    log.warning("%s; audit messages wait in the queue", error)
                self._stopping.wait(backoff.failed())
                self._wanted.set()

    def send_some(self) -> bool:
        """Send the oldest messages; return whether there were any. Raises PeerDownError."""
        batch = self.queued()[:_SENT_AT_ONCE]
        for path in send(self._config.audit, [(path, path.read_bytes()) for path in batch]):
            durable.unlink(path)
        return bool(batch)


def journalctl(arguments: Sequence[str]) -> str:
    """Run journalctl of this machine."""
    try:
        done = subprocess.run(
            ["/usr/bin/journalctl", *arguments], capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StateError(f"the journal cannot be read ({type(error).__name__})") from error
    if done.returncode:
        raise StateError("the journal cannot be read: user ddwd must be in group systemd-journal")
    return done.stdout
