"""Compute roots and proofs of the Merkle tree of RFC 6962 (section 2.1) from stored hashes of complete subtrees. Pure.

`node(level, index)` returns the stored hash of the entries from `index * 2**level` to before `(index + 1) * 2**level`. A root or a
proof of n entries reads at most about 2 log2(n) of them. The checks of a proof are in check_proof.py, which works without ddwd.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

Node = Callable[[int, int], bytes]

HASH_BYTES = 32


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node above two subtrees."""
    return hashlib.sha256(b"\1" + left + right).digest()


def root(node: Node, size: int) -> bytes:
    """Return the root of the first `size` entries."""
    return _subtree(node, 0, size) if size else hashlib.sha256().digest()


def inclusion(node: Node, index: int, size: int) -> list[bytes]:
    """Return the proof that entry `index` is one of the first `size` entries (section 2.1.1)."""
    proof = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _left(end - start)
        if index < middle:
            proof.append(_subtree(node, middle, end))
            end = middle
        else:
            proof.append(_subtree(node, start, middle))
            start = middle
    return proof[::-1]


def consistency(node: Node, old: int, new: int) -> list[bytes]:
    """Return the proof that the first `new` entries begin with the first `old` ones (section 2.1.2); empty if `old` is 0 or `new`."""
    if old in {0, new}:
        return []
    proof = []
    start, end = 0, new
    while old != end:
        middle = start + _left(end - start)
        if old <= middle:
            proof.append(_subtree(node, middle, end))
            end = middle
        else:
            proof.append(_subtree(node, start, middle))
            start = middle
    if start:  # else it is the old root, which the verifier has
        proof.append(_subtree(node, start, end))
    return proof[::-1]


def _left(size: int) -> int:
    """Return the largest power of two below `size`: the size of the left subtree."""
    return 1 << ((size - 1).bit_length() - 1)


def _subtree(node: Node, start: int, end: int) -> bytes:
    """Return the hash of the entries from `start` to before `end`, a subtree of the RFC's recursion."""
    size = end - start
    if size & (size - 1) == 0:
        return node(size.bit_length() - 1, start // size)
    middle = start + _left(size)
    return node_hash(_subtree(node, start, middle), _subtree(node, middle, end))


class Frontier:
    """The complete subtrees of a growing log, largest first: what is needed to append an entry or to compute the root."""

    def __init__(self, size: int = 0, hashes: list[bytes] | None = None) -> None:
        self.size = size
        self._hashes = hashes or []

    @classmethod
    def of(cls, node: Node, size: int) -> Frontier:
        """Return the frontier of the first `size` entries of a stored log."""
        start, hashes = 0, []
        for level in range(size.bit_length() - 1, -1, -1):
            if size & (1 << level):
                hashes.append(node(level, start >> level))
                start += 1 << level
        return cls(size, hashes)

    def append(self, entry: bytes) -> list[bytes]:
        """Add one entry; return the hashes of the subtrees that it completes, the entry's own first."""
        completed = [leaf_hash(entry)]
        rest = self.size
        while rest & 1:
            completed.append(node_hash(self._hashes.pop(), completed[-1]))
            rest >>= 1
        self._hashes.append(completed[-1])
        self.size += 1
        return completed

    def root(self) -> bytes:
        """Return the root of all entries."""
        if not self._hashes:
            return hashlib.sha256().digest()
        *rest, found = self._hashes
        for one in reversed(rest):
            found = node_hash(one, found)
        return found
