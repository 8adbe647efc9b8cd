"""Report which settings changed since the last start. Only the extractor writes the file, without passwords."""

from __future__ import annotations

from pathlib import Path

from ddwd.config.schema import SECRET_KEYS, Config, flatten
from ddwd.store.statefile import StateFormat

_FORMAT = StateFormat(dict[str, str], "copy of the settings", indent=1)


def changed_settings(config: Config, path: Path) -> list[str]:
    """Return the keys whose value differs from the last start, and store the current values; empty at the first start.

    A changed password is not reported, since none is stored. Raises StorageFullError and OSError.
    """
    now = {key: str(value) for key, value in flatten(config).items() if key not in SECRET_KEYS}
    before = _FORMAT.read_or_none(path)
    if before != now:
        _FORMAT.write(path, now)
    return [] if before is None else sorted({key for key, _value in now.items() ^ before.items()})
