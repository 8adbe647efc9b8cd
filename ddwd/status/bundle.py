"""The support bundle: parts, each collected and redacted by itself, packed as one archive with a manifest. Writes no file."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ddwd.core.errors import DdwdError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from ddwd.status.redaction import Redactor

NEVER = {
    "images and their heads": "patient data",
    "the patient's identifier and the accession number of audit records": "patient data; records are named by UIDs and Orthanc IDs",
    "paths below OUTPUT_DIR": "their first folder is the PatientID",
    "the files of ledger, custody records and quarantine": "only counts of them are here",
    "ddwd.yaml, /etc/default/ddwd and credentials.json as they stand": "secrets; `settings.json` has what is set, without these",
    "private keys": "secrets",
    "Environment= of the units": "may hold secrets",
    "the log of PostgreSQL": "may hold values of its tables",
}
"""Content that no bundle has, and why."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the bundle: `collect` returns its text, or what becomes its JSON; if it raises, the part is left out."""

    file: str
    what: str
    collect: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Packed:
    """A file of the bundle with its content."""

    file: str
    what: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Missed:
    """A part that could not be collected, and why, in one line."""

    file: str
    reason: str


def gather(
    parts: Sequence[Part], scrub: Redactor, begins: Callable[[Part], None]
) -> tuple[list[Packed], list[Missed]]:
    """Collect each part; one that fails does not stop the others."""
    packed: list[Packed] = []
    missed: list[Missed] = []
    for part in parts:
        begins(part)
        try:
            packed.append(Packed(part.file, part.what, _content(part, scrub)))
        except (DdwdError, OSError, ValueError, LookupError, TypeError, subprocess.SubprocessError) as error:
            missed.append(Missed(part.file, scrub.text(_reason(error))))
    return packed, missed


def _content(part: Part, scrub: Redactor) -> bytes:
    found = part.collect()
    if isinstance(found, str):
        return scrub.text(found).encode("utf-8", "replace")
    return _json(scrub.tree(found))


def _json(tree: Any) -> bytes:
    return json.dumps(tree, indent=1, default=str).encode() + b"\n"


def _reason(error: Exception) -> str:
    """Return the error in one line without a path: one below OUTPUT_DIR begins with the PatientID."""
    if isinstance(error, DdwdError):
        return "; ".join(str(error).splitlines())
    if isinstance(error, PermissionError):
        return "not for this user; run it with sudo"
    return getattr(error, "strerror", "") or type(error).__name__


def archive(name: str, files: Sequence[Packed], about: dict[str, Any], at: datetime) -> bytes:
    """Return a .tar.gz with all files and the manifest, in one folder."""
    rows = [
        {
            "file": file.file,
            "what": file.what,
            "bytes": len(file.content),
            "sha256": sha256(file.content).hexdigest(),
        }
        for file in files
    ]
    manifest = Packed("MANIFEST.json", "this list", _json({**about, "files": rows, "never_in_it": NEVER}))
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for file in (manifest, *files):
            entry = tarfile.TarInfo(f"{name}/{file.file}")
            entry.size, entry.mode, entry.mtime = len(file.content), 0o600, int(at.timestamp())
            tar.addfile(entry, io.BytesIO(file.content))
    return made.getvalue()
