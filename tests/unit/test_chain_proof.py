"""The promise of a proof: with the one-page script alone it holds for these images as received, and for no others."""

from __future__ import annotations

import ast
import base64
import json
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.chain import check_proof
from ddwd.chain.head import FORMAT, HeadFiles
from ddwd.chain.proof import ProvedImage, build
from ddwd.core.errors import NotFoundError
from tests.depth import FULL
from tests.unit.chain import STAMP, STUDY, chain, changed, entry, lines
from tests.unit.fakes import orthanc_id

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = Path(check_proof.__file__)
IMAGES = {f"series-{n % 2}/{n}.dcm": b"pixels %d" % n for n in range(5)}


@dataclass
class Received:
    """A study as it was received: its folder, the chain's folder, its proof."""

    folder: Path
    chain: Path
    proof: dict[str, Any]

    def check(self, *options: str) -> tuple[int, str]:
        """Run the script as a stranger would, with no ddwd in reach."""
        file = self.folder.parent / "proof.json"
        file.write_text(json.dumps(self.proof))
        lonely = self.folder.parent / "check-proof.py"
        shutil.copy(SCRIPT, lonely)
        command = [sys.executable, "-I", str(lonely), str(file), str(self.folder), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert not done.stderr
        return done.returncode, done.stdout

    def problems(self) -> list[str]:
        return check_proof.problems_of(self.proof, self.folder, None, None)


@pytest.fixture
def received(tmp_path: Path) -> Received:
    folder, home = tmp_path / "study", tmp_path / "chain"
    images = []
    for file, content in IMAGES.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
        images.append(ProvedImage(file, f"1.2.{file[-5]}", sha256(content).hexdigest(), len(content)))
    pairs = [(one.sop_uid, one.sha256) for one in images]
    published = chain(
        home, [*lines(3), entry(images=pairs[:3]), *lines(9, 3), entry(images=pairs, event="late-image")]
    )
    HeadFiles(home).add_published(published)
    chain(home, lines(20, 10))
    return Received(folder, home, build(home, STUDY, images, STAMP))


def test_a_stranger_with_the_script_and_openssl_finds_all_as_received(received: Received) -> None:
    status, said = received.check()
    assert status == 0, said
    assert "All 5 images are as received" in said
    assert "The key came with the proof" in said


def test_the_key_and_the_head_from_elsewhere_are_compared(received: Received, tmp_path: Path) -> None:
    files = HeadFiles(received.chain)
    head = tmp_path / "head.json"
    head.write_bytes(b"head of the chain: " + FORMAT.render(files.read_published()[0]))
    status, said = received.check("--key", str(files.public_key), "--head", str(head))
    assert status == 0
    assert "came with the proof" not in said
    chain(tmp_path / "other", lines(2))
    status, said = received.check(
        "--key", str(HeadFiles(tmp_path / "other").public_key), "--head", str(files.public_key)
    )
    assert status == 1
    status, said = received.check("--key", str(HeadFiles(tmp_path / "other").public_key))
    assert (status, said) == (1, "the proof is signed by another key than that of --key\n")
    status, said = received.check("--head", str(HeadFiles(tmp_path / "other").newest))
    assert (status, said) == (1, "the head of --head is not in the proof\n")


def damage(name: str) -> Callable[[Path], None]:
    changes: dict[str, Callable[[Path], object]] = {
        "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0"),
        "missing": lambda path: path.unlink(),
        "not in the proof": lambda path: path.rename(path.with_name("new.dcm")),
    }

    def change(folder: Path) -> None:
        changes[name](folder / "series-1" / "3.dcm")

    return change


@pytest.mark.parametrize("what", ["changed", "missing", "not in the proof"])
def test_each_image_that_is_missing_changed_or_foreign_is_named(received: Received, what: str) -> None:
    damage(what)(received.folder)
    status, said = received.check()
    assert status == 1
    assert f"{'series-1/new.dcm' if what == 'not in the proof' else 'series-1/3.dcm'}: {what}\n" in said


def test_an_image_that_is_changed_in_the_folder_and_in_the_list_is_found_by_the_chain(
    received: Received,
) -> None:
    (received.folder / "series-1/3.dcm").write_bytes(b"other")
    image = received.proof["images"][3]
    image |= {"sha256": sha256(b"other").hexdigest(), "size": 5}
    assert received.problems() == ["the list of images is not the one that the chain has"]
    pairs = [(one["sop_uid"], one["sha256"]) for one in received.proof["images"]]
    last = received.proof["entries"][-1]
    last["line"] = entry(images=pairs, event="late-image").decode()
    assert received.problems() == [f"entry {last['index']} is not in the chain"]


def test_a_chain_that_was_made_anew_does_not_extend_the_published_head(received: Received) -> None:
    pairs = [(one["sop_uid"], one["sha256"]) for one in received.proof["images"]]
    images = [
        ProvedImage(one["file"], one["sop_uid"], one["sha256"], one["size"])
        for one in received.proof["images"]
    ]
    files = HeadFiles(received.chain)
    published = files.published.read_bytes()
    for path in (received.chain / "tree", received.chain / "entries.jsonl"):
        path.unlink()
    chain(
        received.chain, [*lines(13), entry(images=pairs), *lines(30, 15)]
    )  # by who has the key, such as root
    files.published.write_bytes(published)
    received.proof = build(received.chain, STUDY, images, STAMP)
    assert received.problems() == []  # the published head does not cover the new entry: nothing is said of it
    head = json.loads(published.splitlines()[0])
    assert check_proof.problems_of(received.proof, received.folder, None, head) == [
        "the head of --head is not in the proof"
    ]
    received.proof |= {"published": head, "consistency": []}
    assert received.problems() == ["the head does not extend the published head: the chain was rewritten"]


def test_without_an_entry_there_is_no_proof(received: Received, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        build(received.chain, orthanc_id("P", "2"), [], STAMP)
    with pytest.raises(NotFoundError):
        build(tmp_path / "none", STUDY, [], STAMP)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of the proof that holds a value."""
    if isinstance(value, dict):
        return [one for key in value for one in paths(value[key], (*path, key))]
    if isinstance(value, list):
        return [one for index, inner in enumerate(value) for one in paths(inner, (*path, index))]
    return [path]


def der(key: str) -> bytes:
    """The key itself, without its frame."""
    return base64.b64decode("".join(line for line in key.splitlines() if not line.startswith("-----")) + "==")


def is_unused(path: tuple[Any, ...]) -> bool:
    """What the script does not use: when the file was made, and the sizes of images, whose digests say more."""
    return path == ("made",) or (path[0], path[-1]) == ("images", "size")


@pytest.mark.deep
def test_whatever_is_changed_in_a_proof_is_found(received: Received) -> None:
    dice = random.Random(5)  # noqa: S311 - the same ones each time
    whole = json.dumps(received.proof)
    places = [one for one in paths(received.proof) if not is_unused(one)]
    for _ in range(300 if FULL else 60):
        *way, last = dice.choice(places)
        received.proof = json.loads(whole)
        holder = received.proof
        for key in way:
            holder = holder[key]
        value = holder[last]
        if isinstance(value, int):
            holder[last] = value + dice.choice([-1, 1])
        else:
            at = dice.randrange(len(value))
            holder[last] = value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :]
        if last == "public_key" and der(holder[last]) == der(json.loads(whole)[last]):
            continue  # the frame of the same key
        assert received.problems(), (way, last)
    received.proof = json.loads(whole)
    assert received.problems() == []


def test_entries_that_are_left_out_exchanged_or_of_another_study_are_found(received: Received) -> None:
    first, last = received.proof["entries"]
    received.proof["entries"] = [last, first]
    assert "the entries are not in their order" in received.problems()
    received.proof["entries"] = [first]
    assert received.problems() == ["the list of images is not the one that the chain has"]
    received.proof["entries"] = []
    assert received.problems() == ["the proof has no entries, or some of another study"]
    received.proof["entries"] = [first, last | {"line": changed(last["line"].encode(), study="b").decode()}]
    assert received.problems() == ["the proof has no entries, or some of another study"]


@pytest.mark.parametrize(
    "content", ["", "[]", "null", '{"format": "ddwd proof 2"}', '{"format": "ddwd proof 1"}']
)
def test_what_is_no_proof_is_said_in_one_line(received: Received, content: str) -> None:
    file = received.folder.parent / "other.json"
    file.write_text(content)
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), str(file), str(received.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert not done.stderr


def test_the_script_needs_no_newer_python_than_it_says() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 9))
    assert len(SCRIPT.read_text().splitlines()) < 220
