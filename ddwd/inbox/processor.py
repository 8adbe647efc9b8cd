"""Send each complete item of the drop folder, then move it to `sent`; items without DICOM go to `rejected`, failed items are retried.

An item is moved by one rename, only after each of its images was answered with 0x0000; after a crash it is sent again, which is harmless.
Notes (`NAME.txt`) give the reason to people. File names may contain patient names and stay out of journal and audit.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom import dcmread

from ddwd.core import durable, watchdog
from ddwd.core.audit import Event
from ddwd.core.clock import stamp
from ddwd.core.errors import DdwdError, InvalidValueError, PeerDownError, PeerRefusedError
from ddwd.core.model import INBOX_AET
from ddwd.core.retry import retry_delay
from ddwd.inbox import classify, scanner
from ddwd.inbox.scanner import REJECTED, SENT, WAITING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ddwd.core.audit import Audit
    from ddwd.core.clock import Clock
    from ddwd.dicom.store_scu import Answer, Outgoing
    from ddwd.inbox.classify import Contents
    from ddwd.inbox.scanner import InboxScanner, Item

    Send = Callable[[Sequence[Outgoing], Callable[[Answer], None]], None]
    """Sends each file and reports the answer; raises PeerDownError or PeerRefusedError."""

log = logging.getLogger("ddwd.inbox")

_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 10.0, 300.0
_LONGEST_NAME = 200
"""Bytes of a file name; a file system has room for 255, with a number before it and `.txt` after it."""
_MOST_LINES = 1000
"""Files that a note names at most."""


class Stopped(Exception):  # noqa: N818 - not an error
    """Raised by the watchdog's hook in the middle of an item when the daemon is to end: the item stays, and is sent again."""


@dataclass
class _Retry:
    """A waiting item: the reason, its signature at the last try, the number of tries, and when the next one is due."""

    reason: str
    signature: int
    tries: int
    due: float


@dataclass
class InboxProcessor:
    """Empties the drop folder. Not safe to run twice on one folder."""

    folder: Path
    scanner: InboxScanner
    send: Send
    clock: Clock
    audit: Audit
    reserve: int

    def __post_init__(self) -> None:
        self._waiting: dict[Path, _Retry] = {}
        self._done: Counter[str] = Counter()
        self._work = self.folder / ".work"

    def begin(self) -> None:
        """Create the folders and remove leftovers of a crash. Raises OSError."""
        shutil.rmtree(self._work, ignore_errors=True)
        for name in (SENT, REJECTED, WAITING):
            durable.make_dirs(self.folder / name, 0o770, below=self.folder)
        for note in (self.folder / WAITING).glob("*.txt"):
            durable.unlink(note, below=self.folder)

    def turn(self) -> str:
        """Send items that are complete and due; return the state in one line. Raises OSError where the folder cannot be read."""
        self.scanner.look()
        for path in self._waiting.keys() - {item.path for item in self.scanner.items}:
            self._forget(path)
        for item in self.scanner.complete():
            watchdog.alive()
            if self._is_due(item) and not self._process(item):
                break  # the gateway does not answer: the other items would fail too
        waiting = len(self._waiting)
        arriving = sum(os.path.lexists(item.path) for item in self.scanner.items) - waiting
        state = f"{self._done['sent']} items sent, {self._done['rejected']} rejected, {arriving} arriving"
        return f"{state}, {waiting} waiting{f': see {WAITING}' if waiting else ''}"

    def _is_due(self, item: Item) -> bool:
        retry = self._waiting.get(item.path)
        return retry is None or retry.signature != item.signature or self.clock.monotonic() >= retry.due

    def _process(self, item: Item) -> bool:
        """Process one item; return False where the gateway cannot be reached."""
        try:
            self._send_item(item)
        except InvalidValueError as error:
            self._reject(item, str(error), ())
        except (PeerDownError, PeerRefusedError) as error:
            self._wait(item, str(error))
            return False
        except DdwdError as error:
            self._wait(item, str(error))
        except OSError as error:  # its own text would have the name
            self._wait(item, error.strerror or type(error).__name__)
        return True

    def _send_item(self, item: Item) -> None:
        try:
            self._work.mkdir(mode=0o700, exist_ok=True)
            found = classify.look(item, self._work, self.reserve)
            if not found.outgoing:
                self._reject(item, _why_empty(found), found.left)
            elif refused := self._refused(found.outgoing):
                count = f"{len(refused)} of {len(found.outgoing)} images"
                self._wait(item, f"{count} were not accepted: {refused[0].reason}")
            elif scanner.read(item.path).signature != item.signature:
                self._wait(item, "it was changed while it was sent, and is sent again")
            else:
                self._sent(item, found)
        finally:
            shutil.rmtree(self._work, ignore_errors=True)

    def _refused(self, outgoing: Sequence[Outgoing]) -> list[Answer]:
        answers: list[Answer] = []

        def answered(answer: Answer) -> None:
            answers.append(answer)
            watchdog.alive()

        self.send(outgoing, answered)
        return [answer for answer in answers if not answer.accepted]

    def _sent(self, item: Item, found: Contents) -> None:
        studies = Counter(_study_of(file.path) for file in found.outgoing)
        day = self.folder / SENT / f"{self.clock.utc():%Y-%m-%d}"
        durable.make_dirs(day, 0o770, below=self.folder)
        text = f"sent, but {len(found.left)} of its files are not:\n" if found.left else ""
        self._move(item, day, text + _listed(found.left))
        self._done["sent"] += 1
        for study, count in studies.items():
            self.audit.record(
                Event.INBOX_SENT,
                f"{count} images of the drop folder sent to ORTHANC1",
                study_uid=study,
                instances=count,
                aet=INBOX_AET,
            )
        if found.left:
            reason = "files of an item that was sent otherwise are not DICOM or missing"
            self._record_rejected(len(found.left), reason)

    def _reject(self, item: Item, reason: str, left: Sequence[tuple[str, str]]) -> None:
        note = f"rejected at {stamp(self.clock.utc())}: {reason}\n{_listed(left)}"
        self._move(item, self.folder / REJECTED, note)
        self._done["rejected"] += 1
        self._record_rejected(max(1, len(left)), reason)

    def _record_rejected(self, count: int, reason: str) -> None:
        self.audit.record(Event.INBOX_REJECTED, f"not sent from the drop folder: {reason}", instances=count)

    def _move(self, item: Item, folder: Path, note: str) -> None:
        """Write the note first, so that an item there always has its reason; then move the whole item by one rename."""
        number, target = 1, folder / item.path.name
        while target.exists() or target.is_symlink():  # nothing is replaced
            number += 1
            target = folder / f"{number}-{_cut(item.path.name)}"
        if note:
            durable.replace_file(_note_of(target), note.encode("utf-8", "replace"), 0o660)
        durable.rename(item.path, target, below=self.folder)
        self._forget(item.path)

    def _wait(self, item: Item, reason: str) -> None:
        before = self._waiting.get(item.path)
        tries = before.tries + 1 if before else 1
        pause = retry_delay(tries, _FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
        if before is None or before.reason != reason:
            log.warning("an item of the drop folder waits: %s", reason)
        self._waiting[item.path] = _Retry(reason, item.signature, tries, self.clock.monotonic() + pause)
        at = stamp(self.clock.utc())
        text = f"tried at {at}, {tries} times in all, next in {pause:.0f} s: {reason}\n"
        with suppress(OSError, DdwdError):  # a full disk: the log has it too
            durable.replace_file(_note_of(self.folder / WAITING / item.path.name), text.encode(), 0o660)

    def _forget(self, path: Path) -> None:
        """Forget a waiting item that was moved or removed from the folder."""
        if self._waiting.pop(path, None) is not None:
            durable.unlink(_note_of(self.folder / WAITING / path.name), below=self.folder)


def _why_empty(found: Contents) -> str:
    if len(found.left) == 1:
        return found.left[0][1]
    if found.left:
        return f"no DICOM file among its {len(found.left)} files"
    return "a DICOMDIR without the images it names"


def _listed(left: Sequence[tuple[str, str]]) -> str:
    lines = [f"{name}: {reason}\n" for name, reason in left[:_MOST_LINES]]
    more = f"and {len(left) - _MOST_LINES} more\n" if len(left) > _MOST_LINES else ""
    return "".join(lines) + more


def _note_of(path: Path) -> Path:
    return path.with_name(f"{_cut(path.name)}.txt")


def _cut(name: str) -> str:
    """Shorten a long name; two long names do not become one."""
    raw = os.fsencode(name)
    if len(raw) <= _LONGEST_NAME:
        return name
    return f"{os.fsdecode(raw[:100])}-{hashlib.sha256(raw).hexdigest()[:16]}"


def _study_of(path: Path) -> str:
    """Return the StudyInstanceUID of a file that was sent; empty if it has none that can be read."""
    try:
        found = dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True)
        return str(found.get("StudyInstanceUID", ""))
    except Exception:  # noqa: BLE001 - a damaged file may make the parser raise anything
        return ""
