#!/usr/bin/env python3
"""Check a proof of D-DW-D Portal: these images were received then, and are unchanged. Needs only Python 3.9 and openssl 1.1.1 or newer.

    python3 check-proof.py PROOF.json FOLDER [--key PUBLIC.pem] [--head HEAD.json] [--tsa CA.pem]

FOLDER has the study's images. --key is the portal's public key, --head a head of its chain, each got by another way than the proof:
without them the proof only agrees with itself. --tsa is the authority of the time stamp in the proof. Exit status 0 only if everything holds.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def is_included(entry: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> bool:
    """RFC 9162, 2.1.3.2."""
    if not 0 <= index < size:
        return False
    here, last, found = index, size - 1, sha256(b"\0" + entry)
    for one in proof:
        if last == 0:
            return False
        if here & 1 or here == last:
            found = sha256(b"\1" + one + found)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            found = sha256(b"\1" + found + one)
        here, last = here >> 1, last >> 1
    return last == 0 and found == root


def is_extended(old: int, old_root: bytes, new: int, new_root: bytes, proof: list[bytes]) -> bool:
    """RFC 9162, 2.1.4.2."""
    if old == new or not 0 < old < new:
        return old == new and old_root == new_root and not proof
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        return False
    here, last = old - 1, new - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    older = newer = path[0]
    for one in path[1:]:
        if last == 0:
            return False
        if here & 1 or here == last:
            older, newer = sha256(b"\1" + one + older), sha256(b"\1" + one + newer)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            newer = sha256(b"\1" + newer + one)
        here, last = here >> 1, last >> 1
    return last == 0 and older == old_root and newer == new_root


def signed_text(head: dict[str, Any]) -> bytes:
    values = {name: head[name] for name in ("log", "root", "size", "time")}
    return b"ddwd chain head " + json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def is_signed(head: dict[str, Any], key: str) -> bool:
    der = base64.b64decode("".join(line for line in key.splitlines() if not line.startswith("-----")))
    if head["log"] != hashlib.sha256(der).hexdigest():
        return False
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "-inkey": key.encode(),
            "-sigfile": base64.b64decode(head["signature"]),
            "-in": signed_text(head),
        }
        command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin"]
        for option, content in files.items():
            command += [option, str(Path(folder, option))]
            Path(folder, option).write_bytes(content)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def is_stamped(proof: dict[str, Any], authority: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        text, answer = Path(folder, "text"), Path(folder, "answer")
        text.write_bytes(signed_text(proof["published"]))
        answer.write_bytes(base64.b64decode(proof["stamp"]))
        command = ["openssl", "ts", "-verify", "-data", str(text), "-in", str(answer), "-CAfile", authority]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def chain_problems(
    proof: dict[str, Any], key: str | None, known_head: dict[str, Any] | None
) -> Iterator[str]:
    """Yield what is wrong with the signed heads and the entries."""
    head, published = proof["head"], proof.get("published")
    if key is not None and key.split() != proof["public_key"].split():
        yield "the proof is signed by another key than that of --key"
    for name, one in (("head", head), ("published head", published)):
        if one is not None and not is_signed(one, proof["public_key"]):
            yield f"the {name} is not signed by the key"
    root = bytes.fromhex(head["root"])
    if published is not None:
        path = [bytes.fromhex(one) for one in proof["consistency"]]
        if not is_extended(published["size"], bytes.fromhex(published["root"]), head["size"], root, path):
            yield "the head does not extend the published head: the chain was rewritten"
    if known_head is not None:
        same = [
            one
            for one in (head, published)
            if one and (one["size"], one["root"]) == (known_head["size"], known_head["root"])
        ]
        if not same:
            yield "the head of --head is not in the proof"
    for entry in proof["entries"]:
        path = [bytes.fromhex(one) for one in entry["proof"]]
        if not is_included(entry["line"].encode(), entry["index"], head["size"], path, root):
            yield f"entry {entry['index']} is not in the chain"


def image_problems(proof: dict[str, Any], entries: list[dict[str, Any]], folder: Path) -> Iterator[str]:
    """Yield what is wrong with the images: their list against the chain, each file against the list."""
    lines = sorted(f"{one['sop_uid']} {one['sha256']}\n" for one in proof["images"])
    digest = hashlib.sha256("".join(lines).encode("utf-8", "backslashreplace")).hexdigest()
    received = [entry for entry in entries if "images_sha256" in entry]
    if not received or received[-1]["images_sha256"] != digest:
        yield "the list of images is not the one that the chain has"
    listed = {one["file"]: one for one in proof["images"]}
    for file in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.dcm")):
        if file not in listed:
            yield f"{file}: not in the proof"
    for file, one in sorted(listed.items()):
        path = folder / file
        if not path.is_file():
            yield f"{file}: missing"
        elif file_sha256(path) != one["sha256"]:
            yield f"{file}: changed"


def problems_of(
    proof: dict[str, Any], folder: Path, key: str | None, known_head: dict[str, Any] | None
) -> list[str]:
    """Return every problem as a line, none if everything holds; a proof of another form is one problem."""
    try:
        if proof["format"] != "ddwd proof 1":
            return ["this script does not know the form of the proof"]
        entries = [json.loads(entry["line"]) for entry in proof["entries"]]
        if not entries or any(entry["study"] != proof["study"] for entry in entries):
            return ["the proof has no entries, or some of another study"]
        order = [entry["index"] for entry in proof["entries"]]
        wrong = [] if order == sorted(set(order)) else ["the entries are not in their order"]
        return [*wrong, *chain_problems(proof, key, known_head), *image_problems(proof, entries, folder)]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        return [f"the proof is damaged ({type(error).__name__})"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("proof", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--head", type=Path)
    parser.add_argument("--tsa")
    options = parser.parse_args()
    try:
        proof = json.loads(options.proof.read_bytes())
        key = options.key.read_text() if options.key else None
        # a message of the journal, "head of the chain: {...}", will do
        known_head = json.loads("{" + options.head.read_text().partition("{")[2]) if options.head else None
    except (OSError, ValueError) as error:
        print(error)
        return 1
    problems = problems_of(proof, options.folder, key, known_head)
    if options.tsa and not problems and ("stamp" not in proof or not is_stamped(proof, options.tsa)):
        problems = ["there is no time stamp of this authority on the published head"]
    if problems:
        print("\n".join(problems))
        return 1
    for entry in (json.loads(one["line"]) for one in proof["entries"]):
        print(f"{entry['time']}  {entry['event']}  {entry.get('message', '')}")
    when = proof.get("published", proof["head"])["time"]
    print(f"All {len(proof['images'])} images are as received; the chain had them at {when}.")
    if key is None and known_head is None:
        print("The key came with the proof: compare it with one from elsewhere (--key).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
