"""Sixth stage: verified files become the study's folder in OUTPUT_DIR. The extractor alone writes here.

A new study is laid out in `staging/` (same file system) and appears in one rename of the finished folder. Images that come
later are added one by one, each by a link that cannot replace a file. No link below OUTPUT_DIR is followed. Nothing is ever overwritten: another content under a
name that is taken is a conflict and goes to quarantine with its reason.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ddwd.core import durable
from ddwd.extractor.quarantine import Subject

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.core.model import OrthancId, Study, Wanted
    from ddwd.extractor.quarantine import Quarantine
    from ddwd.store.output_tree import OutputTree


class Publisher:
    """Lays studies out below OUTPUT_DIR."""

    def __init__(self, paths: Paths, output: OutputTree, quarantine: Quarantine) -> None:
        self._paths = paths
        self.output = output
        self._quarantine = quarantine

    def staged(self, study: OrthancId, file: str) -> Path:
        """Where a verified file of a study waits."""
        return self._paths.staging / study / file

    def stage(self, source: Path, study: OrthancId, wanted: Wanted) -> Path:
        """Give a verified file of the spool its place in staging too: its name in the spool goes once this one is durable.

        The SCP may just be making the spool's name durable, to answer Success: until then that one must stay.
        """
        target, below = self.staged(study, wanted.file), self._paths.output
        durable.make_dirs(target.parent, below=below)
        try:
            durable.link_new(source, target, below)
        except FileExistsError:
            durable.rename(source, target, below=below)
        return target

    def publish(self, study: Study) -> list[str]:
        """Make everything staged for `study` visible; the files whose names were already taken by other content.

        May be interrupted anywhere and called again. Raises StorageFullError, LinkedError and OSError.
        """
        staging, target = self._paths.staging / study.orthanc_id, self._paths.output / study.folder
        if not staging.is_dir():
            return []
        if target.is_dir():
            return self._add(study, staging, target)
        durable.make_dirs(target.parent, below=self._paths.output)
        durable.rename(staging, target, below=self._paths.output)
        return []

    def _add(self, study: Study, staging: Path, target: Path) -> list[str]:
        conflicts = []
        for source in sorted(staging.rglob("*.dcm")):
            file = source.relative_to(staging)
            durable.make_dirs((target / file).parent, below=self._paths.output)
            if not self._place(source, target / file):
                self._quarantine.put(source, _taken(study, file.as_posix()))
                conflicts.append(file.as_posix())
        self._remove_empty(staging)
        return conflicts

    def _remove_empty(self, folder: Path) -> None:
        """Remove a folder and those in it, where nothing is in them."""
        for inner in [*sorted(folder.rglob("*"), reverse=True), folder]:
            if inner.is_dir() and not inner.is_symlink():
                durable.remove_folder(inner, self._paths.output)

    def _place(self, source: Path, final: Path) -> bool:
        """Give `source` its final name and drop the old one; False where other content has that name."""
        try:
            durable.link_new(source, final, self._paths.output)
        except FileExistsError:
            if self._digest(source) != self._digest(final):
                return False
        durable.fsync_dir(final.parent, self._paths.output)
        durable.unlink(source, self._paths.output)
        return True

    def _digest(self, path: Path) -> bytes:
        with durable.opened(path, self._paths.output) as file:
            return hashlib.file_digest(file, "sha256").digest()


def _taken(study: Study, file: str) -> Subject:
    return Subject(
        kind="conflict",
        study_uid=study.study_uid,
        reason=f"other content is already published as {file}",
        study=study.orthanc_id,
    )
