"""The log of the chain: a file of entries, one a line, and a file of the tree's hashes, both append-only. Only ddwd-signer writes them.

`entries.jsonl` is what counts. `tree` is made from it: for each entry the hashes of the subtrees that it completes, so that the hash of
any complete subtree has a known place; beside each hash stands the end of its last entry in `entries.jsonl`. Opening the log reads
the end of both files, and a proof of one of n entries about log2(n) hashes.

Durable order: entries, then tree. After a power cut a torn line is cut off, and hashes that are missing are made from their entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from ddwd.chain import merkle
from ddwd.chain.entry import decode
from ddwd.chain.merkle import HASH_BYTES, Frontier
from ddwd.core import durable, safe_folder, watchdog
from ddwd.core.errors import DamagedStateError

_END_BYTES = 8
_RECORD_BYTES = HASH_BYTES + _END_BYTES
_NOUN = "chain"
_LINES_AT_ONCE = 10_000


def _records(size: int) -> int:
    """Return how many hashes a log of `size` entries has: one for each complete subtree."""
    return 2 * size - size.bit_count()


def _entries(records: int) -> int:
    """Return the number of entries of which `records` hashes have all subtrees."""
    size = (records + 1) // 2
    while _records(size + 1) <= records:
        size += 1
    return size


def records(completed: Sequence[bytes], end: int) -> bytes:
    """Return what the tree stores of the hashes that an entry completes, which ends before byte `end` of the entries."""
    return b"".join(one + end.to_bytes(_END_BYTES, "big") for one in completed)


class ChainLog:
    """The log as it is read, up to `size` entries; readers never write. Raises DamagedStateError where its files contradict each other."""

    def __init__(self, folder: Path) -> None:
        self.entries = folder / "entries.jsonl"
        self.tree = folder / "tree"
        self.size = _entries(_length(self.tree) // _RECORD_BYTES)

    def node(self, level: int, index: int) -> bytes:
        """Return the stored hash of a complete subtree; its last entry completed it, and all smaller ones that end there before."""
        last = ((index + 1) << level) - 1
        return self._record(last, level)[:HASH_BYTES]

    def root(self, size: int) -> bytes:
        """Return the root of the first `size` entries."""
        return merkle.root(self.node, size)

    @contextmanager
    def tree_reader(self) -> Iterator[Callable[[int], bytes]]:
        """Yield a function that returns the next so many records of the tree, as `records` makes them, from its begin on."""
        with safe_folder.opened(self.tree) if self.tree.exists() else BytesIO() as file:
            yield lambda count: file.read(count * _RECORD_BYTES)

    def line(self, index: int) -> bytes:
        """Return entry `index`, as it is hashed."""
        start, end = self._end(index), self._end(index + 1)
        with safe_folder.opened(self.entries) as file:
            file.seek(start)
            return file.read(max(0, end - start)).removesuffix(b"\n")

    def lines(self, start: int = 0) -> Iterator[bytes]:
        """Yield the entries from `start` on, also those behind the end of the tree; a torn last line is left out."""
        with safe_folder.opened(self.entries) as file:
            file.seek(self._end(start))
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]

    def _end(self, size: int) -> int:
        """Return where the first `size` entries end, in bytes."""
        return int.from_bytes(self._record(size - 1, 0)[HASH_BYTES:], "big") if size else 0

    def _record(self, last: int, level: int) -> bytes:
        """Return the record of the subtree of that level whose last entry is `last`."""
        with safe_folder.opened(self.tree) as file:
            file.seek((_records(last) + level) * _RECORD_BYTES)
            record = file.read(_RECORD_BYTES)
        if len(record) != _RECORD_BYTES:
            raise DamagedStateError(str(self.tree), _NOUN, f"too short for entry {last}")
        return record


class ChainWriter(ChainLog):
    """The log as its one writer has it; after an error open it anew. Raises StorageFullError and OSError."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        durable.make_dirs(folder)
        for path in (self.entries, self.tree):
            if not path.exists():
                durable.replace_file(path, b"")
        self._end_bytes = 0
        self._frontier = Frontier()
        self._mend()

    def append(self, lines: Sequence[bytes]) -> None:
        """Add entries, durably."""
        durable.append(self.entries, b"".join(line + b"\n" for line in lines))
        self._extend_tree(lines)

    def _extend_tree(self, lines: Sequence[bytes]) -> None:
        end, added = self._end_bytes, list[bytes]()
        for line in lines:
            end += len(line) + 1
            added.append(records(self._frontier.append(line), end))
        durable.append(self.tree, b"".join(added))
        self._end_bytes = end
        self.size = self._frontier.size

    def _mend(self) -> None:
        """Make both files end with the same entry: the last whole line. Lines behind the tree's end count up to the first that is no entry."""
        length = _length(self.entries)
        if not self._is_tree_of(length):
            self.size = 0  # it belongs to other entries: make it anew, and let the signed head decide which ones are right
        if _length(self.tree) != (kept := _records(self.size) * _RECORD_BYTES):
            durable.cut(self.tree, kept)
        self._frontier = Frontier.of(self.node, self.size)
        self._end_bytes = self._end(self.size)
        batch: list[bytes] = []
        for line in self.lines(self.size):
            if not _is_entry(line):
                break
            batch.append(line)
            if len(batch) == _LINES_AT_ONCE:
                watchdog.alive()
                self._extend_tree(batch)
                batch = []
        if batch:
            self._extend_tree(batch)
        if length != self._end_bytes:
            durable.cut(self.entries, self._end_bytes)

    def _is_tree_of(self, length: int) -> bool:
        """Return whether the last entry of the tree ends with a line of `entries`."""
        end = self._end(self.size)
        if not 0 < end <= length:
            return end == self.size
        with safe_folder.opened(self.entries) as file:
            file.seek(end - 1)
            return file.read(1) == b"\n"


def _is_entry(line: bytes) -> bool:
    try:
        decode(line, "")
    except DamagedStateError:
        return False
    return True


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
