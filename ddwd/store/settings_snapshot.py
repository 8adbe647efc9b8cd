"""Which settings changed since the last start: the extractor keeps them, without passwords, and alone writes the file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ddwd.config.schema import SECRET_KEYS, flatten
from ddwd.core import durable

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.config.schema import Config


def changed_settings(config: Config, path: Path) -> list[str]:
    """Keys whose value is not the one of the last start, which this one replaces; none at the very first start.

    A changed password is not noticed: none is kept. Raises StorageFullError and OSError.
    """
    now = {key: str(value) for key, value in flatten(config).items() if key not in SECRET_KEYS}
    try:
        before = json.loads(path.read_bytes())
    except (OSError, ValueError):
        before = None
    if before == now:
        return []
    durable.replace_file(path, json.dumps(now, indent=1).encode() + b"\n")
    if not isinstance(before, dict):
        return []
    return sorted(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
