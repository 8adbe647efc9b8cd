"""Restore a backup to a machine where the portal is installed (`ddwd restore`). Run by root; backup.py made the backup.

The backup is checked before any change: the signature of the manifest, the SHA-256 of every file, and which data of
this machine would be lost. During the changes a marker file exists (Paths.restoring): with it `ddwd config check` fails, and so
ddwd.service does not start after half a restore. A second run begins again. OUTPUT_DIR is never emptied, and no file in it is replaced.

Users ddwd and ddwd-* can write to the folders and could plant links there: every step is by safe_folder.py.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.backup import archive, checking, dumps, files, seal
from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.core import durable, safe_folder
from ddwd.core.errors import DdwdError, InvalidValueError, StateError, StorageFullError
from ddwd.provisioning import databases
from ddwd.provisioning.database_setup import ensure_databases
from ddwd.provisioning.host import must

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ddwd.backup.archive import Manifest, Sum, Tree
    from ddwd.backup.files import Progress
    from ddwd.backup.seal import Trust
    from ddwd.config.schema import Config, NodeName
    from ddwd.provisioning.host import Host

_UNITS = ("ddwd-doctor.timer", "ddwd-doctor.service", "ddwd.service")
CHAIN = frozenset({*archive.CHAIN_PARTS, "signer"})
"""Trees of the chain: never gone back to an earlier state of it, which would look as if somebody had rewritten it."""


@dataclass(frozen=True, slots=True)
class CompleteBackup:
    """A complete backup: its folder, its manifest, and the settings in it."""

    folder: Path
    manifest: Manifest
    config: Config

    @property
    def set(self) -> Path:
        """Folder with the files."""
        return self.folder / self.manifest.set

    def dump(self, node: NodeName) -> Path:
        """Return the dump of that Orthanc's database."""
        return self.set / archive.DATABASES / f"{node}.dump"

    def copy_of(self, path: str) -> Path:
        """Return the copy of a file of the configuration."""
        return self.set / archive.CONFIGURATION / path[1:]


# --- checking ---------------------------------------------------------------------------------------------------------


def open_backup(folder: Path, portal: str, schemas: Mapping[str, int], trust: Trust) -> CompleteBackup:
    """Return a backup that this version of the portal can restore.

    Raises NotFoundError if there is no finished one, StateError for one of a newer version or that no trusted key has signed,
    ConfigError for its settings.
    """
    manifest = seal.read(folder, trust)
    newer = [name for name, number in manifest.schemas.items() if number > schemas.get(name, 0)]
    if newer or _numbers(manifest.portal) > _numbers(portal):
        raise StateError(
            f"{folder}: the backup is of ddwd {manifest.portal}, and this is {portal}: install that version here first"
        )
    copies = folder / manifest.set / archive.CONFIGURATION
    yaml, defaults = (copies / path[1:] for path in manifest.settings)
    config = load(yaml if yaml.exists() else Path(os.devnull), {"DDWD_DEFAULTS": str(defaults)})
    return CompleteBackup(folder, manifest, config)


def _numbers(version: str) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in version.split(".")]


def problems(backup: CompleteBackup, progress: Progress) -> list[str]:
    """Return a line for each file of the backup that is not as it was written."""
    trees = archive.trees(Paths(backup.config))
    return list(checking.problems(backup.set, backup.manifest, trees, progress))


def assert_whole(backup: CompleteBackup, progress: Progress) -> None:
    """Raise StateError, which names the first file that is not as it was written."""
    if found := problems(backup, progress):
        others = f", and {len(found) - 1} more, which --dry-run names" if found[1:] else ""
        raise StateError(f"{backup.set}: the backup is damaged: {found[0]}{others}; nothing was restored")


def would_be_lost(backup: CompleteBackup) -> list[tuple[str, Sum]]:
    """Return the trees of this machine that a restore would remove; empty if an earlier restore was not finished."""
    return [] if Paths(backup.config).restoring.exists() else _here(backup)


def _here(backup: CompleteBackup) -> list[tuple[str, Sum]]:
    """Return the trees that a restore empties, by their names in messages, each with its files and bytes."""
    left_out = {"output", "ledger", *CHAIN} | (set() if backup.manifest.has_images else archive.IMAGES)
    found = [
        (tree.words, archive.measure(tree.folder, tree.left_out))
        for name, tree in archive.trees(Paths(backup.config)).items()
        if name not in left_out
    ]
    return [(words, size) for words, size in found if size.files]


def assert_possible(backup: CompleteBackup) -> None:
    """Check that this machine can take the backup. Raises InvalidValueError, StateError, DdwdError and StorageFullError."""
    config, manifest = backup.config, backup.manifest
    if config.database.engine != "postgresql":
        raise StateError("the backup is of a portal without PostgreSQL; it cannot be restored")
    output = config.output_dir
    if not output.is_relative_to(config.data_dir) and not output.is_dir():
        raise DdwdError(
            f"{output}, the output_dir of the backup, does not exist here; mount it, or: install -d -o ddwd -g ddwd -m 0750 {output}"
        )
    for tree in archive.trees(Paths(config)).values():
        if Path(os.path.realpath(backup.folder)).is_relative_to(os.path.realpath(tree.folder)):
            raise InvalidValueError(
                f"{backup.folder} is inside {tree.folder}, which the restore empties; move it elsewhere"
            )
    _assert_images_are_here(backup)
    free = shutil.disk_usage(config.data_dir).free + sum(size.bytes for _, size in _here(backup))
    needed = manifest.bytes - manifest.trees.get("output", archive.Sum()).bytes
    if needed > free:
        sizes = f"{archive.as_written(needed)} are needed, {archive.as_written(free)} free"
        raise StorageFullError(f"{config.data_dir}: {sizes}; no file was changed")


def _assert_images_are_here(backup: CompleteBackup) -> None:
    """Check that the operator has already restored the storage areas (from a snapshot) if the backup has no images."""
    if backup.manifest.has_images:
        return
    for node in archive.NODES:
        area = Paths(backup.config).storage_area(node)
        if next(files.files(area), None) is None:
            raise StateError(
                f"the backup was made with --without-images, and {area} is empty: restore its files first (from your snapshot)"
            )


def left_out(backup: CompleteBackup, machine: Host) -> list[str]:
    """Return what a restore leaves out of both databases, because Orthanc does not make it. Raises as dumps.contents."""
    found = []
    for node in archive.NODES:
        inside = dumps.contents(backup.dump(node), databases.login(backup.config, node), machine)
        found += [f"{backup.config.database.name_for(node)}: {entry}" for entry in inside.left_out]
    return found


# --- restoring --------------------------------------------------------------------------------------------------------


def restore(backup: CompleteBackup, machine: Host, progress: Progress) -> None:
    """Stop the portal and restore all parts of the backup; the caller starts the portal.

    Raises PeerDownError and PeerRefusedError (PostgreSQL, systemd), StorageFullError, LinkedError and OSError; the marker file
    stays then.
    """
    progress.step("stopping the portal", 0)
    must(machine.pipe(["systemctl", "stop", *_UNITS]), "systemctl stop ddwd")
    marker = Paths(backup.config).restoring
    durable.replace_file(marker, f"{backup.folder}\n".encode(), 0o644)
    _put_configuration(backup, machine, progress)
    keeps_chain = _has_its_chain(backup)
    for tree in archive.trees(Paths(backup.config)).values():
        if not (keeps_chain and tree.name in CHAIN):
            _put_tree(backup, tree, machine, progress)
    _drop_requests(Paths(backup.config).requests)
    for node in archive.NODES:
        _put_database(backup, node, machine, progress)
    os.sync()
    durable.unlink(marker)
    durable.fsync_dir(marker.parent)


def _drop_requests(folder: Path) -> None:
    """Remove what operators requested for the data that was here before; user ddwd may have put anything there."""
    with suppress(FileNotFoundError), _entered(folder) as descriptor:
        with os.scandir(descriptor) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if name.endswith(".json"):
                with suppress(FileNotFoundError, IsADirectoryError):
                    os.unlink(name, dir_fd=descriptor)


def _has_its_chain(backup: CompleteBackup) -> bool:
    """Return whether this machine has the chain of the backup, which has grown since, or the backup has none: the one here goes on."""
    copy = backup.set / "signer" / "key.pem"
    if not copy.is_file():
        return True
    with suppress(FileNotFoundError):
        return safe_folder.read(Paths(backup.config).signer_key) == copy.read_bytes()
    return False


def _put_configuration(backup: CompleteBackup, machine: Host, progress: Progress) -> None:
    """Restore every file of the configuration, and remove files of settings that the backup does not have."""
    progress.step("settings, certificates and passwords", 0)
    for owned in backup.manifest.folders:
        path = Path(owned.path)
        durable.make_dirs(path, 0o700)
        machine.give(path, owned.user, owned.group, owned.mode)
    for owned in backup.manifest.configuration:
        path = Path(owned.path)
        durable.make_dirs(path.parent, 0o755)
        durable.replace_file(path, backup.copy_of(owned.path).read_bytes(), 0o600)
        machine.give(path, owned.user, owned.group, owned.mode)
    here = {Path(path) for path in backup.manifest.settings}
    for node in archive.NODES:
        here.update(Paths(backup.config).additions(node).glob("*.json"))
    for path in here - {Path(owned.path) for owned in backup.manifest.configuration}:
        durable.unlink(path)


def _put_tree(backup: CompleteBackup, tree: Tree, machine: Host, progress: Progress) -> None:
    """Restore the files of one tree. Its present files are removed first, except OUTPUT_DIR and images that the backup does not have."""
    size = backup.manifest.trees.get(tree.name)
    if tree.name == "output" and size is None:
        return
    durable.make_dirs(tree.folder, tree.folder_mode)
    with _entered(tree.folder) as target:
        machine.give(target, tree.user, tree.group, tree.folder_mode)
        owners = _Owners(tree, target)
        if size is None and tree.name in archive.IMAGES:
            _own_again(tree, owners)
            return
        if tree.name != "output":
            _empty(target, tree.left_out)
        if size is not None:
            progress.step(tree.words, size.bytes)
            with files.opened(backup.set / tree.name, safe_folder.FOLDER) as source:
                _put(source, target, owners, progress)


@contextmanager
def _entered(folder: Path) -> Iterator[int]:
    """Yield a descriptor of a folder. It may be a link where no other user could have put it; otherwise LinkedError is raised."""
    descriptor = safe_folder.enter(folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _empty(folder: int, left_out: frozenset[str]) -> None:
    """Remove the contents of an open folder but the names `left_out`, without following a link."""
    with os.scandir(folder) as entries:
        inner = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        inner = [(name, is_folder) for name, is_folder in inner if name not in left_out]
    for name, is_folder in inner:
        if is_folder:
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)


class _Owners:
    """Set owner, group and mode of new files and folders of a tree, by their open descriptors."""

    def __init__(self, tree: Tree, folder: int) -> None:
        self._tree = tree
        status = os.fstat(folder)  # Host.give has just set them
        self._ids = status.st_uid, status.st_gid

    def own(self, descriptor: int, *, is_folder: bool = False) -> None:
        """Set owner, group and mode of a file or folder."""
        os.fchown(descriptor, *self._ids)
        os.fchmod(descriptor, self._tree.folder_mode if is_folder else self._tree.file_mode)


def _put(source: int, target: int, owners: _Owners, progress: Progress) -> None:
    """Copy everything below one open folder into another; an existing file stays."""
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            with suppress(FileExistsError):
                os.mkdir(entry.name, 0o700, dir_fd=target)
            with (
                files.opened(entry.name, safe_folder.FOLDER, folder=source) as old,
                files.opened(entry.name, safe_folder.FOLDER, folder=target) as new,
            ):
                owners.own(new, is_folder=True)
                _put(old, new, owners, progress)
        elif entry.is_file(follow_symlinks=False):
            progress.moved(_put_file(entry.name, source, target, owners))


def _put_file(name: str, source: int, target: int, owners: _Owners) -> int:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    with (
        suppress(FileExistsError),
        files.opened(name, durable.NEW, 0o600, folder=target) as new,
        files.opened(name, os.O_RDONLY | os.O_NOFOLLOW, folder=source) as old,
    ):
        files.copy(old, new)
        owners.own(new)
        os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    return status.st_size


def _own_again(tree: Tree, owners: _Owners) -> None:
    """Set the owner of files that the operator has restored: the numbers of users differ between machines."""
    for found in files.files(tree.folder):
        name = Path(found.below).name
        with files.opened(name, os.O_RDONLY | os.O_NOFOLLOW, folder=found.folder) as descriptor:
            owners.own(descriptor)
            owners.own(found.folder, is_folder=True)


def _put_database(backup: CompleteBackup, node: NodeName, machine: Host, progress: Progress) -> None:
    """Restore what Orthanc made in its database, as its own role and in one transaction.

    On the local server the database is dropped and created first, which alone takes the superuser.
    """
    database, name = backup.config.database, backup.config.database.name_for(node)
    progress.step(f"database {name}", 0)
    login = databases.login(backup.config, node)
    argv = ["pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"]
    wanted = dumps.contents(backup.dump(node), login, machine).wanted
    if database.is_local:
        superuser = databases.superuser(backup.config)
        drop = f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'
        must(machine.pipe(superuser.psql(drop), superuser), "PostgreSQL")
    else:
        argv += ["--clean", "--if-exists"]
    ensure_databases(backup.config, machine)
    with backup.dump(node).open("rb") as file, dumps.listed(wanted) as (option, inherited):
        argv += [option, *login.options, "-d", login.name]
        answer = machine.pipe(argv, login, stdin=file, inherited=inherited)
        must(answer, f"pg_restore of {name}")
