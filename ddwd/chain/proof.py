"""Build the proof of a study: one JSON file that check_proof.py checks offline, without this machine and without ddwd.

It has the chain's entries about the study with their proofs of inclusion in the newest head; the first published head that covers
them, with the proof that the newest head extends it; the public key; and the images with their digests.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddwd.chain import merkle
from ddwd.chain.entry import decode
from ddwd.chain.head import FORMAT, HeadFiles
from ddwd.chain.log import ChainLog
from ddwd.core import safe_folder
from ddwd.core.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ddwd.chain.entry import Entry
    from ddwd.core.model import OrthancId

PROOF_FORMAT = "ddwd proof 1"


@dataclass(frozen=True, slots=True)
class ProvedImage:
    """One image of the study: its path below the study's folder, and what its custody record has of it."""

    file: str
    sop_uid: str
    sha256: str
    size: int


def entries_of(log: ChainLog, study: OrthancId, size: int) -> Iterator[tuple[int, bytes, Entry]]:
    """Yield number, line and content of the first `size` entries that are about a study. Reads the whole log. Raises StateError."""
    key = f'"study":"{study}"'.encode()
    for index, line in enumerate(log.lines()):
        if index >= size:
            return
        if key in line:
            entry = decode(line, f"{log.entries}:{index + 1}")
            if entry.get("study") == study:
                yield index, line, entry


def build(
    folder: Path, study: OrthancId, images: Iterable[ProvedImage], made: str, stamps: Path | None = None
) -> dict[str, Any]:
    """Return the proof of a study, from the chain in `folder`; `made` is the UTC stamp of now, `stamps` the folder of time stamps.

    Raises NotFoundError if the chain has no entry about the study, StateError and OSError.
    """
    files, log = HeadFiles(folder), ChainLog(folder)
    head = files.read_newest()
    found = list(entries_of(log, study, head.size)) if head else []
    if head is None or not found:
        raise NotFoundError(f"the chain has no entry about study {study}")
    last = found[-1][0]
    proof: dict[str, Any] = {
        "format": PROOF_FORMAT,
        "made": made,
        "study": study,
        "public_key": safe_folder.read(files.public_key).decode("ascii"),
        "head": FORMAT.body(head),
        "entries": [
            {
                "index": index,
                "line": line.decode(),
                "proof": _hex(merkle.inclusion(log.node, index, head.size)),
            }
            for index, line, _ in found
        ],
        "images": [
            {"file": one.file, "sop_uid": one.sop_uid, "sha256": one.sha256, "size": one.size}
            for one in images
        ],
    }
    covering = [one for one in files.read_published() if last < one.size <= head.size]
    if covering:
        proof["published"] = FORMAT.body(covering[0])
        token = stamps / f"{covering[0].size:012}.tsr" if stamps else None
        if token is not None and token.is_file():
            proof["stamp"] = base64.b64encode(token.read_bytes()).decode()
        proof["consistency"] = _hex(merkle.consistency(log.node, covering[0].size, head.size))
    return proof


def _hex(hashes: list[bytes]) -> list[str]:
    return [one.hex() for one in hashes]
