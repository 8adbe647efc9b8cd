"""Walk the chain: hold every entry against the stored tree and against every head that was signed. Reads only.

The signer does it at its start and daily, `ddwd verify` when asked. It reads the heads first, and then no further than the newest, so
that the signer may extend the log meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.chain.entry import HEAD, decode, replaced_by
from ddwd.chain.entry_changes import named
from ddwd.chain.head import FORMAT, HeadFiles, SignedHead, is_signed, parse_lines
from ddwd.chain.log import ChainLog, records
from ddwd.chain.merkle import Frontier
from ddwd.core import safe_folder, watchdog
from ddwd.core.audit import RESTORE
from ddwd.core.errors import DdwdError, LinkedError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator

Visit = Callable[[int, bytes], None]

_ALIVE_EVERY = 10_000


@dataclass
class Walk:
    """Result of a walk: number of entries, the newest head, the published heads, and a line for each problem.

    `is_tree_alone` is whether all problems are of the stored tree, which can be made anew from the entries.
    """

    entries: int = 0
    newest: SignedHead | None = None
    published: list[SignedHead] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_tree_alone: bool = False


def walk(folder: Path, visit: Visit = lambda _index, _line: None, *, to_the_end: bool = False) -> Walk:
    """Check the chain in `folder`; `visit` gets number and line of each entry. Raises OSError.

    Entries behind the newest head are not covered by any signature: they are visited, unchecked, with `to_the_end` only.
    """
    found = Walk()
    _read_heads(HeadFiles(folder), found)
    size = found.newest.size if found.newest else 0
    log = ChainLog(folder)
    if not log.entries.exists():
        if size:
            found.problems.append(f"{log.entries} is missing")
        return found
    heads = sorted([*found.published, *filter(None, [found.newest])], key=lambda head: head.size)
    frontier, differing = Frontier(), -1
    announced: list[tuple[int, bytes]] = []
    for index, (line, is_stored) in enumerate(_compared(log, frontier, size, to_the_end=to_the_end)):
        visit(index, line)
        found.entries = index + 1
        if not is_stored and differing < 0:
            differing = index
        if index < size and _EVENT in line:
            announced.append((index, line))
        elif index < size and replaced_by(line) == RESTORE:
            announced.clear()  # the journal names heads of before the restore, which the backup may not have
        while heads and heads[0].size == index + 1:
            _compare(heads.pop(0), frontier, found)
    if found.entries < size:
        found.problems.append(f"entries from {found.entries} to {size - 1} are missing")
    if differing >= 0:
        _blame(differing, log, found)
    _compare_announced(announced, found)
    return found


def _blame(differing: int, log: ChainLog, found: Walk) -> None:
    """Name the entries that the stored tree does not have; if the heads agree with the entries, the tree itself is wrong."""
    found.is_tree_alone = not found.problems
    if found.is_tree_alone:
        found.problems.append(f"{log.tree}: from entry {differing} on it is not the tree of the entries")
    else:
        found.problems.insert(0, named(log) or f"entry {differing} was changed, deleted or moved")


_EVENT = f'"event":"{HEAD}"'.encode()


def _read_heads(files: HeadFiles, found: Walk) -> None:
    try:
        # in this order, which a copy has too: a published head may be newer than the newest was a moment before
        newest = _exact(files.newest, found)
        found.published = _exact(files.published, found, may_be_torn=True)
        if found.published and not newest:
            found.problems.append(f"{files.newest} is missing")
        found.newest = max([*newest, *found.published], key=lambda head: head.size, default=None)
        key = safe_folder.read(files.public_key).decode("ascii") if found.newest or found.published else ""
    except (StateError, LinkedError, OSError, ValueError) as error:
        found.problems.append(str(error))
        return
    if any(one.size >= other.size for one, other in pairwise(found.published)):
        found.problems.append(f"{files.published}: the heads are not in their order")
    # the head of the file too where a published one is newer
    for one in [*found.published, *newest]:
        try:
            is_sound = is_signed(one, key)
        except DdwdError as error:
            found.problems.append(str(error))
            return
        if not is_sound:
            found.problems.append(f"the head of {one.time} is not signed by the key of this chain")


def _exact(path: Path, found: Walk, *, may_be_torn: bool = False) -> list[SignedHead]:
    """Return the heads of a file, read once; a line that is not exactly as it was written is a problem.

    With `may_be_torn`, for a file that lines are added to, a torn last line is left out, as a power cut leaves it.
    """
    content = safe_folder.read(path) if path.exists() else b""
    heads = parse_lines(content, path)
    whole = content[: content.rfind(b"\n") + 1] if may_be_torn else content
    if whole != b"".join(map(FORMAT.render, heads)):
        found.problems.append(f"{path}: it is not as it was written")
    return heads


def _compared(
    log: ChainLog, frontier: Frontier, size: int, *, to_the_end: bool
) -> Iterator[tuple[bytes, bool]]:
    """Yield each line, and whether the stored tree has what it completes; extends `frontier` by it."""
    end = 0
    with log.tree_reader() as stored:
        for line in log.lines() if to_the_end else islice(log.lines(), size):
            if frontier.size % _ALIVE_EVERY == 0:
                watchdog.alive()
            is_signed_for = frontier.size < size
            completed = frontier.append(line)
            end += len(line) + 1
            yield line, not is_signed_for or stored(len(completed)) == records(completed, end)


def _compare(head: SignedHead, frontier: Frontier, found: Walk) -> None:
    if frontier.root().hex() != head.root:
        found.problems.append(
            f"the first {head.size} entries are not those of the head signed at {head.time}"
        )


def _compare_announced(announced: list[tuple[int, bytes]], found: Walk) -> None:
    """Check that each published head that an entry names is still there."""
    kept = {FORMAT.render(head).strip() for head in found.published}
    for index, line in announced:
        try:
            head = json.loads(decode(line, str(index))["message"].partition(": ")[2])
            is_kept = json.dumps(head).encode() in kept
        except (StateError, ValueError, KeyError):
            is_kept = False
        if not is_kept:
            found.problems.append(f"the published head that entry {index} names is missing")
