"""Define the format of a backup: its folder, its manifest and its trees. Written by backup.py, read by restore.py.

A backup folder holds one folder for each copy (a set), and manifest.json, which names the one complete set. Only root may read it: it
holds patient data, keys and passwords.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ddwd.config.paths import PRIVATE, Paths
from ddwd.core import durable, safe_folder
from ddwd.core.errors import NotFoundError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ddwd.config.schema import NodeName

SCHEMA = 1
MANIFEST = "manifest.json"
CONFIGURATION = "configuration"
DATABASES = "databases"
NODES: tuple[NodeName, ...] = ("storage", "gateway")
"""In the order in which they are copied: an image in ORTHANC2 was in ORTHANC1 before."""
IMAGES = frozenset(NODES)
"""The trees of the two storage areas."""
_SET = re.compile(r"[0-9]{8}T[0-9]{9}Z")
_CHUNK = 1024**2
_PARTIAL = ".part"
"""Suffix of the portal's files while they are being written."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder of the portal, with the owner, group and modes of it and its files. A file of a `fixed` tree never changes.

    The files of a `linked` tree belong to an Orthanc, which never writes into an existing one: on the same volume a hard link is
    a copy.
    """

    name: str
    words: str
    folder: Path
    user: str
    group: str
    folder_mode: int = 0o750
    file_mode: int = 0o640
    fixed: bool = False
    linked: bool = False


def trees(paths: Paths) -> dict[str, Tree]:
    """Return every folder that a backup may contain, in the order in which they are copied."""
    aets = {"storage": paths.config.storage.aet, "gateway": paths.config.gateway.aet}
    # studies reported to hooks before the records, and those still to report after them, so that none is missing in both
    found = [
        Tree("hooks-told", "studies that hooks know", paths.hooks / "told", "ddwd-hooks", "ddwd", 0o2750),
        Tree("ledger", "ledger segments", paths.ledger, "ddwd", "ddwd"),
        Tree("custody", "custody records", paths.custody, "ddwd", "ddwd"),
        Tree("hooks-waiting", "notices for hooks", paths.hooks / "waiting", "ddwd-hooks", "ddwd", 0o2770),
    ]
    for node in NODES:
        user = f"ddwd-{node}"
        area, words = paths.storage_area(node), f"files of {aets[node]}"
        found.append(Tree(node, words, area, user, user, 0o700, 0o600, fixed=True, linked=True))
    for node in NODES:
        words, aside = f"conflicts at {aets[node]}", paths.conflicts(node)
        found.append(Tree(f"conflicts-{node}", words, aside, "ddwd", f"ddwd-{node}", 0o770, 0o644))
    found.append(Tree("quarantine", "files in quarantine", paths.quarantine, "ddwd", "ddwd"))
    found.append(Tree("output", "published files", paths.output, "ddwd", "ddwd", fixed=True))
    return {tree.name: tree for tree in found}


# --- the manifest -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sum:
    """A number of files and their bytes."""

    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Dump:
    """Size and SHA-256 of the dump of one database by pg_dump."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Owned:
    """A file or folder of the configuration, with its owner and group by name: their numbers differ between machines."""

    path: str
    user: str
    group: str
    mode: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Description of a complete backup.

    `schemas` are the schema versions of the state files, `settings` the two files of the settings, `set` the folder in the backup.
    """

    portal: str
    host: str
    began: str
    ended: str
    set: str
    schemas: Mapping[str, int]
    settings: tuple[str, ...]
    databases: Mapping[str, Dump]
    trees: Mapping[str, Sum]
    configuration: tuple[Owned, ...] = field(repr=False)
    folders: tuple[Owned, ...] = field(repr=False)
    schema: int = SCHEMA

    @property
    def has_images(self) -> bool:
        """Whether the backup contains the storage areas of both Orthancs."""
        return self.trees.keys() >= IMAGES

    @property
    def bytes(self) -> int:
        """Bytes of all databases and trees, without the configuration."""
        dumps, trees = self.databases.values(), self.trees.values()
        return sum(dump.bytes for dump in dumps) + sum(tree.bytes for tree in trees)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest in one step, which makes this backup the current one."""
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=True)
    durable.replace_file(folder / MANIFEST, text.encode("ascii") + b"\n", 0o600)


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a backup. Raises NotFoundError if there is no complete backup, StateError if it cannot be used."""
    path = folder / MANIFEST
    try:
        body = json.loads(path.read_bytes())
        if body["schema"] != SCHEMA:
            raise StateError(f"{path}: schema {body['schema']}, this version reads {SCHEMA}")
        return _manifest(body)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{folder}: it holds no finished backup ({MANIFEST} does not exist)") from None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}; only root may read a backup") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{path}: the manifest is damaged ({type(error).__name__})") from error


def _manifest(body: dict[str, Any]) -> Manifest:
    """Return the manifest of its JSON body. Raises KeyError, TypeError, ValueError and AttributeError for any other body."""
    if not _SET.fullmatch(body["set"]):
        raise ValueError
    return Manifest(
        portal=str(body["portal"]),
        host=str(body["host"]),
        began=str(body["began"]),
        ended=str(body["ended"]),
        set=body["set"],
        schemas={str(key): int(value) for key, value in body["schemas"].items()},
        settings=tuple(map(str, body["settings"])),
        databases={node: Dump(**body["databases"][node]) for node in NODES},
        trees={str(key): Sum(**value) for key, value in body["trees"].items()},
        configuration=tuple(Owned(**row) for row in body["configuration"]),
        folders=tuple(Owned(**row) for row in body["folders"]),
    )


def is_set(name: str) -> bool:
    """Return whether this is the name of a set, finished or not."""
    return _SET.fullmatch(name.partition(".")[0]) is not None


# --- files ------------------------------------------------------------------------------------------------------------


class Progress(Protocol):
    """Receives the progress of each step, for a terminal."""

    def step(self, words: str, total: int) -> None:
        """Begin a step of `total` bytes; 0 if the size is unknown."""

    def moved(self, amount: int) -> None:
        """Count `amount` more bytes as done."""


class TreeFile(NamedTuple):
    """A regular file of a tree: its path below the tree, the open descriptor of its folder, and its status."""

    below: str
    folder: int
    status: os.stat_result


def files(folder: Path) -> Iterator[TreeFile]:
    """Yield every regular file below a folder, which may change meanwhile; skip links and files that are still being written.

    The folder itself may be a link where no other user could have put it, for example to a larger volume; otherwise LinkedError is raised.
    Raises OSError for a folder that cannot be read; a file or folder that is missing is no error.
    """
    try:
        top = safe_folder.enter(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        for root, folders, names, descriptor in os.fwalk(".", dir_fd=top, onerror=_unless_gone):
            below = root[2:] and f"{root[2:]}/"
            if not below and PRIVATE in folders:
                folders.remove(PRIVATE)
            for name in names:
                if name.startswith(".") and name.endswith(_PARTIAL):
                    continue
                try:
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield TreeFile(below + name, descriptor, status)
    finally:
        os.close(top)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


@contextmanager
def opened(path: str | Path, flags: int, mode: int = 0o777, *, folder: int | None = None) -> Iterator[int]:
    """Yield a descriptor of a file or folder, relative to the open `folder` if given. Raises OSError."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def measure(folder: Path) -> Sum:
    """Return the number of files below a folder and their total size."""
    sizes = [file.status.st_size for file in files(folder)]
    return Sum(len(sizes), sum(sizes))


def copy(source: int, target: int) -> int:
    """Copy the rest of one open file to another; return the size of the target. Raises StorageFullError."""
    with (
        durable.translated(),
        open(source, "rb", closefd=False) as old,
        open(target, "wb", closefd=False) as new,
    ):
        shutil.copyfileobj(old, new, _CHUNK)
        return new.tell()


def digest(path: Path) -> Dump:
    """Return the size and SHA-256 of a file."""
    with path.open("rb") as file:
        return Dump(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def as_written(size: int) -> str:
    """Return a number of bytes in the form that messages show."""
    for unit, factor in (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1024:.0f} KiB"
