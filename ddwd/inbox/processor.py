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
_LONGEST = 200
_NAMED = 1000
"""Files that a note names at most."""


class Stopped(Exception):  # noqa: N818 - not an error
    """Raised by the watchdog's hook in the middle of an item when the daemon is to end: the item stays, and is sent again."""


@dataclass
class Trouble:
    """Why an item waits, what it was then, how often it was tried, and when it is next."""

    reason: str
    signature: int
    tries: int
    due: float


class InboxProcessor:
    """Empties the drop folder. Not safe to run twice on one folder."""

    def __init__(
        self, folder: Path, scanner: InboxScanner, send: Send, clock: Clock, audit: Audit, reserve: int
    ) -> None:
        self._folder = folder
        self._scanner = scanner
        self._send = send
        self._clock = clock
        self._audit = audit
        self._reserve = reserve
        self._waiting: dict[Path, Trouble] = {}
        self.done: Counter[str] = Counter()
        self._work = folder / ".work"

    def begin(self) -> None:
        """Create the folders and remove leftovers of a crash. Raises OSError."""
        shutil.rmtree(self._work, ignore_errors=True)
        for name in (SENT, REJECTED, WAITING):
            durable.make_dirs(self._folder / name, 0o770, below=self._folder)
        for note in (self._folder / WAITING).glob("*.txt"):
            durable.unlink(note, below=self._folder)

    def turn(self) -> str:
        """Send items that are complete and due; return the state in one line. Raises OSError where the folder cannot be read."""
        self._scanner.look()
        self._forget({item.path for item in self._scanner.items})
        for item in self._scanner.complete():
            watchdog.alive()
            if self._is_due(item) and not self._take(item):
                break  # the gateway is away: the other items would fail too
        waiting = len(self._waiting)
        coming = sum(os.path.lexists(item.path) for item in self._scanner.items) - waiting
        said = f"{self.done['sent']} items sent, {self.done['rejected']} rejected"
        return f"{said}, {coming} arriving, {waiting} waiting{f': see {WAITING}' if waiting else ''}"

    def _forget(self, there: set[Path]) -> None:
        """Forget waiting items that were removed from the folder."""
        for path in self._waiting.keys() - there:
            self._no_longer(path)

    def _is_due(self, item: Item) -> bool:
        trouble = self._waiting.get(item.path)
        return (
            trouble is None or trouble.signature != item.signature or self._clock.monotonic() >= trouble.due
        )

    def _take(self, item: Item) -> bool:
        """Process one item; return False where the gateway cannot be reached."""
        try:
            self._deal(item)
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

    def _deal(self, item: Item) -> None:
        try:
            self._work.mkdir(mode=0o700, exist_ok=True)
            found = classify.look(item, self._work, self._reserve)
            if not found.outgoing:
                self._reject(item, _nothing(found), found.left)
            elif refused := self._refused(found.outgoing):
                self._wait(
                    item,
                    f"{len(refused)} of {len(found.outgoing)} images were not taken: {refused[0].reason}",
                )
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

        self._send(outgoing, answered)
        return [one for one in answers if not one.accepted]

    def _sent(self, item: Item, found: Contents) -> None:
        studies = Counter(_study_of(one.path) for one in found.outgoing)
        day = self._folder / SENT / f"{self._clock.utc():%Y-%m-%d}"
        durable.make_dirs(day, 0o770, below=self._folder)
        text = f"sent; {len(found.left)} of it not:\n" if found.left else ""
        self._move(item, day, text + _listed(found.left))
        self.done["sent"] += 1
        for study, count in studies.items():
            self._audit.record(
                Event.INBOX_SENT,
                f"{count} images of the drop folder sent to ORTHANC1",
                study_uid=study,
                instances=count,
                aet=INBOX_AET,
            )
        if found.left:
            self._tell_rejected(
                len(found.left), "files of an item that was sent otherwise are no DICOM or missing"
            )

    def _reject(self, item: Item, reason: str, left: Sequence[tuple[str, str]]) -> None:
        self._move(
            item,
            self._folder / REJECTED,
            f"rejected at {stamp(self._clock.utc())}: {reason}\n" + _listed(left),
        )
        self.done["rejected"] += 1
        self._tell_rejected(max(1, len(left)), reason)

    def _tell_rejected(self, count: int, reason: str) -> None:
        self._audit.record(Event.INBOX_REJECTED, f"not sent from the drop folder: {reason}", instances=count)

    def _move(self, item: Item, folder: Path, note: str) -> None:
        """The note first, so that what lies there is never without its reason; then all of it by one rename."""
        target = _free(folder / item.path.name)
        if note:
            durable.replace_file(_beside(target), note.encode("utf-8", "replace"), 0o660)
        durable.rename(item.path, target, below=self._folder)
        self._no_longer(item.path)

    def _wait(self, item: Item, reason: str) -> None:
        tries = self._waiting[item.path].tries + 1 if item.path in self._waiting else 1
        pause = retry_delay(tries, _FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
        if item.path not in self._waiting or self._waiting[item.path].reason != reason:
            log.warning("an item of the drop folder waits: %s", reason)
        self._waiting[item.path] = Trouble(reason, item.signature, tries, self._clock.monotonic() + pause)
        at = stamp(self._clock.utc())
        text = f"tried at {at}, {tries} times in all, next in {pause:.0f} s: {reason}\n"
        with suppress(OSError, DdwdError):  # a full disk: the log has it too
            durable.replace_file(self._note(item.path), text.encode(), 0o660)

    def _no_longer(self, path: Path) -> None:
        if self._waiting.pop(path, None) is not None:
            durable.unlink(self._note(path), below=self._folder)

    def _note(self, path: Path) -> Path:
        return _beside(self._folder / WAITING / path.name)


def _nothing(found: Contents) -> str:
    if len(found.left) == 1:
        return found.left[0][1]
    return (
        f"no DICOM file among its {len(found.left)} files"
        if found.left
        else "a DICOMDIR without the images it names"
    )


def _listed(left: Sequence[tuple[str, str]]) -> str:
    lines = [f"{name}: {reason}\n" for name, reason in left[:_NAMED]]
    more = f"and {len(left) - _NAMED} more\n" if len(left) > _NAMED else ""
    return "".join(lines) + more


def _free(path: Path) -> Path:
    """The same name, or with a number before it where it is taken: nothing is replaced."""
    number, target = 1, path
    while target.exists() or target.is_symlink():
        number += 1
        target = path.with_name(f"{number}-{_cut(path.name)}")
    return target


def _beside(path: Path) -> Path:
    """Where the note about it stands."""
    return path.with_name(f"{_cut(path.name)}.txt")


def _cut(name: str) -> str:
    """A name that leaves room for more in the 255 bytes that a file system gives it; no two become one."""
    raw = os.fsencode(name)
    if len(raw) <= _LONGEST:
        return name
    return f"{os.fsdecode(raw[:100])}-{hashlib.sha256(raw).hexdigest()[:16]}"


def _study_of(path: Path) -> str:
    """Return the StudyInstanceUID of a file that was taken; empty if it has none that can be read."""
    try:
        return str(
            dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True).get(
                "StudyInstanceUID", ""
            )
        )
    except Exception:  # noqa: BLE001 - a damaged file may make the parser raise anything
        return ""
