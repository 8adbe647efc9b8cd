"""The chain's promises: it is the tree of RFC 6962, it only grows, and neither a power cut nor an error makes it another one."""

from __future__ import annotations

import errno
import hashlib
import os
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddwd.chain import merkle
from ddwd.chain.check_proof import is_extended, is_included
from ddwd.chain.entry import CHAINED, decode, encode, entry_of
from ddwd.chain.head import FORMAT, HeadFiles, SignedHead, is_signed, key_id, make_key, sign
from ddwd.chain.log import ChainLog, ChainWriter
from ddwd.core.audit import Event
from ddwd.core.errors import DamagedStateError, StateError, StorageFullError
from ddwd.store.custody import images_digest
from tests.depth import examples, spread
from tests.unit.chain import STAMP, chain, journal_record, key_of, lines, signed
from tests.unit.fakes import count_steps, one_error, power_cut

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LEAVES = [bytes.fromhex(one) for one in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                                         "606162636465666768696a6b6c6d6e6f")]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
_A, _B, _C, _D, _E, _F = (
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
)


class Tree:
    """The hashes of all complete subtrees, in memory."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        self._nodes: dict[tuple[int, int], bytes] = {}
        frontier = merkle.Frontier()
        for index, entry in enumerate(entries):
            for level, found in enumerate(frontier.append(entry)):
                self._nodes[level, index >> level] = found

    def node(self, level: int, index: int) -> bytes:
        return self._nodes[level, index]


def reference_root(entries: Sequence[bytes]) -> bytes:
    """The definition of RFC 6962, section 2.1, word by word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\0" + entries[0]).digest()
    half = 1
    while half * 2 < len(entries):
        half *= 2
    return hashlib.sha256(b"\1" + reference_root(entries[:half]) + reference_root(entries[half:])).digest()


@pytest.mark.parametrize("size", range(1, 9))
def test_the_roots_are_those_of_the_reference_implementation_of_rfc_6962(size: int) -> None:
    assert merkle.root(Tree(LEAVES).node, size).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(
    ("index", "size", "expected"),
    [
        (0, 1, []),
        (0, 8, [_A, _B, _C]),
        (5, 8, [_D, _E, ROOTS[3]]),
        (2, 3, [ROOTS[1]]),
        (1, 5, [ROOTS[0], _B, _D]),
    ],
)
def test_inclusion_proofs_are_those_of_the_reference_implementation(
    index: int, size: int, expected: list[str]
) -> None:
    proof = merkle.inclusion(Tree(LEAVES).node, index, size)
    assert [one.hex() for one in proof] == expected
    assert is_included(LEAVES[index], index, size, proof, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [(1, 1, []), (1, 8, [_A, _B, _C]), (6, 8, [_F, _E, ROOTS[3]]), (2, 5, [_B, _D])],
)
def test_consistency_proofs_are_those_of_the_reference_implementation(
    old: int, new: int, expected: list[str]
) -> None:
    proof = merkle.consistency(Tree(LEAVES).node, old, new)
    assert [one.hex() for one in proof] == expected
    roots = [bytes.fromhex(ROOTS[size - 1]) for size in (old, new)]
    assert is_extended(old, roots[0], new, roots[1], proof)


@given(st.lists(st.binary(max_size=4), max_size=70))
@examples(60, 2000)
def test_every_root_is_what_the_rfc_defines(entries: list[bytes]) -> None:
    tree, frontier = Tree(entries), merkle.Frontier()
    for size in range(len(entries) + 1):
        assert merkle.root(tree.node, size) == frontier.root() == reference_root(entries[:size])
        assert merkle.Frontier.of(tree.node, size).root() == frontier.root()
        if size < len(entries):
            frontier.append(entries[size])


@given(st.data())
@examples(100, 5000)
def test_every_inclusion_proof_holds_for_its_entry_its_place_and_its_root_only(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 200))
    index = data.draw(st.integers(0, size - 1))
    entries = [b"%d" % n for n in range(size)]
    tree = Tree(entries)
    root, proof = merkle.root(tree.node, size), merkle.inclusion(tree.node, index, size)
    assert is_included(entries[index], index, size, proof, root)
    assert not is_included(b"x", index, size, proof, root)
    assert not is_included(entries[index], index, size, [*proof, root], root)
    assert not is_included(entries[index], index, size, proof, hashlib.sha256(root).digest())
    other = data.draw(st.integers(-2, size + 2))
    assert is_included(entries[index], other, size, proof, root) == (other == index)
    for left_out in range(len(proof)):
        assert not is_included(entries[index], index, size, proof[:left_out] + proof[left_out + 1 :], root)


@given(st.data())
@examples(100, 5000)
def test_every_consistency_proof_holds_for_its_two_heads_only(data: st.DataObject) -> None:
    new = data.draw(st.integers(1, 200))
    old = data.draw(st.integers(1, new))
    entries = [b"%d" % n for n in range(new)]
    tree, forged = Tree(entries), Tree([b"x", *entries[1:]])
    old_root, root = merkle.root(tree.node, old), merkle.root(tree.node, new)
    proof = merkle.consistency(tree.node, old, new)
    assert is_extended(old, old_root, new, root, proof)
    assert not is_extended(old, merkle.root(forged.node, old), new, root, proof)
    assert not is_extended(old, old_root, new, merkle.root(forged.node, new), proof)
    assert not is_extended(
        old, old_root, new, merkle.root(forged.node, new), merkle.consistency(forged.node, old, new)
    )
    for left_out in range(len(proof)):
        assert not is_extended(old, old_root, new, root, proof[:left_out] + proof[left_out + 1 :])


# --- the log on disk --------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 9), max_size=12))
@examples(15, 300)
def test_the_stored_tree_gives_every_root_however_the_entries_came(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("chain")
    every = lines(sum(batches))
    log, done = ChainWriter(folder), 0
    for count in batches:
        log.append(every[done : done + count])
        done += count
    for found in (log, ChainLog(folder), ChainWriter(folder)):
        assert found.size == len(every)
        assert [found.root(size) for size in range(found.size + 1)] == [
            reference_root(every[:size]) for size in range(found.size + 1)
        ]
        assert [found.line(index) for index in range(found.size)] == list(found.lines()) == every


def test_opening_a_log_and_proving_an_entry_reads_a_few_hashes_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ChainWriter(tmp_path).append(lines(5000))
    reads = 0
    record = ChainLog._record

    def counted(log: ChainLog, last: int, level: int) -> bytes:
        nonlocal reads
        reads += 1
        return record(log, last, level)

    monkeypatch.setattr(ChainLog, "_record", counted)
    monkeypatch.setattr(
        ChainLog, "lines", lambda _log, start: iter(()) if start == 5000 else pytest.fail("reads all")
    )
    log = ChainWriter(tmp_path)
    assert log.size == 5000
    merkle.inclusion(log.node, 1234, log.size)
    assert reads < 60


def batches(folder: Path) -> None:
    for first in (0, 3, 4):
        log = ChainWriter(folder)
        log.append(lines(first + 3)[log.size :])


def test_after_a_power_cut_at_any_durable_step_the_log_goes_on_with_whole_entries(tmp_path: Path) -> None:
    for step in range(total := count_steps(lambda: batches(tmp_path / "whole"))):
        folder = tmp_path / str(step)
        assert power_cut(step, lambda folder=folder: batches(folder))  # type: ignore[misc]
        batches(folder)
        assert list(ChainLog(folder).lines()) == lines(7)
        assert ChainLog(folder).root(7) == reference_root(lines(7))
    assert total > 8


@pytest.mark.parametrize("error", [StorageFullError("no room"), OSError(errno.EIO, "i/o error")])
def test_after_an_error_at_any_durable_step_the_log_goes_on_with_whole_entries(
    tmp_path: Path, error: Exception
) -> None:
    for step in range(count_steps(lambda: batches(tmp_path / "whole"))):
        folder = tmp_path / str(step)
        assert one_error(step, error, lambda folder=folder: batches(folder))  # type: ignore[misc]
        batches(folder)
        assert ChainLog(folder).root(7) == reference_root(lines(7))


@pytest.mark.deep
@pytest.mark.parametrize("name", ["entries.jsonl", "tree"])
def test_wherever_the_end_of_a_file_is_torn_off_whole_entries_are_left(tmp_path: Path, name: str) -> None:
    every = lines(21)
    ChainWriter(tmp_path / "whole").append(every)
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    for length in spread(range(len(files[name])), 40):
        folder = tmp_path / str(length)
        folder.mkdir()
        for path, content in files.items():
            (folder / path).write_bytes(content[:length] if path == name else content)
        log = ChainWriter(folder)
        kept = every if name == "tree" else every[: log.size]
        assert list(log.lines()) == kept
        assert log.root(log.size) == reference_root(kept)
        log.append([b"more"])
        assert ChainLog(folder).root(log.size) == reference_root([*kept, b"more"])


def test_a_full_disk_leaves_no_half_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ChainWriter(tmp_path)
    log.append(lines(3))
    before = log.entries.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageFullError):
        log.append(lines(5, 3))
    assert log.entries.read_bytes() == before


# --- entries ----------------------------------------------------------------------------------------------------------


def test_an_entry_has_what_journald_says_of_its_writer_and_no_patient_nor_accession() -> None:
    record = journal_record(Event.PUBLISHED, 1, study="a", accession="A1", patient_id="P1", study_uid="1.2")
    entry = entry_of(record | {"DDWD_UNIT": "forged", "DDWD_TIME": "forged", "DDWD_CURSOR": "forged"})
    assert entry == {
        "time": "2026-01-05T12:00:00.000Z",
        "event": "published",
        "message": "what happened as number 1",
        "unit": "ddwd-extractor.service",
        "uid": "0",
        "cursor": "s=1;i=1",
        "study": "a",
        "study_uid": "1.2",
    }


def test_every_event_that_removes_or_changes_an_image_is_entered() -> None:
    removing = {
        Event.PUBLISHED,
        Event.LATE_IMAGE,
        Event.DELETED,
        Event.RETIRED,
        Event.QUARANTINED,
        Event.REPAIRED,
    }
    assert removing <= CHAINED
    assert entry_of(journal_record(Event.RECEIVED, 1)) is None
    assert entry_of({"DDWD_EVENT": "unknown"}) is None


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=5))
@examples(100, 2000)
def test_an_entry_has_one_form_only(entry: dict[str, str]) -> None:
    line = encode(entry) if all(text.isprintable() for one in entry.items() for text in one) else b"{}"
    assert b"\n" not in line
    assert encode(decode(line, "here")) == line
    with pytest.raises(DamagedStateError):
        decode(line[:-1] + b" }", "here")


def test_the_digest_of_images_depends_on_each_of_them_and_not_on_their_order() -> None:
    images = [("1.2.3", "aa"), ("1.2.4", "bb"), ("1.2.5", "cc")]
    digest = images_digest(images)
    assert (
        digest == hashlib.sha256(b"1.2.3 aa\n1.2.4 bb\n1.2.5 cc\n").hexdigest() == images_digest(images[::-1])
    )
    others = [images[:2], [*images, images[0]], [("1.2.3", "bb"), ("1.2.4", "aa"), images[2]]]
    assert len({digest, *map(images_digest, others)}) == 4


# --- heads ------------------------------------------------------------------------------------------------------------


def test_a_head_is_signed_by_its_key_and_says_so_of_nothing_else(tmp_path: Path) -> None:
    head = chain(tmp_path / "one", lines(3))
    public = HeadFiles(tmp_path / "one").public_key.read_text()
    assert is_signed(head, public)
    assert HeadFiles(tmp_path / "one").read_newest() == head
    values = {
        "size": 4,
        "root": "00" * 32,
        "time": "2026-01-05T12:00:01.000Z",
        "log": "00" * 32,
        "signature": "AAAA",
    }
    for name, value in values.items():
        body = FORMAT.body(head) | {name: value}
        assert not is_signed(SignedHead(**body), public), name
    other = HeadFiles(tmp_path / "other")
    other.folder.mkdir()
    make_key(key_of(other.folder), other)
    assert not is_signed(head, other.public_key.read_text())
    assert key_id(public) == head.log != key_id(other.public_key.read_text())


def test_the_key_is_its_owner_s_alone_and_is_never_replaced(tmp_path: Path) -> None:
    files = HeadFiles(tmp_path)
    make_key(path := tmp_path / "key.pem", files)
    key, public = path.read_bytes(), files.public_key.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o400
    files.public_key.unlink()
    make_key(path, files)
    assert (path.read_bytes(), files.public_key.read_bytes()) == (key, public)


def test_without_a_key_there_is_no_head(tmp_path: Path) -> None:
    make_key(key := tmp_path / "key.pem", files := HeadFiles(tmp_path))
    key.unlink()
    with pytest.raises(StateError, match=r"key\.pem: FileNotFoundError"):
        sign(key, files, 1, b"\0" * 32, STAMP)


def test_published_heads_are_kept_also_behind_a_torn_line(tmp_path: Path) -> None:
    heads = [chain(tmp_path, lines(2)), chain(tmp_path, lines(4, 2))]
    files = HeadFiles(tmp_path)
    files.add_published(heads[0])
    with files.published.open("ab") as file:
        file.write(FORMAT.render(heads[1])[:-9])
    assert files.read_published() == heads[:1]
    files.add_published(heads[1])
    assert files.read_published() == heads
    assert all(one.size < other.size for one, other in pairwise(heads))
    assert signed(tmp_path).root == heads[1].root
