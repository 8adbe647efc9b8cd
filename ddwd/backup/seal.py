"""Sign the manifest of a backup, and check its signature.

Root's private key stays on the machine and is in no backup: a user who can write to the backup cannot sign it. The public key lies beside
the backup; its ID, which `ddwd backup` prints, tells on another machine whether it is the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.backup import archive
from ddwd.core import durable, signature
from ddwd.core.errors import InvalidValueError, StateError

if TYPE_CHECKING:
    from ddwd.backup.archive import Manifest

KEY = Path("/var/lib/ddwd-backup/key.pem")
PUBLIC_KEY = "public.pem"
SIGNATURE = "manifest.sig"


@dataclass(frozen=True, slots=True)
class Trust:
    """Which manifest is taken: one that a key has signed, or any if `unsigned`; a key is PEM text."""

    keys: tuple[bytes, ...]
    unsigned: bool = False


def own(key: Path) -> Trust:
    """Return the trust in the key of this machine, if it has one."""
    return Trust((signature.public_key(key),) if key.exists() else ())


def in_key_of(path: Path) -> Trust:
    """Return the trust in the public key of another machine. Raises InvalidValueError, OSError."""
    public = path.read_bytes()
    if not public.startswith(b"-----BEGIN PUBLIC KEY-----"):
        raise InvalidValueError(f"{path} is no public key; it is {PUBLIC_KEY} beside the backup")
    return Trust((public,))


def seal(folder: Path, manifest: Manifest, key: Path) -> str:
    """Sign the manifest and write it in one step, which makes its set the current one; return the ID of the key."""
    text, public = archive.written(manifest), signature.public_key(key)
    durable.replace_file(folder / PUBLIC_KEY, public, 0o600)
    durable.replace_file(folder / manifest.set / SIGNATURE, signature.sign(key, text), 0o600)
    durable.replace_file(folder / archive.MANIFEST, text, 0o600)
    return signature.key_id(public)


def is_signed(folder: Path, manifest: Manifest, text: bytes, trust: Trust) -> bool:
    """Return whether a key that is trusted has signed the manifest."""
    if manifest.schema == archive.UNSIGNED:
        return False
    try:
        found = (folder / manifest.set / SIGNATURE).read_bytes()
    except OSError:
        return False
    return any(signature.holds(public, text, found) for public in trust.keys)


def read(folder: Path, trust: Trust) -> Manifest:
    """Return the manifest of a backup. Raises NotFoundError if there is none, StateError if it cannot be used or trusted."""
    manifest, text = archive.read_manifest(folder)
    if not trust.unsigned and not is_signed(folder, manifest, text, trust):
        raise StateError(f"{folder}: {_why(folder, manifest, text)}")
    return manifest


def _why(folder: Path, manifest: Manifest, text: bytes) -> str:
    """Return why the manifest is not taken, and what to do."""
    if manifest.schema == archive.UNSIGNED:
        return (
            f"ddwd {manifest.portal} has not signed it, and has recorded number and size of the files only: "
            "take it with --unsigned if no other user could write there"
        )
    public = folder / PUBLIC_KEY
    beside = Trust((public.read_bytes(),) if public.is_file() else ())
    if not is_signed(folder, manifest, text, beside):
        return (
            "its signature does not hold, so it was changed after it was made: take an older backup, "
            "or this one as it is with --unsigned"
        )
    return (
        f"it is signed by the key {signature.key_id(beside.keys[0])}, which is not of this machine: "
        f"if that is what ddwd backup printed there, add --key {public}"
    )
