"""Extend the chain: enter the events of the audit trail, each once, and sign a head over them. Only ddwd-signer runs it.

The position in the journal is in the entries themselves, so that both become durable in one step. It extends only: at its start, and
once a day, it holds the whole log against every head that it signed. Where they differ it enters no more, until somebody has looked.
Whatever fails otherwise is begun anew from the disk; the events wait in the journal.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from ddwd.chain import check, entry, head
from ddwd.chain.head import FORMAT, HeadFiles, SignedHead, is_signed
from ddwd.chain.log import ChainWriter
from ddwd.core import durable, watchdog
from ddwd.core.audit import DOWNGRADE, Event, is_genuine
from ddwd.core.clock import stamp
from ddwd.core.errors import DamagedStateError, DdwdError, NewerStateError
from ddwd.core.model import OrthancId
from ddwd.store import custody

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ddwd.core.audit import Audit
    from ddwd.core.clock import Clock
    from ddwd.core.journal_reader import Reader
    from ddwd.store.custody import Custody

    OpenTrail = Callable[[str, str], Reader]
    """Opens the audit trail behind a cursor or, without one, at a UTC stamp."""

log = logging.getLogger("ddwd.chain")

PUBLISH_EVERY = 10_000
"""Entries after which a head is published, if a day is not over before."""
_AT_ONCE = 2_000
_RECORDS_AT_ONCE = 200
_ANNOUNCES = "head of the chain: "
_DAY_SECONDS = 86_400.0
_POSITION, _STATED = b'"cursor":', b'"record_sha256":'
_ANNOUNCED = f'"event":"{entry.HEAD}"'.encode()


@dataclass
class _Open:
    """The log as it was found sound, and what is to be done with it."""

    log: ChainWriter
    head: SignedHead | None
    published: SignedHead | None
    reader: Reader
    unknown: Iterator[OrthancId]
    walked_at: float
    announce: SignedHead | None = None
    """A published head that the journal may not have."""


@dataclass
class _Seen:
    """What a walk collects for the signer: the last entry, the last one with a position in the journal, and which studies and heads
    entries name."""

    position: bytes = b""
    last: bytes = b""
    studies: set[bytes] = field(default_factory=set)
    heads: set[str] = field(default_factory=set)

    def visit(self, _index: int, line: bytes) -> None:
        """Take note of one entry; few are decoded, since there may be millions."""
        self.last = line
        if _POSITION in line:
            self.position = line
        if entry.replaced_by(line) == DOWNGRADE:
            self.studies.clear()  # the older version made records that it states nowhere
        if _STATED in line:
            self.studies.add(_key(str(_decoded(line).get("study"))))
        if _ANNOUNCED in line:
            self.heads.add(str(_decoded(line).get("message")))


@dataclass(frozen=True, slots=True)
class Chain:
    """Where a chain is: its folder, and the private key that signs it."""

    folder: Path
    key: Path


class Signer:
    """The one writer of a chain. Without `records` no custody record is looked up."""

    def __init__(
        self, chain: Chain, open_trail: OpenTrail, records: Custody | None, audit: Audit, clock: Clock
    ) -> None:
        self._chain = chain
        self.files = HeadFiles(chain.folder)
        self._open_trail = open_trail
        self._records = records
        self._audit = audit
        self._clock = clock
        self._open: _Open | None = None
        self.broken = ""
        """Why the chain is not extended any more; empty while it is sound."""

    @property
    def newest(self) -> SignedHead | None:
        """The newest head, None while none was read."""
        return self._open.head if self._open else None

    @property
    def published(self) -> SignedHead | None:
        """The last published head, None while none was read."""
        return self._open.published if self._open else None

    def step(self) -> bool:
        """Enter what is new, sign and publish; return whether more is waiting. Raises DdwdError and OSError: call it again then."""
        if self.broken:
            return False
        try:
            if self._open is None or self._clock.monotonic() - self._open.walked_at >= _DAY_SECONDS:
                self._open = self._start()
            return self._open is not None and self._extend(self._open)
        except (DdwdError, OSError):
            self._open = None
            raise

    # --- the start --------------------------------------------------------------------------------------------------------

    def _start(self) -> _Open | None:
        """Check the whole chain and open it; None, and `broken` is set, if it is not what was signed."""
        durable.make_dirs(self.files.folder)
        seen = _Seen()
        found = check.walk(self.files.folder, seen.visit, to_the_end=True)
        if found.newest is not None and not self._chain.key.exists():
            found.problems.append(f"{self._chain.key} is missing")
        if found.problems and not found.is_tree_alone:
            self._break(found.problems)
            return None
        if found.is_tree_alone:
            log.warning("%s; it is made anew", found.problems[0])
            durable.unlink(self.files.folder / "tree")
        head.make_key(self._chain.key, self.files)
        writer = ChainWriter(self.files.folder)
        if not writer.size:
            seen.last = self._own(entry.BEGUN, "the chain begins: what happened before is not in it")
            writer.append([seen.last])
        for announced in self._announced_since(seen, found):
            self.files.add_published(announced)
            found.published.append(announced)
        published = found.published[-1] if found.published else None
        is_announced = published is None or _announcement(published) in seen.heads
        return _Open(
            writer,
            found.newest,
            published,
            self._open_trail(_decoded(seen.position).get("cursor", ""), _decoded(seen.last).get("time", "")),
            self._unknown(seen.studies),
            self._clock.monotonic(),
            None if is_announced else published,
        )

    def _announced_since(self, seen: _Seen, found: check.Walk) -> list[SignedHead]:
        """Return the heads that entries name and the file of published ones does not have, as after a restore: the entries were copied last."""
        key = self.files.public_key.read_text(encoding="ascii")
        kept = {_announcement(one) for one in found.published}
        named = [_head_of(message) for message in seen.heads - kept]
        return sorted((one for one in named if one and is_signed(one, key)), key=lambda one: one.size)

    def _break(self, problems: list[str]) -> None:
        self.broken = problems[0]
        for problem in problems[:20]:
            log.error("the chain is broken: %s", problem)
        self._audit.record(Event.CHAIN_BROKEN, f"the chain is broken, and not extended: {problems[0]}")

    def _unknown(self, studies: set[bytes]) -> Iterator[OrthancId]:
        """Yield the studies with a custody record that no entry states: older than the chain, or lost with the journal."""
        if self._records is not None:
            for study in self._records.studies():
                if _key(study) not in studies:
                    yield study

    # --- the turn ---------------------------------------------------------------------------------------------------------

    def _extend(self, opened: _Open) -> bool:
        records = list(islice(opened.reader(), _AT_ONCE))
        new = [found for one in records if is_genuine(one) and (found := entry.entry_of(one)) is not None]
        is_drained = len(records) < _AT_ONCE
        # what the journal still has of a study comes first: only then a record without an entry is one that lost its event
        known = self._known(opened) if is_drained else []
        if lines := [entry.encode(one) for one in new] + known:
            opened.log.append(lines)
        if any(entry.replaced_by(line) == DOWNGRADE for line in lines):
            self._open = None  # the start looks at all records anew
            return True
        if opened.head is None or opened.log.size > opened.head.size:
            opened.head = self._sign(opened.log)
        if any(one["event"] == entry.HEAD and _is_of(one, opened.announce) for one in new):
            opened.announce = None
        if is_drained and self._is_due(opened):
            self.files.add_published(opened.head)
            opened.published = opened.announce = opened.head
        if is_drained and opened.announce is not None:
            self._audit.record(Event.CHAIN_HEAD, _announcement(opened.announce))
            opened.announce = None
        return not is_drained or len(known) == _RECORDS_AT_ONCE

    def _known(self, opened: _Open) -> list[bytes]:
        """Return the entries of the next records that no entry states."""
        lines = []
        for study in islice(opened.unknown, _RECORDS_AT_ONCE):
            watchdog.alive()
            if self._records is not None and (content := self._records.stored(study)) is not None:
                lines.append(
                    self._own(entry.KNOWN, "a custody record that no entry states", **_stated(study, content))
                )
        return lines

    def _sign(self, writer: ChainWriter) -> SignedHead:
        signed = head.sign(
            self._chain.key, self.files, writer.size, writer.root(writer.size), stamp(self._clock.utc())
        )
        FORMAT.write(self.files.newest, signed)
        return signed

    def _is_due(self, opened: _Open) -> bool:
        """Return whether the newest head is to be published: each day, and each so many entries."""
        if opened.head is None or opened.published is None:
            return opened.head is not None
        is_another_day = opened.head.time[:10] != opened.published.time[:10]
        return is_another_day or opened.head.size - opened.published.size >= PUBLISH_EVERY

    def _own(self, event: str, message: str, **fields: Any) -> bytes:
        """Return an entry of the signer's own."""
        own = {"event": event, "message": message, "time": stamp(self._clock.utc())}
        return entry.encode(own | {"unit": "ddwd-signer.service", "uid": str(os.getuid())} | fields)


def _key(study: str) -> bytes:
    """Return a study's ID in few bytes: there may be a million."""
    return hashlib.sha256(study.encode()).digest()[:16]


def _decoded(line: bytes) -> entry.Entry:
    """Return an entry; an empty one for a line that is none, behind the newest head, which the writer cuts off."""
    try:
        return entry.decode(line, "the chain")
    except DamagedStateError:
        return {}


def _announcement(published: SignedHead) -> str:
    """Return the message of the event that publishes a head: what a person saves as a file for check-proof.py --head."""
    return f"{_ANNOUNCES}{FORMAT.render(published).decode().strip()}"


def _head_of(message: str) -> SignedHead | None:
    """Return the head that such a message names; None for any other text."""
    with suppress(DamagedStateError):
        return FORMAT.parse(message.removeprefix(_ANNOUNCES).encode(), "the message")
    return None


def _is_of(found: entry.Entry, published: SignedHead | None) -> bool:
    return published is not None and found["message"] == _announcement(published)


def _stated(study: OrthancId, content: bytes) -> dict[str, str]:
    """Return what an entry says of a record; of one that cannot be read only the digest of its bytes."""
    digest = hashlib.sha256(content).hexdigest()
    try:
        record = custody.FORMAT.parse(content, study)
    except (DamagedStateError, NewerStateError):
        return {"study": study, "record_sha256": digest}
    fields = {"study": study, "study_uid": record.study_uid, **custody.statement(record, digest)}
    return {key: str(value) for key, value in fields.items()}
