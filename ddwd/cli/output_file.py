"""The new file that a verb writes for the operator: where it is, and how it is written. No file is ever replaced."""

from __future__ import annotations

from pathlib import Path

from ddwd.core import durable
from ddwd.core.errors import StateError


def target(output: Path | None, name: str) -> Path:
    """Return the path of the file: `output`, or `name` in that folder or in the current one. Raises StateError."""
    found = (output or Path.cwd()).absolute()
    found = found / name if found.is_dir() else found
    if found.exists():
        raise StateError(f"{found}: exists already and is not replaced; give --output another name")
    if not found.parent.is_dir():
        raise StateError(f"{found.parent}: no such folder")
    return found


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write the file. Raises StateError."""
    try:
        durable.write_new(path, [content], mode=mode)
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}; choose another folder: --output FOLDER") from error
