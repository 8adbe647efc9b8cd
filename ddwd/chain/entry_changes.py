"""Name what was done to the entries of a log: by comparing them with the hashes that were stored when they were entered. Reads only.

Only the signed heads prove that something was done. A change of an entry and of its stored hash too is found by them, and not named here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.chain import merkle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddwd.chain.log import ChainLog


def named(log: ChainLog) -> str:
    """Return what was done to the entries, as one range; empty if each has its stored hash. Raises StateError and OSError."""
    stored = [log.node(0, index) for index in range(log.size)]
    found = [merkle.leaf_hash(line) for line in log.lines()]
    start = _common(stored, found)
    end = _common(stored[start:][::-1], found[start:][::-1])
    was, is_now = stored[start : len(stored) - end], found[start : len(found) - end]
    span = f"entries {start} to {start + len(was) - 1} were" if len(was) > 1 else f"entry {start} was"
    if not was:
        return f"{len(is_now)} added before entry {start}" if is_now else ""
    if not is_now:
        return f"{span} deleted"
    return f"{span} moved" if sorted(was) == sorted(is_now) else f"{span} changed"


def _common(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """Return how many items both begin with."""
    for index, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return index
    return min(len(one), len(other))
