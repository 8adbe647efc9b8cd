"""Signatures are what openssl makes and takes; what is no key or no signature holds nothing."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from ddwd.core import signature
from ddwd.core.errors import StateError

if TYPE_CHECKING:
    from pathlib import Path

TEXT = b"what is signed"


def _openssl(*arguments: object) -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True).stdout


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key."""
    path = tmp_path / "key.pem"
    signature.ensure_key(path)
    return path


def test_openssl_reads_the_key_and_takes_the_signature(key: Path, tmp_path: Path) -> None:
    public, text, signed = (tmp_path / name for name in ("public.pem", "text", "signature"))
    public.write_bytes(signature.public_key(key))
    text.write_bytes(TEXT)
    signed.write_bytes(signature.sign(key, TEXT))
    checking = ["pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin"]
    assert b"Verified Successfully" in _openssl(*checking, "-in", text, "-sigfile", signed)
    assert _openssl("pkey", "-in", key, "-pubout") == public.read_bytes()


def test_a_key_that_openssl_made_signs_as_it_did(tmp_path: Path) -> None:
    key, text = tmp_path / "made.pem", tmp_path / "text"
    key.write_bytes(_openssl("genpkey", "-algorithm", "ed25519"))
    text.write_bytes(TEXT)
    signature.ensure_key(key)
    public = signature.public_key(key)
    assert public == _openssl("pkey", "-in", key, "-pubout")
    signed = _openssl("pkeyutl", "-sign", "-inkey", key, "-rawin", "-in", text)
    assert signature.sign(key, TEXT) == signed
    assert signature.holds(public, TEXT, signed)


def test_a_signature_holds_for_its_text_and_its_key_only(key: Path, tmp_path: Path) -> None:
    public, signed = signature.public_key(key), signature.sign(key, TEXT)
    assert signature.holds(public, TEXT, signed)
    signature.ensure_key(tmp_path / "other.pem")
    assert not signature.holds(signature.public_key(tmp_path / "other.pem"), TEXT, signed)
    assert not signature.holds(public, TEXT + b".", signed)
    for wrong in (b"", signed[:-1], signed + b"\0", bytes(64), signed[:-1] + bytes([signed[-1] ^ 1])):
        assert not signature.holds(public, TEXT, wrong)


def test_with_what_is_no_public_key_of_ed25519_nothing_holds(key: Path, tmp_path: Path) -> None:
    public, signed = signature.public_key(key), signature.sign(key, TEXT)
    other = tmp_path / "x25519.pem"
    _openssl("genpkey", "-algorithm", "x25519", "-out", other)
    for_exchange = _openssl("pkey", "-in", other, "-pubout")
    for wrong in (
        b"",
        b"\xff",
        public[:60],
        public.replace(b"MCow", b"MCox"),
        key.read_bytes(),
        for_exchange,
    ):
        assert not signature.holds(wrong, TEXT, signed)


@pytest.mark.parametrize("kind", ["missing", "empty", "public", "encrypted", "for X25519", "a folder"])
def test_a_key_that_cannot_be_used_is_named_in_one_line(key: Path, kind: str) -> None:
    encrypted = _openssl("pkey", "-in", key, "-aes256", "-passout", "pass:word")
    contents = {
        "empty": b"",
        "public": signature.public_key(key),
        "encrypted": encrypted,
        "for X25519": _openssl("genpkey", "-algorithm", "x25519"),
    }
    key.unlink()
    if kind in contents:
        key.write_bytes(contents[kind])
    elif kind == "a folder":
        key.mkdir()
    with pytest.raises(StateError, match=r"key\.pem: .+\Z"):
        signature.sign(key, TEXT)
    with pytest.raises(StateError, match=r"key\.pem: .+\Z"):
        signature.public_key(key)
