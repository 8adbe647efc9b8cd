"""Copy all data that the portal needs, while it runs (`ddwd backup`); restore.py puts it back.

The order makes the copy consistent: the ledger and the custody records first, then ORTHANC2's database, then ORTHANC1's, then the
files of both. So an image that a record names is in both databases, one that ORTHANC2's database names is in ORTHANC1's, and each has
its file in the copy, except for images that were deleted meanwhile. Images that arrived later are gaps that the extractor closes.

Every copy belongs to root and shares no inode with the portal's files; copying.py says which copies of the backup before are used
again. The manifest is signed and written last: no manifest names the set of an interrupted backup, and the backup before
stays complete.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.backup import archive, copying, dumps, files, seal
from ddwd.backup.archive import Dump, Manifest, Owned, Sum
from ddwd.backup.copying import Outcome, TreeCopy
from ddwd.config.paths import Paths
from ddwd.core import durable, safe_folder, signature
from ddwd.core.clock import stamp
from ddwd.core.errors import InvalidValueError, NotFoundError, StateError, StorageFullError
from ddwd.provisioning import databases
from ddwd.provisioning.host import must

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ddwd.backup.archive import Tree
    from ddwd.backup.copying import Earlier
    from ddwd.backup.files import Progress
    from ddwd.config.schema import Config
    from ddwd.config.schema_network import NodeName
    from ddwd.core.clock import Clock
    from ddwd.provisioning.host import Host

_LOCK = ".lock"
_WORKING, _CUT = ".part", ".cut"
"""Suffixes of a set that is being written, and of an interrupted one whose files are all on disk."""
_OWN = frozenset({archive.MANIFEST, seal.PUBLIC_KEY, _LOCK, "lost+found"})
"""Files that the folder of a backup may contain beside its sets."""
_MARGIN = 64 * 1024**2
_LEDGER_TRIES = 5
_FIRST = ("ledger", "custody")


@dataclass(frozen=True, slots=True)
class Order:
    """What to back up: the target folder, the two files of the settings, which trees, the private key that signs, and facts of this portal."""

    folder: Path
    settings: tuple[Path, ...]
    images: bool
    output: bool
    portal: str
    host: str
    schemas: Mapping[str, int]
    key: Path = seal.KEY


@dataclass(frozen=True, slots=True)
class Made:
    """A finished backup: `copied` bytes were written, the rest are copies of the backup before. With `same_volume` it is lost with this disk.

    `left_out` names what a restore leaves out of the databases, `changed` the images that differ from their earlier copies, which are
    kept, and `damaged` the earlier copies that were not as listed and were made again. `key` is the ID of the key that signed.
    """

    manifest: Manifest
    copied: int
    same_volume: bool
    left_out: tuple[str, ...]
    changed: tuple[str, ...]
    damaged: tuple[str, ...]
    key: str


def back_up(config: Config, order: Order, machine: Host, progress: Progress, clock: Clock) -> Made:
    """Make a backup; an earlier one stays until this one is complete.

    Raises InvalidValueError for an unsuitable folder, StorageFullError, PeerDownError and PeerRefusedError if a database cannot be
    dumped, and OSError.
    """
    assert_place(config, order.folder)
    _take_place(order.folder)
    with _locked(order.folder):
        order.key.parent.mkdir(mode=0o700, exist_ok=True)
        signature.ensure_key(order.key)
        return _BackupRun(config, order, machine, progress).run(clock)


def assert_place(config: Config, folder: Path) -> None:
    """Raise InvalidValueError if the folder is inside one of the portal's folders, or contains one."""
    place = Path(os.path.realpath(folder))
    own = [config.data_dir, config.output_dir, config.run_dir, config.tls.folder]
    for path in (*own, config.credentials_file.parent, *Paths(config).database_area()):
        real = Path(os.path.realpath(path))
        if place.is_relative_to(real):
            raise InvalidValueError(
                f"{folder} is inside {path}, which the backup copies; choose a folder outside"
            )
        if real.is_relative_to(place):
            raise InvalidValueError(f"{path} is inside {folder}; choose a folder for the backup alone")


def _take_place(folder: Path) -> None:
    """Make the folder, or use one that is empty or holds a backup, and let only root into it."""
    if not folder.parent.is_dir():
        raise NotFoundError(f"{folder.parent} does not exist; make it, or mount the volume for backups there")
    durable.make_dir(folder, 0o700)
    if (place := safe_folder.foreign(folder)) is not None:
        raise InvalidValueError(
            f"{place} can be replaced by another user, and the backup in it: choose a folder whose parents belong to root, "
            "or give it to root (chown, chmod)"
        )
    others = sorted(
        path.name for path in folder.iterdir() if path.name not in _OWN and not archive.is_set(path.name)
    )
    if others:
        raise InvalidValueError(
            f"{folder} holds other files ({others[0]}); choose a folder for the backup alone"
        )
    with suppress(PermissionError):
        folder.chmod(0o700)
    if stat.S_IMODE(folder.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        raise StateError(
            f"{folder} cannot be closed to other users, and the backup holds keys and passwords; choose a volume with owners and modes"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / _LOCK).open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{folder}: another backup is being written there") from None
        yield


class _BackupRun:
    """One run of a backup."""

    def __init__(self, config: Config, order: Order, machine: Host, progress: Progress) -> None:
        self._config = config
        self._order = order
        self._machine = machine
        self._progress = progress
        self._left_out: list[str] = []
        self._outcome = Outcome()
        self._device = order.folder.stat().st_dev
        left_out = (set() if order.output else {"output"}) | (set() if order.images else archive.IMAGES)
        trees = archive.trees(Paths(config))
        self._trees = {name: tree for name, tree in trees.items() if name not in left_out}
        self._sizes: dict[str, int] = {}
        self._lists: dict[str, str] = {}
        self._earlier = self._find_earlier()

    def run(self, clock: Clock) -> Made:
        """Write a set, then the manifest that names it."""
        began = stamp(clock.utc())
        name = re.sub("[-:.]", "", began)
        self._assert_space()
        working = self._order.folder / f"{name}{_WORKING}"
        working.mkdir(mode=0o700)
        (working / archive.LISTS).mkdir(mode=0o700)
        try:
            configuration = self._copy_configuration(working)
            sums = {first: self._tree(self._trees[first], working) for first in _FIRST}
            dumped = self._dump_all(working)
            others = [tree for tree in self._trees.values() if tree.name not in _FIRST]
            sums |= {tree.name: self._tree(tree, working) for tree in others}
            os.sync()
        except BaseException:
            os.sync()  # the next run links the files that are on disk by now, and does not copy them again
            working.rename(working.with_suffix(_CUT))
            raise
        durable.rename(working, self._order.folder / name)
        manifest = Manifest(
            portal=self._order.portal,
            host=self._order.host,
            began=began,
            ended=stamp(clock.utc()),
            set=name,
            schemas=self._order.schemas,
            settings=tuple(map(str, self._order.settings)),
            configuration=configuration,
            folders=tuple(map(_owned, configuration_folders(self._config))),
            databases=dumped,
            trees=sums,
            lists=self._lists,
            changed=tuple(self._outcome.changed),
            turn=self._earlier.turn,
        )
        key = seal.seal(self._order.folder, manifest, self._order.key)
        for folder in self._sets():
            if folder.name != name:
                shutil.rmtree(folder)
        return self._made(manifest, key)

    def _made(self, manifest: Manifest, key: str) -> Made:
        outcome, images = (
            self._outcome,
            [tree for name, tree in self._trees.items() if name in archive.IMAGES],
        )
        return Made(
            manifest=manifest,
            copied=outcome.copied,
            same_volume=any(self._is_beside(tree) for tree in images),
            left_out=tuple(self._left_out),
            changed=tuple(outcome.changed),
            damaged=tuple(outcome.damaged),
            key=key,
        )

    def _sets(self) -> list[Path]:
        return sorted(path for path in self._order.folder.iterdir() if archive.is_set(path.name))

    def _find_earlier(self) -> Earlier:
        """Return the copies of the backup before, and of interrupted runs since.

        Removes all other sets: those of a power cut, whose files may be incomplete, and those that no manifest names.
        """
        cut = tuple(folder for folder in self._sets() if folder.suffix == _CUT)
        found = copying.earlier_of(self._order.folder, cut, self._order.key)
        for folder in self._sets():
            if folder not in found.sets:
                shutil.rmtree(folder)
        return found

    def _is_beside(self, tree: Tree) -> bool:
        return tree.folder.is_dir() and tree.folder.stat().st_dev == self._device

    def _assert_space(self) -> None:
        """Raise StorageFullError if the backup does not fit, before any file is written."""
        self._progress.step("measuring what is to be copied", 0)
        needed = sum(self._to_copy(tree) for tree in self._trees.values())
        for node in archive.NODES:
            statement = "SELECT pg_database_size(current_database())"
            needed += int(databases.ask(self._config, node, statement, self._machine) or 0)
        free = shutil.disk_usage(self._order.folder).free
        if needed + _MARGIN > free:
            sizes = f"{archive.as_written(needed)} are needed, {archive.as_written(free)} free"
            raise StorageFullError(f"{self._order.folder}: {sizes}; no file was copied")

    def _to_copy(self, tree: Tree) -> int:
        """Return the bytes that the copies of a tree take; those of an earlier backup take none."""
        new = self._sizes[tree.name] = 0
        for found in files.files(tree.folder, tree.left_out):
            self._sizes[tree.name] += found.status.st_size
            new += 0 if self._earlier.likely(tree, found) else found.status.st_size
        return 0 if self._is_beside(tree) and files.can_share(self._order.folder) else new

    def _copy_configuration(self, target: Path) -> tuple[Owned, ...]:
        """Copy each file of the settings, and each that they name, under its full path; return their owners and modes."""
        self._progress.step("settings, certificates and passwords", 0)
        paths = tuple(dict.fromkeys(configuration_files(self._config, self._order.settings)))
        found = {}
        for path in paths:
            copy = target / archive.CONFIGURATION / path.relative_to("/")
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("rb") as source:
                content = copying.write(source.fileno(), copy, self._outcome, self._progress)
            found[str(path.relative_to("/"))] = content.sha256
        self._write_list(target, archive.CONFIGURATION, found)
        return tuple(map(_owned, paths))

    def _write_list(self, target: Path, name: str, found: Mapping[str, str]) -> None:
        with files.ListWriter(target / archive.LISTS / name, name) as writer:
            for below in sorted(found, key=files.place):
                writer.add(below, found[below])
            self._lists[name] = writer.sha256

    def _dump_all(self, target: Path) -> dict[str, Dump]:
        """Dump both databases."""
        found = {str(node): self._dump(node, target / archive.DATABASES) for node in archive.NODES}
        sums = {f"{node}.dump": dump.sha256 for node, dump in found.items()}
        self._write_list(target, archive.DATABASES, sums)
        return found

    def _dump(self, node: NodeName, folder: Path) -> Dump:
        """Dump one database, in the state of one moment."""
        folder.mkdir(mode=0o700, exist_ok=True)
        target = folder / f"{node}.dump"
        name = self._config.database.name_for(node)
        self._progress.step(f"database {name}", 0)
        login = databases.login(self._config, node)
        argv = ["pg_dump", "--format=custom", *login.options, "-d", login.name]
        target.touch(0o600, exist_ok=False)
        with target.open("wb") as file:
            must(self._machine.pipe(argv, login, stdout=file), f"pg_dump of {name}")
        inside = dumps.contents(target, login, self._machine)
        self._left_out += [f"{name}: {entry}" for entry in inside.left_out]
        with target.open("rb") as file:
            content = files.digest(file.fileno(), self._progress)
        self._outcome.copied += content.size
        return Dump(content.size, content.sha256)

    def _tree(self, tree: Tree, target: Path) -> Sum:
        self._progress.step(tree.words, self._sizes.get(tree.name, 0))
        copy = TreeCopy(tree, self._earlier, target, self._outcome, self._progress)
        found, self._lists[tree.name] = copy.run()
        for _ in range(_LEDGER_TRIES):
            # the ledger may have begun its next segment during the copy
            if tree.name != "ledger" or not found.files or any((target / tree.name).glob("*.jsonl")):
                break
            copy.discard()
            found, self._lists[tree.name] = copy.run()
        return found


def configuration_files(config: Config, settings: Iterable[Path]) -> Iterator[Path]:
    """Yield the files of the settings and those that they name: passwords, additions to the Orthancs, certificates and keys."""
    named = [config.tls.gateway_certificate, config.tls.gateway_key, config.tls.senders_ca]
    named += [config.audit.ca, config.audit.certificate, config.audit.key]
    named += [config.database.password_file, config.ledger.password_file]
    yield from (path for path in settings if path.is_file())
    for folder in configuration_folders(config):
        yield from (path for path in sorted(folder.iterdir()) if path.is_file())
    yield from (path for path in named if path is not None and path.is_file())


def configuration_folders(config: Config) -> Iterator[Path]:
    """Yield the folders of the settings and keys and all folders below them, parents first."""
    for folder in dict.fromkeys([config.credentials_file.parent, config.tls.folder, config.link.folder]):
        if folder.is_dir():
            yield from (folder, *(path for path in sorted(folder.rglob("*")) if path.is_dir()))


def _owned(path: Path) -> Owned:
    status = path.stat()
    names = (_name(path.owner), _name(path.group))
    return Owned(str(path), *names, stat.S_IMODE(status.st_mode))


def _name(read: Callable[[], str]) -> str:
    """Return the name of a user or group; root if the number has none."""
    try:
        return read()
    except KeyError:
        return "root"
