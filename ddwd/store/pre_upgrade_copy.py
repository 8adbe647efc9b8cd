"""The state as the version before left it, kept once when a newer one first starts on it: what going back goes back to.

Costs little: custody records and closed segments get a further name, since the portal never writes into one (it replaces them), and
only the segment that grows is copied. Nothing reads it again; whoever goes back moves it into place (docs/upgrade.md).
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from ddwd.core import durable
from ddwd.core.errors import StateError
from ddwd.store.ledger import SCHEMA, schema_of

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.config.paths import Paths


def copy_before_upgrade(paths: Paths) -> None:
    """Keep ledger and custody records at `paths.pre_upgrade_copy`, where an older version wrote the ledger last.

    Comes into being by one rename; broken off, it is begun anew. Raises StateError, or StorageFullError, and has then changed nothing.
    """
    if not 0 < schema_of(paths.ledger) < SCHEMA:
        return
    growing = paths.pre_upgrade_copy.with_name(f".{paths.pre_upgrade_copy.name}.part")
    try:
        with suppress(FileNotFoundError):
            shutil.rmtree(growing)
        for folder in (paths.ledger, paths.custody):
            durable.make_dirs(growing / folder.name)
            _keep(folder, growing / folder.name)
        with suppress(FileNotFoundError):  # of an earlier time, before someone went back and forward again
            shutil.rmtree(paths.pre_upgrade_copy)
        durable.rename(growing, paths.pre_upgrade_copy)
    except OSError as error:
        raise StateError(
            f"{growing}: what the version before knew cannot be kept aside ({error.strerror}); nothing was changed"
        ) from error


def _keep(source: Path, target: Path) -> None:
    """Give every file below `source` a further name below `target`, and copy what is appended to."""
    for path in sorted(source.iterdir()) if source.is_dir() else []:
        if path.name.startswith("."):
            continue  # a write that was cut off: nobody's
        if path.is_dir():
            durable.make_dir(target / path.name)
            _keep(path, target / path.name)
        elif path.suffix == ".jsonl":
            durable.write_new(target / path.name, [path.read_bytes()])
        else:
            durable.link_new(path, target / path.name)
    durable.fsync_dir(target)
