"""Copy all data that the portal needs, while it runs (`ddwd backup`); restore.py puts it back.

The order makes the copy consistent: the ledger and the custody records first, then ORTHANC2's database, then ORTHANC1's, then the
files of both. So an image that a record names is in both databases, one that ORTHANC2's database names is in ORTHANC1's, and each has
its file in the copy, except for images that were deleted meanwhile. Images that arrived later are gaps that the extractor closes.

A file that has not changed since the backup before becomes a hard link to that copy; on the same volume, an Orthanc's file becomes a
hard link to the original. The manifest is written last: no manifest names the set of an interrupted backup, and the backup before
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

from ddwd.backup import archive, dumps
from ddwd.backup.archive import Dump, Manifest, Owned, Sum
from ddwd.config.paths import Paths
from ddwd.core import durable, safe_folder
from ddwd.core.clock import stamp
from ddwd.core.errors import InvalidValueError, NotFoundError, StateError, StorageFullError
from ddwd.provisioning import databases
from ddwd.provisioning.host import must

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ddwd.backup.archive import Progress, Tree, TreeFile
    from ddwd.config.schema import Config
    from ddwd.config.schema_network import NodeName
    from ddwd.core.clock import Clock
    from ddwd.provisioning.host import Host

_LOCK = ".lock"
_WORKING, _CUT = ".part", ".cut"
"""Suffixes of a set that is being written, and of an interrupted one whose files are all on disk."""
_OWN = frozenset({archive.MANIFEST, _LOCK, "lost+found"})
"""Files that the folder of a backup may contain beside its sets."""
_MARGIN = 64 * 1024**2
_LEDGER_TRIES = 5
_FIRST = ("ledger", "custody")


@dataclass(frozen=True, slots=True)
class Order:
    """What to back up: the target folder, the two files of the settings, which trees, and facts of this portal for the manifest."""

    folder: Path
    settings: tuple[Path, ...]
    images: bool
    output: bool
    portal: str
    host: str
    schemas: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Made:
    """A finished backup: `copied` bytes were written, the rest are hard links. With `same_volume` it is lost if this disk is lost.

    `left_out` names what a restore leaves out of the databases.
    """

    manifest: Manifest
    copied: int
    same_volume: bool
    left_out: tuple[str, ...]


def back_up(config: Config, order: Order, machine: Host, progress: Progress, clock: Clock) -> Made:
    """Make a backup; an earlier one stays until this one is complete.

    Raises InvalidValueError for an unsuitable folder, StorageFullError, PeerDownError and PeerRefusedError if a database cannot be
    dumped, and OSError.
    """
    assert_place(config, order.folder)
    _take_place(order.folder)
    with _locked(order.folder):
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
        self._copied = 0
        self._left_out: list[str] = []
        self._device = order.folder.stat().st_dev
        left_out = (set() if order.output else {"output"}) | (set() if order.images else archive.IMAGES)
        trees = archive.trees(Paths(config))
        self._trees = {name: tree for name, tree in trees.items() if name not in left_out}
        self._before = self._earlier()

    def run(self, clock: Clock) -> Made:
        """Write a set, then the manifest that names it."""
        began = stamp(clock.utc())
        name = re.sub("[-:.]", "", began)
        self._assert_space()
        working = self._order.folder / f"{name}{_WORKING}"
        working.mkdir(mode=0o700)
        try:
            configuration = self._copy_configuration(working / archive.CONFIGURATION)
            sums = {first: self._tree(self._trees[first], working) for first in _FIRST}
            dumps = {str(node): self._dump(node, working / archive.DATABASES) for node in archive.NODES}
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
            databases=dumps,
            trees=sums,
        )
        archive.write_manifest(self._order.folder, manifest)
        for folder in self._sets():
            if folder.name != name:
                shutil.rmtree(folder)
        is_same_volume = any(self._is_beside(tree) for tree in self._trees.values() if tree.linked)
        return Made(manifest, self._copied, is_same_volume, tuple(self._left_out))

    def _sets(self) -> list[Path]:
        return sorted(path for path in self._order.folder.iterdir() if archive.is_set(path.name))

    def _earlier(self) -> list[Path]:
        """Return the sets whose files can be linked: that of the backup before, and those of interrupted runs since.

        Removes all other sets: those of a power cut, whose files may be incomplete, and those that no manifest names.
        """
        try:
            named = archive.read_manifest(self._order.folder).set
        except NotFoundError:
            named = ""
        found = []
        for folder in self._sets():
            if folder.name == named or folder.suffix == _CUT:
                found.append(folder)
            else:
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
        if tree.linked and self._is_beside(tree):
            return 0
        found = archive.files(tree.folder)
        return sum(file.status.st_size for file in found if self._same_before(tree, file) is None)

    def _same_before(self, tree: Tree, found: TreeFile) -> Path | None:
        """Return the file of an earlier set that is the same as this one, or None."""
        for before in self._before:
            path = before / tree.name / found.below
            with suppress(OSError):
                status = path.lstat()
                same_time = tree.fixed or status.st_mtime_ns == found.status.st_mtime_ns
                if status.st_size == found.status.st_size and same_time:
                    return path
        return None

    def _copy_configuration(self, target: Path) -> tuple[Owned, ...]:
        """Copy each file of the settings, and each that they name, under its full path; return their owners and modes."""
        self._progress.step("settings, certificates and passwords", 0)
        paths = tuple(dict.fromkeys(configuration_files(self._config, self._order.settings)))
        for path in paths:
            copy = target / path.relative_to("/")
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("rb") as source:
                self._write(source.fileno(), copy)
        return tuple(map(_owned, paths))

    def _write(self, source: int, target: Path) -> int:
        """Copy the rest of an open file to a new one with the same times; return its bytes."""
        new = archive.opened(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with durable.translated(), new as descriptor:
            status = os.fstat(source)
            size = archive.copy(source, descriptor)
            os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
        self._copied += size
        return size

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
        dump = archive.digest(target)
        self._copied += dump.bytes
        return dump

    def _tree(self, tree: Tree, target: Path) -> Sum:
        found = self._copy_of(tree, target / tree.name)
        for _ in range(_LEDGER_TRIES):
            # the ledger may have begun its next segment during the copy
            if tree.name != "ledger" or not found.files or any((target / tree.name).glob("*.jsonl")):
                break
            shutil.rmtree(target / tree.name)
            found = self._copy_of(tree, target / tree.name)
        return found

    def _copy_of(self, tree: Tree, target: Path) -> Sum:
        self._progress.step(tree.words, 0)
        target.mkdir(mode=0o700)
        count, size, folder = 0, 0, target
        for found in archive.files(tree.folder):
            copy = target / found.below
            if copy.parent != folder:
                folder = copy.parent
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            moved = self._copy_file(tree, found, copy)
            if moved is not None:
                count, size = count + 1, size + moved
                self._progress.moved(moved)
        return Sum(count, size)

    def _copy_file(self, tree: Tree, found: TreeFile, target: Path) -> int | None:
        """Link or copy one file; return its bytes, or None if it was removed meanwhile."""
        before, name = self._same_before(tree, found), Path(found.below).name
        # another volume, too many links, a file system without links: the file is copied
        with suppress(OSError):
            if before is not None:
                os.link(before, target)
                return found.status.st_size
            if tree.linked:
                os.link(name, target, src_dir_fd=found.folder, follow_symlinks=False)
                return found.status.st_size
        try:
            source = os.open(name, safe_folder.FILE, dir_fd=found.folder)
        except FileNotFoundError:
            return None
        with os.fdopen(source) as file:
            is_file = stat.S_ISREG(os.fstat(source).st_mode)  # it was one a moment ago
            return self._write(file.fileno(), target) if is_file else None


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
