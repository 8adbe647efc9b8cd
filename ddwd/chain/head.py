"""Signed heads of the chain: size and root of the log at a time, signed by the key of ddwd-signer with Ed25519.

Files in the chain's folder, all of ddwd-signer: `public.pem`, `head.json` (the newest head), and `published.jsonl` (each head that was
given away, one a line, never removed). The private key is in a folder of its own, which no other user can enter.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ddwd.core import durable, safe_folder, signature
from ddwd.store.statefile import StateFormat

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class SignedHead:
    """The head of a log: number of entries, root in hexadecimal, UTC stamp, ID of the key (`key_id`), and the signature in base64."""

    size: int
    root: str
    time: str
    log: str
    signature: str = ""

    def text(self) -> bytes:
        """Return the signed bytes, which check_proof.py makes in the same way."""
        values = {"log": self.log, "root": self.root, "size": self.size, "time": self.time}
        return b"ddwd chain head " + json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


FORMAT = StateFormat(SignedHead, "head of the chain")


@dataclass(frozen=True, slots=True)
class HeadFiles:
    """The files of heads in the chain's folder, which the signer writes and group ddwd reads."""

    folder: Path

    @property
    def public_key(self) -> Path:
        """The public key, in PEM."""
        return self.folder / "public.pem"

    @property
    def newest(self) -> Path:
        """The newest head, which covers every entry of the last batch."""
        return self.folder / "head.json"

    @property
    def published(self) -> Path:
        """The published heads, oldest first."""
        return self.folder / "published.jsonl"

    def read_newest(self) -> SignedHead | None:
        """Return the newest head, None before the first one. Raises StateError and OSError."""
        return FORMAT.read(self.newest)

    def read_published(self) -> list[SignedHead]:
        """Return the published heads; a torn last line, of a power cut, is left out. Raises StateError and OSError."""
        try:
            content = safe_folder.read(self.published)
        except FileNotFoundError:
            return []
        return parse_lines(content, self.published)

    def add_published(self, head: SignedHead) -> None:
        """Add one published head, durably."""
        try:
            content = safe_folder.read(self.published)
        except FileNotFoundError:
            durable.replace_file(self.published, content := b"")
        if (whole := content.rfind(b"\n") + 1) != len(content):
            durable.cut(self.published, whole)
        durable.append(self.published, FORMAT.render(head))


def parse_lines(content: bytes, path: Path) -> list[SignedHead]:
    """Return the heads of the whole lines of a file. Raises StateError."""
    whole, _, _ = content.rpartition(b"\n")
    return [FORMAT.parse(line, str(path)) for line in whole.split(b"\n") if whole]


def make_key(key: Path, files: HeadFiles) -> None:
    """Make the private key if there is none, and the public one beside it. Raises DdwdError and OSError."""
    signature.ensure_key(key)
    public = signature.public_key(key)
    if not files.public_key.exists() or safe_folder.read(files.public_key) != public:
        durable.replace_file(files.public_key, public, 0o644, exact_mode=True)


def key_id(public_key: str) -> str:
    """Return the ID of a log, which is that of its public key. Raises ValueError for any other text than `public_key` returns."""
    der = base64.b64decode("".join(public_key.splitlines()[1:-1]))
    if (
        public_key
        != f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"
    ):
        raise ValueError
    return signature.key_id(public_key.encode())


def sign(key: Path, files: HeadFiles, size: int, root: bytes, time: str) -> SignedHead:
    """Return a signed head. Raises DdwdError and OSError."""
    log = key_id(safe_folder.read(files.public_key).decode("ascii"))
    unsigned = SignedHead(size, root.hex(), time, log)
    signed = signature.sign(key, unsigned.text())
    return SignedHead(size, root.hex(), time, log, base64.b64encode(signed).decode())


@lru_cache(maxsize=10_000)
def is_signed(head: SignedHead, public_key: str) -> bool:
    """Return whether the head is of the log of that key, and signed by it."""
    try:
        if head.log != key_id(public_key):
            return False
        signed = base64.b64decode(head.signature, validate=True)
    except ValueError:
        return False
    if base64.b64encode(signed).decode() != head.signature:  # base64 has bits that mean nothing
        return False
    return signature.holds(public_key.encode(), head.text(), signed)
