"""Sign a text with an Ed25519 key (RFC 8032) and check a signature, by openssl.

A signature is 64 bytes. A public key is PEM text, as `openssl pkeyutl -verify -pubin -rawin` takes it. The private key stays in its file.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ddwd.core import durable
from ddwd.core.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_OPENSSL = "/usr/bin/openssl"
_SECONDS = 60
_MODE = 0o400


def ensure_key(key: Path) -> None:
    """Make a private key, which its owner alone may read, unless there is one. Raises StateError."""
    if not key.exists():
        made = openssl("genpkey", "-algorithm", "ed25519")
        durable.replace_file(key, made, _MODE, exact_mode=True)


def public_key(key: Path) -> bytes:
    """Return the public key of a private one. Raises StateError."""
    return openssl("pkey", "-in", str(key), "-pubout")


def sign(key: Path, text: bytes) -> bytes:
    """Return the signature of a text. Raises StateError."""
    with memory_file(text) as (path, descriptor):
        argv = ["pkeyutl", "-sign", "-inkey", str(key), "-rawin", "-in", path]
        return openssl(*argv, inherited=(descriptor,))


def holds(public: bytes, text: bytes, signature: bytes) -> bool:
    """Return whether the signature of a text was made with the private key of `public`."""
    argv = ["pkeyutl", "-verify", "-pubin", "-rawin"]
    with ExitStack() as stack:
        inherited = []
        for option, content in (("-inkey", public), ("-in", text), ("-sigfile", signature)):
            path, descriptor = stack.enter_context(memory_file(content))
            argv += [option, path]
            inherited.append(descriptor)
        return _run(argv, tuple(inherited)).returncode == 0


def key_id(public: bytes) -> str:
    """Return the ID of a public key: the SHA-256 of its DER form, in hexadecimal."""
    body = b"".join(line for line in public.splitlines() if not line.startswith(b"-"))
    return hashlib.sha256(base64.b64decode(body)).hexdigest()


@contextmanager
def memory_file(content: bytes) -> Iterator[tuple[str, int]]:
    """Yield the path of a file in memory, for a command that inherits its descriptor, and that descriptor."""
    descriptor = os.memfd_create("ddwd")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}", descriptor
    finally:
        os.close(descriptor)


def openssl(*arguments: str, inherited: tuple[int, ...] = ()) -> bytes:
    """Run openssl(1), which inherits these descriptors; return its output. Raises StateError with its complaint."""
    done = _run(arguments, inherited)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise StateError(f"openssl {arguments[0]}: {lines[0] if lines else f'exit status {done.returncode}'}")
    return done.stdout


def _run(arguments: Sequence[str], inherited: tuple[int, ...]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            [_OPENSSL, *arguments],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StateError(f"openssl: {error}") from None
