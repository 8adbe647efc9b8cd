"""The promise of the walk: whatever is changed in the chain behind the signer's back is found, and where it can be, named."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ddwd.chain.check import walk
from ddwd.chain.entry import encode
from ddwd.chain.head import HeadFiles
from ddwd.chain.log import ChainLog
from ddwd.chain.signer import Chain, Signer
from ddwd.core.audit import Event
from tests.depth import FULL
from tests.unit.chain import Journal, chain, key_of
from tests.unit.fakes import FakeClock, orthanc_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PARTS = 10
TAMPERINGS = 1000 if FULL else 30
"""In each part; 10,000 in all at full depth."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a chain of some days, with several published heads; the key is the signer's alone."""
    folder, journal, clock = tmp_path_factory.mktemp("days") / "chain", Journal(), FakeClock()
    signer = Signer(Chain(folder, key_of(folder)), journal.open, None, journal.audit, clock)
    for day in range(5):
        for number in range(6):
            journal.happen(Event.PUBLISHED, study=orthanc_id(str(day), str(number)), record_sha256="ab" * 32)
        for _ in range(3):
            signer.step()
        clock.advance(86_400)
    assert len(HeadFiles(folder).read_published()) == 5
    assert walk(folder).problems == []
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _write(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def folder(files: dict[str, bytes], tmp_path: Path) -> Path:
    """The folder of that chain, which the test may change."""
    _write(files, tmp_path)
    return tmp_path


@dataclass
class Tamperer:
    """Changes one thing in one file, by dice."""

    dice: random.Random
    files: dict[str, bytes]
    done: list[str] = field(default_factory=list)

    def tamper(self) -> dict[str, bytes]:
        """Return the files with one change, which `done` then names."""
        name = self.dice.choice(list(self.files))
        ways: list[Callable[[bytes], bytes]] = [self._flip]
        if name.endswith(".jsonl"):
            ways += [self._remove, self._exchange, self._repeat, self._shorten, self._alter]
        if name == "tree":
            ways += [self._shorten]
        while True:
            way = self.dice.choice(ways)
            content = way(self.files[name])
            if content != self.files[name]:
                self.done.append(f"{name} {way.__name__}")
                return self.files | {name: content}

    def _flip(self, content: bytes) -> bytes:
        at = self.dice.randrange(len(content))
        return content[:at] + bytes([content[at] ^ (1 << self.dice.randrange(8))]) + content[at + 1 :]

    def _remove(self, content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        del lines[self.dice.randrange(len(lines))]
        return b"".join(lines)

    def _exchange(self, content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        one, other = self.dice.sample(range(len(lines)), 2)
        lines[one], lines[other] = lines[other], lines[one]
        return b"".join(lines)

    def _repeat(self, content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        lines.insert(self.dice.randrange(len(lines)), self.dice.choice(lines))
        return b"".join(lines)

    def _shorten(self, content: bytes) -> bytes:
        return content[: self.dice.randrange(len(content))]

    def _alter(self, content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        at = self.dice.randrange(len(lines))
        digits = [place for place, char in enumerate(lines[at]) if chr(char).isdigit()]
        place = self.dice.choice(digits)
        digit = b"%d" % ((lines[at][place] - ord("0") + self.dice.randrange(1, 10)) % 10)
        lines[at] = lines[at][:place] + digit + lines[at][place + 1 :]
        return b"".join(lines)


@pytest.mark.deep
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_is_changed_removed_or_moved_in_the_chain_is_found(
    files: dict[str, bytes], tmp_path: Path, part: int
) -> None:
    tamperer = Tamperer(random.Random(part), files)  # noqa: S311 - the same ones each time
    for _ in range(TAMPERINGS):
        _write(tamperer.tamper(), tmp_path)
        assert walk(tmp_path).problems, tamperer.done[-1]
    _write(files, tmp_path)
    assert walk(tmp_path).problems == []
    assert len(set(tamperer.done)) > 8


@pytest.mark.parametrize("name", ["entries.jsonl", "tree", "head.json", "published.jsonl", "public.pem"])
def test_a_file_that_is_missing_is_found(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert walk(folder).problems


def test_a_newest_head_with_a_smaller_size_than_it_was_signed_for_is_found(
    files: dict[str, bytes], folder: Path
) -> None:
    size = json.loads(files["head.json"])["size"]
    (folder / "head.json").write_bytes(
        files["head.json"].replace(b'"size": %d' % size, b'"size": %d' % (size - 9))
    )
    (problem,) = walk(folder).problems
    assert problem.endswith("is not signed by the key of this chain")


def test_a_newest_head_without_its_end_is_found_as_it_is_never_written_in_pieces(
    files: dict[str, bytes], folder: Path
) -> None:
    (folder / "head.json").write_bytes(files["head.json"][:-1] + b"\x0b")
    assert f"{folder / 'head.json'}: it is not as it was written" in walk(folder).problems


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [*rows[:7], *rows[8:]], "entry 7 was deleted"),
        (lambda rows: [*rows[:4], *rows[7:]], "entries 4 to 6 were deleted"),
        (lambda rows: [*rows[:4], rows[5], rows[4], *rows[6:]], "entries 4 to 5 were moved"),
        (lambda rows: [*rows[:4], rows[0], *rows[4:]], "1 added before entry 4"),
        (lambda rows: [*rows[:4], rows[4].replace(b"event", b"tneve"), *rows[5:]], "entry 4 was changed"),
    ],
    ids=["deleted", "three deleted", "moved", "added", "changed"],
)
def test_what_was_done_to_entries_is_named(
    files: dict[str, bytes], folder: Path, change: Callable[[list[bytes]], list[bytes]], said: str
) -> None:
    lines = files["entries.jsonl"].splitlines(keepends=True)
    (folder / "entries.jsonl").write_bytes(b"".join(change(lines)))
    assert walk(folder).problems[0] == said


def test_going_back_to_an_earlier_chain_is_found_by_what_was_published_since(
    files: dict[str, bytes], folder: Path
) -> None:
    early = files["published.jsonl"].splitlines(keepends=True)[1]
    count = json.loads(early)["size"]
    lines = files["entries.jsonl"].splitlines(keepends=True)
    (folder / "head.json").write_bytes(early)
    (folder / "entries.jsonl").write_bytes(b"".join(lines[:count]))
    (folder / "tree").write_bytes(files["tree"][: (2 * count - count.bit_count()) * 40])
    last = json.loads(files["published.jsonl"].splitlines()[-1])["size"]
    assert walk(folder).problems[-1] == f"entries from {count} to {last - 1} are missing"


def test_what_the_signer_adds_while_it_is_walked_is_no_finding(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ChainLog.lines

    def extended(log: ChainLog, start: int = 0):  # type: ignore[no-untyped-def]
        with log.entries.open("ab") as file:
            file.write(b'{"event":"published"}\n{"torn')
        return lines(log, start)

    monkeypatch.setattr(ChainLog, "lines", extended)
    found = walk(folder)
    assert found.problems == []
    assert found.newest is not None
    assert found.entries == found.newest.size


def test_no_chain_is_no_problem_and_no_entry(tmp_path: Path) -> None:
    found = walk(tmp_path)
    assert (found.entries, found.newest, found.problems) == (0, None, [])


def test_a_head_of_before_a_restore_that_the_backup_has_not_is_no_problem_after_it(tmp_path: Path) -> None:
    announced = encode(
        {"event": "chain-head", "message": "head of the chain: {}", "time": "2026-01-05T12:00:00.000Z"}
    )
    restored = {"event": "requested", "place": "restore", "time": "2026-01-05T12:00:01.000Z"}
    chain(tmp_path, [announced, encode(restored | {"uid": "991"})])
    assert walk(tmp_path).problems == ["the published head that entry 0 names is missing"]
    chain(tmp_path, [encode(restored | {"uid": "0"})])
    assert walk(tmp_path).problems == []
    chain(tmp_path, [announced])
    assert walk(tmp_path).problems == ["the published head that entry 3 names is missing"]
