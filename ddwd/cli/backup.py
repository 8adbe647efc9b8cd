"""`ddwd backup DIR`: copy both databases, settings, state and images into a folder, while the portal runs."""

from __future__ import annotations

import os
import socket
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ddwd import __version__
from ddwd.backup import archive
from ddwd.backup.archive import Progress
from ddwd.backup.backup import Made, Order, back_up
from ddwd.cli import progress
from ddwd.cli.command import Argument, Command, VerbResult, file_errors
from ddwd.config.loader import CONFIG_FILE, DEFAULTS_FILE
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import SystemClock
from ddwd.core.errors import InvalidValueError, StateError
from ddwd.store import custody, ledger

_EPILOG = """Taken while the portal runs: the ledger and custody records, both databases, the files of both
Orthancs, conflicts and quarantine, settings, certificates and passwords. DIR is for root alone.
The published files are left out, since a restore has them fetched again from ORTHANC2; take
them along where studies are deleted there. A further run into the same DIR copies only what is
new, and the backup before stays until the new one is whole. On the volume of the images
files are not copied but named once more, and lost with that disk: take DIR elsewhere.
With --without-images make a snapshot of the storage areas after this has ended, not before.

exit status:
  0   DIR holds a whole backup, of now
  64  wrong usage; DIR cannot be one
  65  only root may; another backup is being written there; its manifest is damaged
  66  the folder that DIR is to be made in does not exist
  69  PostgreSQL does not answer
  74  no room in DIR
  76  PostgreSQL refused
  78  the configuration cannot be used"""

SCHEMAS = {"ledger": ledger.SCHEMA, "custody": custody.SCHEMA}
"""Of the state files, as this version writes them."""


def _run(args: Namespace, config: Config) -> VerbResult:
    assert_root()
    if config.database.engine != "postgresql":
        raise InvalidValueError(
            "this portal runs without PostgreSQL (ddwd try): copy its folder while it is stopped"
        )
    order = Order(
        folder=args.folder.absolute(),
        settings=(Path(os.environ.get("DDWD_CONFIG") or CONFIG_FILE), DEFAULTS_FILE),
        images=not args.without_images,
        output=args.with_output,
        portal=__version__,
        host=socket.gethostname(),
        schemas=SCHEMAS,
    )
    with file_errors(at=args.folder), told_on_terminal(as_json=args.json) as told:
        made = back_up(config, order, archive.SystemMachine(), told, SystemClock())
    Audit().record(Event.REQUESTED, "the operator asks: backup, and has it")
    return _result(made, order, config)


def assert_root() -> None:
    """Raise StateError for any user but root; files created from here on are readable for root alone."""
    if os.geteuid() != 0:
        raise StateError("keys, passwords and databases are for root: run it with sudo")
    os.umask(0o077)


def _result(made: Made, order: Order, config: Config) -> VerbResult:
    manifest = made.manifest
    data = {
        "folder": str(order.folder),
        "set": manifest.set,
        "began": manifest.began,
        "ended": manifest.ended,
        "bytes": manifest.bytes,
        "copied": made.copied,
        "same_volume": made.same_volume,
        "databases": {node: dump.bytes for node, dump in manifest.databases.items()},
        "files": {name: one.files for name, one in manifest.trees.items()},
    }
    size, copied = archive.as_written(manifest.bytes), archive.as_written(made.copied)
    lines = [
        *contents(manifest, config),
        f"the backup in {order.folder} is whole: {size}, {copied} of it new, as of {manifest.began}",
    ]
    if made.same_volume:
        lines.append("it lies on the volume of the images and is lost with that disk: copy it elsewhere")
    if not manifest.has_images:
        lines.append("without the files of the Orthancs: make the snapshot of /var/lib/ddwd now, not before")
    if config.ledger.is_shared:
        lines.append(
            "without ledger and custody records, which are in ledger.shared: back that database up itself"
        )
    return VerbResult(data, lines)


def contents(manifest: archive.Manifest, config: Config) -> Iterator[str]:
    """Yield a line for each part of a backup."""
    trees = archive.trees(Paths(config))
    aets: dict[str, str] = {node: config.node(node).aet for node in archive.NODES}
    for name, dump in manifest.databases.items():
        yield f"  database of {aets[name]}: {archive.as_written(dump.bytes)}"
    for name, one in manifest.trees.items():
        if one.files:
            yield f"  {trees[name].words}: {one.files}, {archive.as_written(one.bytes)}"
    yield f"  files of the settings: {len(manifest.configuration)}"


class _Told:
    """The progress of a backup or restore, as one line of text."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._words, self._total, self._done = "", 0, 0

    def step(self, words: str, total: int) -> None:
        self._words, self._total, self._done = words, total, 0
        self._tell(words)

    def moved(self, amount: int) -> None:
        self._done += amount
        of = f" of {archive.as_written(self._total)}" if self._total else ""
        self._tell(f"{self._words}: {archive.as_written(self._done)}{of}")


@contextmanager
def told_on_terminal(*, as_json: bool) -> Iterator[Progress]:
    """Show the progress on standard error if that is a terminal."""
    with progress.status_line("", shown=progress.is_wanted(as_json=as_json)) as tell:
        yield _Told(tell)


_FOLDER = Argument("folder", type=Path, metavar="DIR", help="a folder of its own, on another volume")
_WITH_OUTPUT = Argument("--with-output", action="store_true", help="the published files too")
_WITHOUT_IMAGES = Argument(
    "--without-images", action="store_true", help="not the files of the Orthancs: you take snapshots of them"
)
COMMAND = Command(
    "backup",
    "copy all that a new machine needs into a folder",
    _run,
    (_FOLDER, _WITH_OUTPUT, _WITHOUT_IMAGES),
    epilog=_EPILOG,
)
