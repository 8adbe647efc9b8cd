"""The chain's part of `ddwd verify`: walk the log, and compare custody records with what it states of them. Reads only.

The whole log is walked for one study too: a proof of inclusion shows that an entry is there, and only all entries together show that a
later one about the study was not removed or altered, which is how a record that was rolled back would be hidden.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypedDict

from ddwd.chain.check import Walk, walk
from ddwd.chain.records import RecordComparison, RecordFinding, Statements
from ddwd.cli import signer_wait
from ddwd.cli.command import escaped
from ddwd.config.paths import Paths
from ddwd.core.errors import StateError
from ddwd.core.printable import many
from ddwd.status.formatting import time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ddwd.chain.head import SignedHead
    from ddwd.cli.progress import Bar
    from ddwd.config.schema import Config
    from ddwd.store.record_check import CheckResult, RecordChecker


@dataclass(frozen=True, slots=True)
class ChainResult:
    """What the chain says: its newest signed head, None if that is damaged, what is wrong with its log, and the comparison of records."""

    head: SignedHead | None
    problems: list[str]
    records: RecordComparison = field(default_factory=RecordComparison)
    is_shared: bool = False
    """Other extractors write to the same custody records, and have chains of their own: no record was compared."""

    @property
    def is_sound(self) -> bool:
        """Return whether the log and every compared record are as they were entered."""
        return not self.problems and not self.records.findings


def check(
    config: Config, checker: RecordChecker, result: CheckResult, names: Sequence[str] | None, bar: Bar
) -> ChainResult | None:
    """Compare the records of `result` with the chain, and the studies of these `names`, all if it is None, that have no record any more.

    Returns None if the chain has no signed head yet. Raises StateError.
    """
    records, damaged = dict(result.records), {one.study for one in result.damaged}
    found = RecordComparison()
    walked = Walk()
    for _ in signer_wait.tries():
        for one in found.findings:
            with suppress(StateError):
                records[one.study] = checker.stored(one.study)
        statements = Statements(() if names is None else {*names, *records})
        walked = _walked(Paths(config).chain, statements, bar)
        if walked.newest is None:
            return ChainResult(None, walked.problems) if walked.problems else None
        if config.ledger.shared is not None:
            return ChainResult(walked.newest, walked.problems, is_shared=True)
        stated = set(
            statements.stated() if names is None else itertools.chain(*map(statements.matching, names))
        )
        found = statements.compare(records, stated - damaged)
        if not found.findings:
            break
    return ChainResult(walked.newest, walked.problems, found)


def _walked(folder: Path, statements: Statements, bar: Bar) -> Walk:
    """Walk the log; an entry that is none is one of its problems. Raises StateError if this user may not read it."""
    bar.step("walking the chain")
    try:
        return walk(folder, statements.visit)
    except OSError as error:
        raise StateError(f"{folder}: {error.strerror}; the chain is for root and group ddwd") from error


class Answer(TypedDict):
    """The chain's part of --json."""

    entries: int
    signed_at: str
    problems: list[str]
    records: list[RecordFinding]
    older: int


def as_json(chain: ChainResult | None) -> dict[str, object] | None:
    """Return the chain's part of --json, None without a chain."""
    if chain is None:
        return None
    return {
        "entries": chain.head.size if chain.head else 0,
        "signed_at": chain.head.time if chain.head else "",
        "problems": chain.problems,
        "records": [asdict(one) for one in chain.records.findings],
        "older": chain.records.older,
    }


def lines(chain: ChainResult | None) -> list[str]:
    """Return the findings, then one line for the whole."""
    if chain is None:
        return ["the chain has no signed head yet: nothing proves the custody records themselves"]
    found = [f"{one.kind}  {escaped(one.study_uid)}: {one.reason}" for one in chain.records.findings]
    found += [f"chain  {one}" for one in chain.problems]
    counts = [many(len(chain.records.findings), "record", "records") + " not as entered"]
    if chain.is_shared:
        counts = ["the records are shared with other extractors, and were not compared"]
    elif not chain.records.findings:
        counts = ["all records as entered"]
    if chain.records.older:
        counts.append(
            f"{many(chain.records.older, 'record', 'records')} not entered when written (older than the chain)"
        )
    if chain.problems:
        counts.append("the chain itself was changed")
    size, at = (chain.head.size, time(chain.head.time)) if chain.head else (0, "never")
    return [*found, f"chain of {size} entries, signed at {at}: {', '.join(counts)}"]
