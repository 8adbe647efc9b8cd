"""Compare custody records with what the chain states of them: rewritten, rolled back and deleted records are found. Reads only.

Every write of a custody record is an audit event with the SHA-256 of the record (`statement` in store/custody.py), and ddwd-signer
enters it. The latest statement of a study is what its record has to be; after a restore or a downgrade, an earlier one is right too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ddwd.chain.entry import KNOWN, replaced_by
from ddwd.core.audit import Event
from ddwd.core.model import OrthancId

if TYPE_CHECKING:
    from ddwd.chain.entry import Entry
    from ddwd.store.record_check import StoredRecord

Kind = Literal["rewritten", "rolled-back", "deleted", "unentered"]


@dataclass(frozen=True, slots=True)
class RecordFinding:
    """One custody record that is not as the chain states it; `entry` is the number of the entry that counts, -1 without one."""

    kind: Kind
    study: OrthancId
    study_uid: str
    reason: str
    entry: int = -1


@dataclass(slots=True)
class Statement:
    """What the chain states of one study: its latest entry, and the SHA-256 of all its earlier records. `sha256` is empty if it was removed."""

    study_uid: str
    index: int = -1
    time: str = ""
    sha256: str = ""
    earlier: tuple[str, ...] = ()
    is_known_only: bool = False
    """Whether the chain knows the study from its record alone: that is older than the chain, or its event was lost."""


@dataclass(slots=True)
class RecordComparison:
    """The findings, and the number of records that were not entered when they were written, most often since they are older than the chain."""

    findings: list[RecordFinding] = field(default_factory=list)
    older: int = 0


class Statements:
    """What the entries of a log state of the studies `about`, given by Orthanc ID or StudyInstanceUID; of all without one.

    `begun` is the time of the first entry, empty without one.
    """

    def __init__(self, about: Collection[str] = ()) -> None:
        self.begun = ""
        self._replaced = -1
        self._names = [json.dumps(name, ensure_ascii=False).encode() for name in about]
        self._of: dict[OrthancId, Statement] = {}

    def visit(self, index: int, line: bytes) -> None:
        """Take the next entry of the log; a line that is none states nothing, and the walk over the log finds it."""
        is_about = not self._names or any(name in line for name in self._names)
        is_statement = is_about and _is_statement(line)
        if replaced_by(line):
            self._replaced = index
        if self.begun and not is_statement:
            return
        with suppress(ValueError, RecursionError, AttributeError):
            # not `decode`: that the line is canonical is of no interest here, and costs as much again
            entry = json.loads(line)
            self.begun = self.begun or str(entry.get("time", ""))
            if is_statement:
                self._take(index, entry)

    def _take(self, index: int, entry: Entry) -> None:
        is_removal = entry.get("event") == Event.RECORD_REMOVED
        if not is_removal and "record_sha256" not in entry:
            return
        study = OrthancId(str(entry.get("study", "")))
        found = self._of.setdefault(study, Statement(str(entry.get("study_uid", ""))))
        found.is_known_only = (found.is_known_only or found.index < 0) and entry.get("event") == KNOWN
        if found.sha256:
            found.earlier += (found.sha256,)
        found.index, found.time = index, str(entry.get("time", ""))
        found.sha256 = "" if is_removal else str(entry["record_sha256"])

    def matching(self, name: str) -> list[OrthancId]:
        """Return the studies of that StudyInstanceUID or Orthanc ID of which something is stated."""
        return [study for study, one in self._of.items() if name in {study, one.study_uid}]

    def compare(
        self, records: Mapping[OrthancId, StoredRecord], studies: Collection[OrthancId]
    ) -> RecordComparison:
        """Compare these records; each of `studies` that is not among them, and is stated to have one, is deleted."""
        found = RecordComparison()
        for study, record in records.items():
            stated = self._of.get(study)
            if stated is not None:
                found.findings += self._differences(study, stated, record)
                found.older += stated.is_known_only
            elif not self.begun or record.published_at < self.begun:
                found.older += 1
            else:
                reason = f"published at {record.published_at}, and the chain has no entry of it"
                found.findings.append(RecordFinding("unentered", study, record.study_uid, reason))
        found.findings += self._deleted(study for study in studies if study not in records)
        return found

    def stated(self) -> Collection[OrthancId]:
        """Return every study of which something is stated."""
        return self._of.keys()

    def _differences(
        self, study: OrthancId, stated: Statement, record: StoredRecord
    ) -> Iterator[RecordFinding]:
        if record.sha256 == stated.sha256:
            return
        kind: Kind = "rewritten"
        reason = f"its record is not the one of entry {stated.index} of {stated.time}"
        if record.sha256 in stated.earlier:
            if self._replaced > stated.index:
                return
            kind, reason = (
                "rolled-back",
                f"its record is an earlier one than entry {stated.index} of {stated.time}",
            )
        yield RecordFinding(kind, study, stated.study_uid, reason, stated.index)

    def _deleted(self, studies: Iterator[OrthancId]) -> Iterator[RecordFinding]:
        for study in studies:
            stated = self._of.get(study)
            if stated is not None and stated.sha256 and self._replaced < stated.index:
                reason = f"it has no record any more; the last one is entry {stated.index} of {stated.time}"
                yield RecordFinding("deleted", study, stated.study_uid, reason, stated.index)


def _is_statement(line: bytes) -> bool:
    """Return whether a line can be a statement, at less cost than to decode it."""
    return b'"record_sha256"' in line or Event.RECORD_REMOVED.encode() in line
