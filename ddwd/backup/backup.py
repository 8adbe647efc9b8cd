"""`ddwd backup`: a copy of all that the portal cannot do without, taken while it runs; restore.py brings it back.

The order is what makes it consistent. The ledger and the custody records come first, then ORTHANC2's database, then ORTHANC1's, then
the files of both. So no record speaks of an image, and ORTHANC2 of none, that a database copied later lacks, and no database of a
file that is not in the copy (but for what was deleted meanwhile). What came later is a gap of the kind that the extractor closes.

A file that is as it was in the backup before becomes a further name of that one; an Orthanc's own file too, on the same volume. The
manifest is written last: a backup that was broken off is in a set that no manifest names, and the one before stays whole.
"""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import re
import shutil
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.backup import archive
from ddwd.backup.archive import Dump, Manifest, Owned, Sum
from ddwd.config.paths import Paths
from ddwd.core import durable
from ddwd.core.clock import stamp
from ddwd.core.errors import InvalidValueError, NotFoundError, StateError, StorageFullError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ddwd.backup.archive import Found, Machine, Progress, Tree
    from ddwd.config.loader import Config, NodeName
    from ddwd.core.clock import Clock

_LOCK = ".lock"
_WORKING, _CUT = ".part", ".cut"
"""Suffixes of a set that is being written, and of one that was broken off with all that it holds on disk."""
_NOT_OURS = frozenset({archive.MANIFEST, _LOCK, "lost+found"})
_MARGIN = 64 * 1024**2
_LEDGER_TRIES = 5
_FIRST = ("ledger", "custody")


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted: where to, the two files of the settings, which trees, and what the manifest tells of this portal."""

    folder: Path
    settings: tuple[Path, ...]
    images: bool
    output: bool
    portal: str
    host: str
    schemas: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Made:
    """A finished backup; `copied` bytes were written, the rest was there already. `same_volume`: it does not outlive the disk."""

    manifest: Manifest
    copied: int
    same_volume: bool


def back_up(config: Config, order: Order, machine: Machine, progress: Progress, clock: Clock) -> Made:
    """Take a backup; the one before, if any, stays until this one is whole.

    Raises InvalidValueError for a DIR that cannot be one, StorageFullError, PeerDownError and PeerRefusedError for a database that
    cannot be dumped, OSError.
    """
    assert_place(config, order.folder)
    _take_place(order.folder)
    with _locked(order.folder):
        return _Backup(config, order, machine, progress).run(clock)


def assert_place(config: Config, folder: Path) -> None:
    """Raises InvalidValueError for a DIR in which a backup would back up itself, or be taken for the portal's own."""
    place = Path(os.path.realpath(folder))
    own = [
        config.data_dir,
        config.output_dir,
        config.credentials_file.parent,
        config.run_dir,
        config.tls.folder,
    ]
    for one in (*own, *Paths(config).database_area()):
        real = Path(os.path.realpath(one))
        if place.is_relative_to(real):
            raise InvalidValueError(
                f"{folder} lies in {one}, which is to be backed up; take a folder elsewhere"
            )
        if real.is_relative_to(place):
            raise InvalidValueError(f"{one} lies in {folder}; take a folder of its own for the backup")


def _take_place(folder: Path) -> None:
    """Make the folder, or take one that is empty or holds a backup, and close it to everyone but root."""
    if not folder.parent.is_dir():
        raise NotFoundError(f"{folder.parent} does not exist; make it, or mount the volume for backups there")
    folder.mkdir(mode=0o700, exist_ok=True)
    others = sorted(
        one.name for one in folder.iterdir() if one.name not in _NOT_OURS and not archive.is_set(one.name)
    )
    if others:
        raise InvalidValueError(
            f"{folder} holds other things ({others[0]}); give the backup a folder of its own"
        )
    with suppress(PermissionError):
        folder.chmod(0o700)
    if stat.S_IMODE(folder.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        raise StateError(
            f"{folder} cannot be closed to other users, and keys and passwords come into it; take a volume with owners and modes"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / _LOCK).open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{folder}: another backup is being written there") from None
        yield


class _Backup:
    """One run."""

    def __init__(self, config: Config, order: Order, machine: Machine, progress: Progress) -> None:
        self._config = config
        self._order = order
        self._machine = machine
        self._progress = progress
        self._copied = 0
        self._device = order.folder.stat().st_dev
        wanted = archive.trees(Paths(config))
        left_out = set() if order.output else {"output"}
        left_out |= set() if order.images else archive.IMAGES
        self._trees = {name: tree for name, tree in wanted.items() if name not in left_out}
        self._before = self._earlier()

    def run(self, clock: Clock) -> Made:
        """Fill a set, then name it."""
        began = stamp(clock.utc())
        name = re.sub("[-:.]", "", began)
        self._assert_room()
        working = self._order.folder / f"{name}{_WORKING}"
        working.mkdir(mode=0o700)
        try:
            parts = self._fill(working)
            os.sync()
        except BaseException:
            os.sync()  # what is on disk by now need not be copied again
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
            configuration=parts.configuration,
            folders=tuple(map(_owned, configuration_folders(self._config))),
            databases=parts.databases,
            trees=parts.trees,
        )
        archive.write_manifest(self._order.folder, manifest)
        for one in self._sets():
            if one.name != name:
                shutil.rmtree(one)
        return Made(manifest, self._copied, self._is_same_volume())

    def _sets(self) -> list[Path]:
        return sorted(one for one in self._order.folder.iterdir() if archive.is_set(one.name))

    def _earlier(self) -> list[Path]:
        """The sets that hold files to be named again: of the backup before, and of runs that were broken off since.

        What a power cut left may be torn, and is removed; so is what no manifest names.
        """
        try:
            named = archive.read_manifest(self._order.folder).set
        except NotFoundError:
            named = ""
        found = []
        for one in self._sets():
            if one.name == named or one.suffix == _CUT:
                found.append(one)
            else:
                shutil.rmtree(one)
        return found

    def _is_same_volume(self) -> bool:
        return any(self._is_beside(tree) for tree in self._trees.values() if tree.linked)

    def _is_beside(self, tree: Tree) -> bool:
        return tree.folder.is_dir() and tree.folder.stat().st_dev == self._device

    # --- room ---------------------------------------------------------------------------------------------------------

    def _assert_room(self) -> None:
        """Before anything is written: does it fit."""
        self._progress.step("looking what there is to copy", 0)
        needed = sum(self._to_copy(tree) for tree in self._trees.values())
        for node in archive.NODES:
            size = archive.ask(
                self._config, node, "SELECT pg_database_size(current_database())", self._machine
            )
            needed += int(size or 0)
        free = shutil.disk_usage(self._order.folder).free
        if needed + _MARGIN > free:
            sizes = f"{archive.as_written(needed)} are needed, {archive.as_written(free)} free"
            raise StorageFullError(f"{self._order.folder}: {sizes}; nothing was copied")

    def _to_copy(self, tree: Tree) -> int:
        if tree.linked and self._is_beside(tree):
            return 0
        return sum(
            one.status.st_size for one in archive.files(tree.folder) if self._same_before(tree, one) is None
        )

    def _same_before(self, tree: Tree, found: Found) -> Path | None:
        """The file of an earlier set that is this one still."""
        for before in self._before:
            path = before / tree.name / found.below
            try:
                status = path.lstat()
            except OSError:
                continue
            same_time = tree.fixed or status.st_mtime_ns == found.status.st_mtime_ns
            if status.st_size == found.status.st_size and same_time:
                return path
        return None

    # --- filling ------------------------------------------------------------------------------------------------------

    def _fill(self, target: Path) -> _Parts:
        self._progress.step("settings, certificates and passwords", 0)
        configuration = tuple(self._configuration(target / archive.CONFIGURATION))
        sums = {name: self._tree(self._trees[name], target) for name in _FIRST}
        databases = {str(node): self._dump(node, target / archive.DATABASES) for node in archive.NODES}
        sums |= {name: self._tree(tree, target) for name, tree in self._trees.items() if name not in _FIRST}
        return _Parts(configuration, databases, sums)

    def _configuration(self, target: Path) -> Iterator[Owned]:
        """Each file that the settings stand in or name, under its full path."""
        for path in dict.fromkeys(configuration_files(self._config, self._order.settings)):
            self._take(path, target / path.relative_to("/"))
            yield _owned(path)

    def _take(self, path: Path, target: Path) -> None:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("rb") as source:
            self._write(source.fileno(), target)

    def _write(self, source: int, target: Path) -> int:
        """The rest of an open file as a new one with its time; its bytes."""
        with durable.translated():
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            status = os.fstat(source)
            size = archive.copy(source, descriptor)
            os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(descriptor)
        self._copied += size
        return size

    def _dump(self, node: NodeName, folder: Path) -> Dump:
        """One database, as it was at one moment."""
        folder.mkdir(mode=0o700, exist_ok=True)
        target = folder / f"{node}.dump"
        name = self._config.database.name_for(node)
        self._progress.step(f"database {name}", 0)
        how = archive.login(self._config, node)
        argv = ["pg_dump", "--format=custom", *how.options, "-d", how.name]
        answer = self._machine.pipe(argv, user=how.user, env=how.env, target=target)
        archive.must(answer, f"pg_dump of {name}")
        dump = archive.digest(target)
        self._copied += dump.bytes
        return dump

    def _tree(self, tree: Tree, target: Path) -> Sum:
        found = self._copy_of(tree, target / tree.name)
        for _ in range(_LEDGER_TRIES):
            # it may have gone on to its next segment while it was copied
            if tree.name != "ledger" or not found.files or any((target / tree.name).glob("*.jsonl")):
                break
            shutil.rmtree(target / tree.name)
            found = self._copy_of(tree, target / tree.name)
        return found

    def _copy_of(self, tree: Tree, target: Path) -> Sum:
        self._progress.step(tree.words, 0)
        target.mkdir(mode=0o700)
        count, size, folder = 0, 0, ""
        for found in archive.files(tree.folder):
            inner = found.below.rpartition("/")[0]
            if inner != folder:
                (target / inner).mkdir(mode=0o700, parents=True, exist_ok=True)
                folder = inner
            taken = self._one(tree, found, target / found.below)
            if taken is not None:
                count, size = count + 1, size + taken
                self._progress.moved(taken)
        return Sum(count, size)

    def _one(self, tree: Tree, found: Found, target: Path) -> int | None:
        """A file as a further name of one that there is, or as a copy; its bytes, None where it has gone meanwhile."""
        before = self._same_before(tree, found)
        with suppress(OSError):  # another volume, too many names, a file system without: then it is copied
            if before is not None:
                os.link(before, target)
                return found.status.st_size
            if tree.linked:
                os.link(found.name, target, src_dir_fd=found.folder, follow_symlinks=False)
                return found.status.st_size
        try:
            source = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=found.folder)
        except FileNotFoundError:
            return None
        try:
            return self._write(source, target)
        finally:
            os.close(source)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a filled set holds."""

    configuration: tuple[Owned, ...]
    databases: dict[str, Dump]
    trees: dict[str, Sum]


def configuration_files(config: Config, settings: Iterable[Path]) -> Iterator[Path]:
    """Every file that the settings stand in or name: passwords, additions to the Orthancs, certificates and keys."""
    named = [config.tls.gateway_certificate, config.tls.gateway_key, config.tls.senders_ca]
    named += [config.audit.ca, config.audit.certificate, config.audit.key]
    named += [config.database.password_file, config.ledger.password_file]
    yield from (path for path in settings if path.is_file())
    for folder in configuration_folders(config):
        yield from (path for path in sorted(folder.iterdir()) if path.is_file())
    yield from (path for path in named if path is not None and path.is_file())


def configuration_folders(config: Config) -> Iterator[Path]:
    """The folders of the settings and keys, with all below them, from above."""
    for folder in dict.fromkeys([config.credentials_file.parent, config.tls.folder, config.link.folder]):
        if folder.is_dir():
            yield from (folder, *(path for path in sorted(folder.rglob("*")) if path.is_dir()))


def _owned(path: Path) -> Owned:
    status = path.stat()
    return Owned(str(path), _user(status.st_uid), _group(status.st_gid), stat.S_IMODE(status.st_mode))


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return "root"


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return "root"
