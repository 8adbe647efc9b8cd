"""Sixth stage: verified files become the study's folder in OUTPUT_DIR. The extractor alone writes here.

A new study is laid out in `staging/` (same file system) and appears in one rename of the finished folder. Images that come
later are added one by one, each by a link that cannot replace a file. No link below OUTPUT_DIR is followed. Nothing is ever overwritten: another content under a
name that is taken is a conflict and goes to quarantine with its reason.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from ddwd.core import durable
from ddwd.core.errors import StateError
from ddwd.core.model import safe_component
from ddwd.pipeline.quarantine import Subject
from ddwd.store.custody import lacks, present

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.core.model import OrthancId, Study, Wanted
    from ddwd.pipeline.quarantine import Quarantine
    from ddwd.store.custody import CustodyPort, Record


class Publisher:
    """Lays studies out below OUTPUT_DIR."""

    def __init__(self, paths: Paths, quarantine: Quarantine, custody: CustodyPort) -> None:
        self._paths = paths
        self._quarantine = quarantine
        self._custody = custody

    def staged(self, study: OrthancId, file: str) -> Path:
        """Where a verified file of a study waits."""
        return self._paths.staging / study / file

    def final(self, study: Study, file: str) -> Path:
        """Where a published file stands."""
        return self._paths.output / study.folder / file

    def files_named(self, study: Study, name: str) -> Iterator[Path]:
        """The files of a study for an encoded SOPInstanceUID: where its record has them, else where they would stand by default."""
        try:
            record = self._custody.read(study.orthanc_id)
        except StateError:
            record = None
        if record is not None:
            folder = self._paths.output / record.folder
            yield from (
                folder / kept.file for kept in record.images.values() if safe_component(kept.sop_uid) == name
            )
            return
        for series in study.series:
            for one in islice(series.instances, 1):
                yield self.final(study, study.wanted_of(series, one, "").file).with_name(f"{name}.dcm")

    def gone(self, record: Record) -> list[OrthancId]:
        """The images of a record whose files are not there as recorded, by name and size. Raises OSError."""
        folder = self._paths.output / record.folder
        return [one for one, kept in record.images.items() if lacks(folder, kept)]

    def there(self, record: Record) -> frozenset[OrthancId]:
        """The images of a record that have a file under their name, whatever is in it. Raises OSError."""
        return present(self._paths.output / record.folder, record)

    def remove(self, record: Record, images: Iterable[OrthancId] | None = None) -> None:
        """Take images away again, all of them unless some are named, and the folders that are empty then. Raises OSError.

        Only for who has a right to: the portal's own study, and what retention has proved elsewhere.
        """
        folder, names = self._paths.output / record.folder, record.images if images is None else images
        self._remove([folder / record.images[one].file for one in names])

    def _remove(self, files: Sequence[Path]) -> None:
        output = self._paths.output
        for file in files:
            durable.unlink(file, output)
        folders = {folder for file in files for folder in file.parents if output in folder.parents}
        for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
            durable.remove_folder(folder, output)

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

    def mark(self, record: Record, name: str, content: bytes) -> None:
        """Put the marker of a rule into the study's folder, in one step. Raises StorageFullError, LinkedError and OSError."""
        target, below = self._paths.output / record.folder / name, self._paths.output
        if not target.parent.is_dir():  # retention has taken all of it away
            return
        with suppress(FileNotFoundError), durable.opened(target, below) as file:
            if file.read(len(content) + 1) == content:
                return
        temporary = target.with_name(f".{name}.part")
        durable.unlink(temporary, below)
        new = durable.NewFile(temporary, below=below)
        try:
            new.write(content)
            new.sync()
            durable.rename(temporary, target, below=below)
        except BaseException:
            new.abandon()
            raise

    def unmark(self, record: Record, name: str) -> None:
        """Take the marker away again, and the folders that are empty then. Raises OSError."""
        self._remove([self._paths.output / record.folder / name])

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
