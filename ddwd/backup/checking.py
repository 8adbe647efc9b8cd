"""Hold every file of a backup against the signed lists, and name each that is not as it was written."""

from __future__ import annotations

import heapq
from itertools import groupby
from typing import TYPE_CHECKING

from ddwd.backup import archive, files, seal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ddwd.backup.archive import Manifest, Tree
    from ddwd.backup.files import Progress


def problems(
    folder: Path, manifest: Manifest, trees: Mapping[str, Tree], progress: Progress
) -> Iterator[str]:
    """Yield a line for each file of the set that is changed, missing or not in its list; every byte is read.

    Of a backup of 0.2.0, which has no lists, the SHA-256 of the dumps and the number and size of all other files are compared.
    """
    if manifest.schema == archive.UNSIGNED:
        yield from _counted(folder, manifest, trees, progress)
        return
    known = {archive.LISTS, seal.SIGNATURE, *manifest.lists}
    yield from (f"{name} is not in the manifest" for name in sorted({*_names(folder)} - known))
    lists = {*_names(folder / archive.LISTS)} - {*manifest.lists}
    yield from (f"{archive.LISTS}/{name} is not in the manifest" for name in sorted(lists))
    for name, sha256 in manifest.lists.items():
        words = trees[name].words if name in trees else name
        progress.step(f"checking {words}", manifest.trees.get(name, archive.Sum()).bytes)
        yield from _listed(folder, name, sha256, progress)


def _listed(folder: Path, name: str, sha256: str, progress: Progress) -> Iterator[str]:
    """Yield a line for each file of a tree that is not as its list has it."""
    path = folder / archive.LISTS / name
    content = files.digest_of(path)
    if content is None or content.sha256 != sha256:
        yield f"{archive.LISTS}/{name}, the list of {name}, is {'changed' if content else 'missing'}"
        return
    written = ((files.place(entry.below), entry.below, entry.sha256) for entry in files.entries(path, name))
    there = ((files.place(below), below, "") for below in _everything(folder / name))
    for (_, below), both in groupby(heapq.merge(written, there), key=lambda row: row[:2]):
        rows = [sha256 for _, _, sha256 in both]
        wanted = "".join(rows)
        found = files.digest_of(folder / name / below, progress)
        if not wanted:
            yield f"{name}/{below} is not in the manifest"
        elif found is None:
            yield f"{name}/{below} is missing"
        elif found.sha256 != wanted:
            yield f"{name}/{below} is changed"


def _names(folder: Path) -> list[str]:
    """Return the names in a folder; none if it is missing or no folder."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def _everything(folder: Path, below: str = "") -> Iterator[str]:
    """Yield the path of everything below a folder that is no folder, in the order of the lists; a link is never followed."""
    if folder.is_symlink():
        yield below.rstrip("/") or "."
        return
    inner = [name for name in _names(folder) if (folder / name).is_dir() and not (folder / name).is_symlink()]
    yield from (below + name for name in _names(folder) if name not in inner)
    for name in inner:
        yield from _everything(folder / name, f"{below}{name}/")


def _counted(
    folder: Path, manifest: Manifest, trees: Mapping[str, Tree], progress: Progress
) -> Iterator[str]:
    for node, dump in manifest.databases.items():
        progress.step(f"checking the dump of {node}", dump.bytes)
        path = folder / archive.DATABASES / f"{node}.dump"
        if files.digest_of(path, progress) != (dump.bytes, dump.sha256):
            yield f"{archive.DATABASES}/{path.name} is changed or missing"
    for name, tree in trees.items():
        if (expected := manifest.trees.get(name)) is None:
            continue
        progress.step(f"checking {tree.words}", 0)
        found = archive.measure(folder / name)
        if (found.files, found.bytes) != (expected.files, expected.bytes):
            yield (
                f"{name} holds {found.files} files, {found.bytes} bytes, "
                f"but the manifest has {expected.files}, {expected.bytes}"
            )
    for owned in manifest.configuration:
        if not (folder / archive.CONFIGURATION / owned.path[1:]).is_file():
            yield f"{archive.CONFIGURATION}{owned.path} is missing"
