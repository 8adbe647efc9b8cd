"""Folders under the names that version 0.2.0 and earlier give them, for a downgrade and after it.

An older version looks for a study where it would have published it: what it does not find there it publishes once more. So before a downgrade
the folders that are their PatientID unchanged get the marked name, and the list of them stays. If the newer version comes again with the
custody records that it had, they get back the names that these say; with records of the older version they stay.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.config.paths import PRIVATE
from ddwd.core import durable, safe_folder
from ddwd.core.model import TREE, identifier_of, marked_component, safe_component, split_layout
from ddwd.store.statefile import StateFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.config.paths import Paths
    from ddwd.store.custody import Custody


@dataclass(frozen=True, slots=True)
class FormerNames:
    """Folder of each study below OUTPUT_DIR -> the one that it was renamed to."""

    folders: dict[str, str]


_FORMAT = StateFormat(FormerNames, "list of renamed folders", indent=1)


def give_former_names(paths: Paths) -> int:
    """Rename the studies' folders for an older version; return how many. May be interrupted and repeated. Raises StateError and OSError."""
    known = _FORMAT.read_or_none(paths.former_names)
    layouts = {split_layout(layout)[0] for layout in (TREE, *(route.layout for route in paths.config.routes))}
    first_words = {layout.partition("/")[0] for layout in layouts}
    found = {
        name: former
        for layout in sorted(layouts)
        for name, former in _studies(paths.output, layout.split("/"), first_words)
        if name != former
    }
    if not found:
        return 0
    _FORMAT.write(paths.former_names, FormerNames((known.folders if known else {}) | found))
    return sum(_rename(paths.output, name, former) for name, former in found.items())


def take_back_names(paths: Paths, custody: Custody) -> int:
    """Give the folders the names by which the custody records know them; return how many. Raises StateError and OSError."""
    known = _FORMAT.read_or_none(paths.former_names)
    if known is None:
        return 0
    heads = (custody.peek(study) for study in custody.studies())
    recorded = {head.folder for head in heads if head is not None} & known.folders.keys()
    count = sum(_rename(paths.output, known.folders[name], name) for name in sorted(recorded))
    durable.unlink(paths.former_names)
    return count


def _studies(
    folder: Path, parts: list[str], apart: set[str], name: str = "", former: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield the studies' folders of a layout below `folder`, with their former names; `apart` are names of its first folder for other layouts."""
    if not parts:
        yield name, former
        return
    part, *below = parts
    for entry in _folders(folder):
        if part == entry:
            mine = entry
        elif part.startswith("{") and part.count("{") == 1 and part.endswith("}") and entry not in apart:
            identifier = identifier_of(entry)
            if identifier is None or entry not in (safe_component(identifier), marked_component(identifier)):
                continue
            mine = marked_component(identifier)
        else:
            continue
        yield from _studies(
            folder / entry, below, set(), f"{name}/{entry}".strip("/"), f"{former}/{mine}".strip("/")
        )


def _folders(folder: Path) -> list[str]:
    descriptor = safe_folder.enter(folder)
    try:
        with os.scandir(descriptor) as entries:
            return sorted(
                one.name for one in entries if one.is_dir(follow_symlinks=False) and one.name != PRIVATE
            )
    finally:
        os.close(descriptor)


def _rename(output: Path, old: str, new: str) -> bool:
    """Rename a study's folder, and remove the patient's if it is empty then; do nothing where it is done, or the new name is taken."""
    source, target = output / old, output / new
    if target.exists() or not source.is_dir():
        return False
    durable.make_dirs(target.parent, below=output)
    durable.rename(source, target, below=output)
    for folder in source.parents:
        if output in folder.parents:
            durable.remove_folder(folder, output)
    return True
