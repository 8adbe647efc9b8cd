"""Copy the state of an older version once, before a newer version first writes it, so that a downgrade can return to it.

The copy needs little space: custody records and closed segments are hard links, since the portal replaces these files and never
writes into them; only the segment that grows is copied. A downgrade moves the copy into place (docs/upgrade.md).
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from ddwd.config.paths import Paths
from ddwd.core import durable
from ddwd.core.errors import StateError
from ddwd.store.ledger import SCHEMA, schema_of


def copy_before_upgrade(paths: Paths) -> None:
    """Copy ledger and custody records to `paths.pre_upgrade_copy` if an older version wrote the ledger last.

    The copy appears in one rename; an interrupted copy starts again. Raises StateError or StorageFullError, and then no file of the state has changed.
    """
    if not 0 < schema_of(paths.ledger) < SCHEMA:
        return
    partial = paths.pre_upgrade_copy.with_name(f".{paths.pre_upgrade_copy.name}.part")
    try:
        with suppress(FileNotFoundError):
            shutil.rmtree(partial)
        for folder in (paths.ledger, paths.custody):
            durable.make_dirs(partial / folder.name)
            _copy(folder, partial / folder.name)
        with suppress(FileNotFoundError):  # a copy from before a downgrade and a second upgrade
            shutil.rmtree(paths.pre_upgrade_copy)
        durable.rename(partial, paths.pre_upgrade_copy)
    except OSError as error:
        raise StateError(
            f"{partial}: the state of the previous version cannot be copied ({error.strerror}); no file was changed"
        ) from error


def _copy(source: Path, target: Path) -> None:
    """Link every file below `source` to `target`, and copy the segments that grow."""
    for path in sorted(source.iterdir()) if source.is_dir() else []:
        if path.name.startswith("."):
            continue  # the rest of an interrupted write
        if path.is_dir():
            durable.make_dir(target / path.name)
            _copy(path, target / path.name)
        elif path.suffix == ".jsonl":
            durable.write_new(target / path.name, [path.read_bytes()])
        else:
            durable.link_new(path, target / path.name)
    durable.fsync_dir(target)
