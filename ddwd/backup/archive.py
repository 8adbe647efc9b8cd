"""Define the format of a backup: its folder, its manifest and its trees. Written by backup.py, read by restore.py.

A backup folder holds one folder for each copy (a set), and manifest.json, which names the one complete set. A set holds a list of the
SHA-256 of the files of each tree; the manifest holds the SHA-256 of each list, and seal.py signs it. Only root may read it: it
holds patient data, keys and passwords.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ddwd.backup import files
from ddwd.config.paths import Paths
from ddwd.core.errors import NotFoundError, StateError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ddwd.config.schema import NodeName

SCHEMA = 2
UNSIGNED = 1
"""Schema of 0.2.0: without checksums of single files and without a signature."""
MANIFEST = "manifest.json"
CONFIGURATION = "configuration"
DATABASES = "databases"
LISTS = "sums"
"""Folders of a set beside its trees: copies of the settings, the dumps, and the lists of checksums."""
NODES: tuple[NodeName, ...] = ("storage", "gateway")
"""In the order in which they are copied: an image in ORTHANC2 was in ORTHANC1 before."""
IMAGES = frozenset(NODES)
"""The trees of the two storage areas."""
CHAIN_PARTS = {
    "chain-head": frozenset({"head.json"}),
    "chain-published": frozenset({"published.jsonl", "public.pem"}),
    "chain": frozenset({"entries.jsonl", "tree"}),
}
"""Trees of the chain's folder, in the order in which they are copied, and the files of each."""
_SET = re.compile(r"[0-9]{8}T[0-9]{9}Z")


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder of the portal, with the owner, group and modes of it and its files.

    A file of a `fixed` tree never changes: one that does was tampered with, or the disk is failing. Names `left_out` directly
    below the folder are not copied, and stay at a restore.
    """

    name: str
    words: str
    folder: Path
    user: str
    group: str
    folder_mode: int = 0o750
    file_mode: int = 0o640
    fixed: bool = False
    left_out: frozenset[str] = frozenset()


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
        found.append(Tree(node, words, area, user, user, 0o700, 0o600, fixed=True))
    for node in NODES:
        words, aside = f"conflicts at {aets[node]}", paths.conflicts(node)
        found.append(Tree(f"conflicts-{node}", words, aside, "ddwd", f"ddwd-{node}", 0o770, 0o644))
    found.append(Tree("quarantine", "files in quarantine", paths.quarantine, "ddwd", "ddwd"))
    # first the newest head, then the published ones, then the entries: a copy has every entry that its heads cover
    for name, kept in CHAIN_PARTS.items():
        others = frozenset().union(*CHAIN_PARTS.values()) - kept
        found.append(Tree(name, "the chain", paths.chain, "ddwd-signer", "ddwd", 0o2750, left_out=others))
    key, user = paths.signer_key.parent, "ddwd-signer"
    found.append(Tree("signer", "the key of the chain", key, user, user, 0o700, 0o400))
    found.append(Tree("output", "published files", paths.output, "ddwd", "ddwd"))
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

    `schemas` are the schema versions of the state files, `settings` the two files of the settings, `set` the folder in the backup,
    `lists` the SHA-256 of each list, by tree, and `changed` the files of fixed trees that differed from their copies, which
    were kept. `turn` counts the backups in this folder.
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
    lists: Mapping[str, str] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    turn: int = 0
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


def written(manifest: Manifest) -> bytes:
    """Return the text of a manifest."""
    return json.dumps(asdict(manifest), indent=1, ensure_ascii=True).encode("ascii") + b"\n"


def read_manifest(folder: Path) -> tuple[Manifest, bytes]:
    """Return the manifest of a backup and its text, which may be anybody's until its signature is checked.

    Raises NotFoundError if there is no complete backup, StateError if it cannot be used.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
        body = json.loads(text)
        if body["schema"] not in (UNSIGNED, SCHEMA):
            raise StateError(f"{path}: schema {body['schema']}, this version reads {UNSIGNED} and {SCHEMA}")
        return _manifest(body), text
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{folder}: it holds no finished backup ({MANIFEST} does not exist)") from None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}; only root may read a backup") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
        schema=body["schema"],
        **({} if body["schema"] == UNSIGNED else _sealed(body)),
    )


def _sealed(body: dict[str, Any]) -> dict[str, Any]:
    """Return what schema 2 has added."""
    lists = {str(tree): str(sha256) for tree, sha256 in body["lists"].items()}
    if lists.keys() != {*body["trees"], CONFIGURATION, DATABASES}:
        raise ValueError
    return {"lists": lists, "changed": tuple(map(str, body["changed"])), "turn": int(body["turn"])}


def measure(folder: Path, left_out: frozenset[str] = frozenset()) -> Sum:
    """Return the number of files below a folder and their total size."""
    sizes = [file.status.st_size for file in files.files(folder, left_out)]
    return Sum(len(sizes), sum(sizes))


def is_set(name: str) -> bool:
    """Return whether this is the name of a set, finished or not."""
    return _SET.fullmatch(name.partition(".")[0]) is not None


def as_written(size: int) -> str:
    """Return a number of bytes in the form that messages show."""
    for unit, factor in (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1024:.0f} KiB"
