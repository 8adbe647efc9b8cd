"""What a backup is: its folder, its manifest, the trees in it. Written by backup.py, read by restore.py; no decision is taken here.

A backup DIR holds one folder for each copy (a set) and manifest.json, which names the one set that is whole. It is for root alone:
patient data, keys and passwords lie in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ddwd.config.paths import PRIVATE, Paths
from ddwd.core import durable
from ddwd.core.errors import LinkedError, NotFoundError, PeerDownError, PeerRefusedError, StateError
from ddwd.provisioning import databases
from ddwd.provisioning.provision import CommandResult, Host, SystemHost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ddwd.config.loader import Config, NodeName

SCHEMA = 1
MANIFEST = "manifest.json"
CONFIGURATION = "configuration"
DATABASES = "databases"
NODES: tuple[NodeName, ...] = ("storage", "gateway")
"""In the order in which they are copied: what ORTHANC2 has, ORTHANC1 had before."""
IMAGES = frozenset(NODES)
"""The trees of the two storage areas."""
_SET = re.compile(r"[0-9]{8}T[0-9]{9}Z")
_CHUNK = 1024**2
_TORN = ".part"
"""How files of ours are called while they are being written."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder of the portal, and whose it and its files are; a file of a `fixed` tree never changes once it is there.

    A `linked` one is an Orthanc's own: nobody writes into it, so a copy on the same volume can be a further name.
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
    """Every folder that a backup may carry, in the order in which they are copied."""
    aets = {"storage": paths.config.storage.aet, "gateway": paths.config.gateway.aet}
    # what hooks were told before the records, what they still are to be told after: so that none is left out
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
    """Files, and the bytes in them."""

    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Dump:
    """One database as pg_dump wrote it, and its SHA-256."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Owned:
    """One file or folder of the configuration, with its owner by name: numbers differ from machine to machine."""

    path: str
    user: str
    group: str
    mode: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a whole backup says of itself.

    `schemas` are those of the state files, `settings` the two files that the settings stand in, `set` the folder in the backup.
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
        """Whether the storage areas of both Orthancs are in it."""
        return self.trees.keys() >= IMAGES

    @property
    def bytes(self) -> int:
        """All that it takes, but for the configuration."""
        return sum(one.bytes for one in self.databases.values()) + sum(
            one.bytes for one in self.trees.values()
        )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put it in place in one step: from now on this backup is the one."""
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=True)
    durable.replace_file(folder / MANIFEST, text.encode("ascii") + b"\n", 0o600)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup. Raises NotFoundError where there is no whole one, StateError where it cannot be used."""
    path = folder / MANIFEST
    try:
        body = json.loads(path.read_bytes())
        if body["schema"] != SCHEMA:
            raise StateError(f"{path}: schema {body['schema']}, this version reads {SCHEMA}")
        return _manifest(body)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"{folder}: there is no finished backup in it ({MANIFEST} is not there)"
        ) from None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}; a backup is for root alone") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{path}: the manifest is damaged ({type(error).__name__})") from error


def _manifest(body: dict[str, Any]) -> Manifest:
    """Raises KeyError, TypeError, ValueError and AttributeError for what is none."""
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
    """Whether that is how a set is called, a finished one or not."""
    return _SET.fullmatch(name.partition(".")[0]) is not None


# --- the machine ------------------------------------------------------------------------------------------------------


class Machine(Host, Protocol):
    """What is needed of the machine; tests put their own behind it."""

    def pipe(
        self,
        argv: list[str],
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        source: Path | None = None,
        target: Path | None = None,
    ) -> CommandResult:
        """Run a command to its end, however long it takes, from a file and to a new one."""


class SystemMachine(SystemHost):
    """The machine itself."""

    def pipe(
        self,
        argv: list[str],
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        source: Path | None = None,
        target: Path | None = None,
    ) -> CommandResult:
        """Run a command from and to a file; one that cannot be started answers with status 127."""
        drop = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        with _opened(source, target) as (stdin, stdout):
            try:
                done = subprocess.run(
                    argv,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=subprocess.PIPE,
                    check=False,
                    cwd="/",
                    env={**os.environ, **(env or {})},
                    **drop,  # type: ignore[call-overload] # the three arguments that drop privileges
                )
            except (OSError, KeyError) as error:
                return CommandResult(127, "", str(error))
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return CommandResult(done.returncode, "", lines[-1] if lines else "")


@contextmanager
def _opened(source: Path | None, target: Path | None) -> Iterator[tuple[int, int]]:
    stdin = os.open(source or os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        flags = os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if target else 0)
        stdout = os.open(target or os.devnull, flags, 0o600)
        try:
            yield stdin, stdout
        finally:
            os.close(stdout)
    finally:
        os.close(stdin)


class Login(NamedTuple):
    """How a client of PostgreSQL is run for one database: its options, as which user, with what in the environment."""

    options: list[str]
    user: str | None
    env: Mapping[str, str]
    name: str
    """What it is given as the database: its name, or for a server elsewhere its URI."""


def login(config: Config, node: NodeName) -> Login:
    """The superuser by the Unix socket, or the role of that Orthanc on a server elsewhere."""
    database = config.database
    if database.is_local:
        return Login(["-p", str(database.port)], "postgres", {}, database.name_for(node))
    env = {"PGPASSWORD": databases.password(config) or "", "PGCONNECT_TIMEOUT": "10"}
    return Login(["-w"], None, env, databases.address(config, node))


def ask(config: Config, node: NodeName, statement: str, machine: Machine) -> str:
    """What the server of that database answers. Raises PeerDownError with its words."""
    how = login(config, node)
    argv = ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", *how.options]
    argv += ["-d", how.name, "-c", statement]
    answer = machine.run(argv, how.user, how.env)
    if answer.status:
        hint = "see: systemctl status postgresql" if config.database.is_local else "check database.*"
        raise PeerDownError(f"PostgreSQL: {answer.complaint}; {hint}")
    return answer.out


def must(answer: CommandResult, who: str) -> None:
    """Raise PeerRefusedError with the command's own words where it failed."""
    if answer.status:
        raise PeerRefusedError(f"{who}: {answer.complaint or f'exit status {answer.status}'}")


# --- files ------------------------------------------------------------------------------------------------------------


class Progress(Protocol):
    """Told of each step; a terminal shows it."""

    def step(self, words: str, total: int) -> None:
        """Another step begins, of so many bytes; 0 where nobody knows."""

    def moved(self, amount: int) -> None:
        """So many bytes more of it are done."""


class Found(NamedTuple):
    """A regular file of a tree: where it is below it, the descriptor of its folder, and what it was like."""

    below: str
    folder: int
    status: os.stat_result

    @property
    def name(self) -> str:
        """Its name in that folder."""
        return self.below.rpartition("/")[2]


def files(folder: Path) -> Iterator[Found]:
    """Every regular file below a folder, which may change meanwhile; links are not followed, and what is on its way left out.

    The folder itself may be a link where its place is root's, to a larger volume say; elsewhere that is a LinkedError.
    Raises OSError for what cannot be read; what has gone meanwhile, or was never there, is no error.
    """
    if not folder.is_dir():
        return
    if folder.is_symlink() and folder.parent.stat().st_uid != 0:
        raise LinkedError(f"{folder} is a symbolic link, which is not followed; put the folder back")
    top = os.path.realpath(folder)
    for root, folders, names, descriptor in os.fwalk(top, onerror=_unless_gone):
        below = "" if root == top else f"{os.path.relpath(root, top)}/"
        if not below and PRIVATE in folders:
            folders.remove(PRIVATE)
        for name in names:
            if name.startswith(".") and name.endswith(_TORN):
                continue
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield Found(below + name, descriptor, status)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def measure(folder: Path) -> Sum:
    """How many files are below a folder, and how large they are together."""
    sizes = [one.status.st_size for one in files(folder)]
    return Sum(len(sizes), sum(sizes))


def copy(source: int, target: int) -> int:
    """The rest of one open file into another; its bytes. Raises StorageFullError."""
    with (
        durable.translated(),
        open(source, "rb", closefd=False) as old,
        open(target, "wb", closefd=False) as new,
    ):
        shutil.copyfileobj(old, new, _CHUNK)
        return new.tell()


def digest(path: Path) -> Dump:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        return Dump(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def as_written(size: int) -> str:
    """A size for people."""
    for unit, factor in (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1024:.0f} KiB"
