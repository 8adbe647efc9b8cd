"""Sign a text with an Ed25519 key (RFC 8032) and check a signature, by Debian's python3-cryptography.

A signature is 64 bytes. A public key is PEM text, as `openssl pkeyutl -verify -pubin -rawin` takes it. The private key stays in its
file, in the PEM form (PKCS#8) that `openssl genpkey` writes too.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ddwd.core import durable, safe_folder
from ddwd.core.errors import LinkedError, StateError, reason_of

if TYPE_CHECKING:
    from pathlib import Path

_MODE = 0o400


def ensure_key(key: Path) -> None:
    """Make a private key, which its owner alone may read, unless there is one. Raises OSError."""
    if not key.exists():
        made = Ed25519PrivateKey.generate()
        content = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        durable.replace_file(key, content, _MODE, exact_mode=True)


def public_key(key: Path) -> bytes:
    """Return the public key of a private one. Raises StateError."""
    return _read(key).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def sign(key: Path, text: bytes) -> bytes:
    """Return the signature of a text. Raises StateError."""
    return _read(key).sign(text)


def holds(public: bytes, text: bytes, signature: bytes) -> bool:
    """Return whether the signature of a text was made with the private key of `public`; False too if either is malformed."""
    try:
        key = load_pem_public_key(public)
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, text)
            return True
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        pass
    return False


def key_id(public: bytes) -> str:
    """Return the ID of a public key: the SHA-256 of its DER form, in hexadecimal."""
    body = b"".join(line for line in public.splitlines() if not line.startswith(b"-"))
    return hashlib.sha256(base64.b64decode(body)).hexdigest()


def _read(key: Path) -> Ed25519PrivateKey:
    """Return the private key in a file. Raises StateError."""
    try:
        found = load_pem_private_key(safe_folder.read(key), password=None)
    except (LinkedError, OSError) as error:
        raise StateError(f"{key}: {reason_of(error)}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        found = None
    if not isinstance(found, Ed25519PrivateKey):
        raise StateError(f"{key}: no Ed25519 key that can be used")
    return found
