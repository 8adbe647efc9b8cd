"""Published files below OUTPUT_DIR: where they are, which are missing, how they and their markers are removed.

Written by the extractor alone. No link below OUTPUT_DIR is followed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ddwd.config.paths import Paths
from ddwd.core import durable, safe_folder
from ddwd.core.errors import DdwdError, LinkedError, StateError
from ddwd.core.model import OrthancId, Study, identifier_of, marked_component
from ddwd.store.custody import Custody, Record, is_missing, present
from ddwd.store.volume_names import needs_marks

log = logging.getLogger("ddwd.store")


class OutputTree:
    """The folders of published studies."""

    def __init__(self, paths: Paths, custody: Custody) -> None:
        self._output = paths.output
        self._private = paths.private
        self._custody = custody
        self._is_marked: bool | None = None

    @property
    def is_marked(self) -> bool:
        """Whether this volume needs marked names; asked of it once. True while it takes no file, when nothing is published anyway."""
        if self._is_marked is None:
            with suppress(OSError, DdwdError):
                self._is_marked = needs_marks(self._private, self._output)
                if self._is_marked:
                    log.info(
                        "the volume of output_dir does not hold every name apart: names on it are marked"
                    )
        return self._is_marked is not False

    def final(self, study: Study, file: str) -> Path:
        """Return the path of a published file of the study."""
        return self._output / study.folder / file

    def files_named(self, study: Study, name: str) -> Iterator[Path]:
        """Yield the paths of the study's files for an encoded SOPInstanceUID, from its record, else by the default layout."""
        try:
            record = self._custody.read(study.orthanc_id)
        except StateError:
            record = None
        if record is not None:
            folder = self._output / record.folder
            yield from (
                folder / instance.file
                for instance in record.images.values()
                if marked_component(instance.sop_uid) == name
            )
            return
        sop_uid = identifier_of(name)
        if sop_uid is None:  # no valid UID is that long
            return
        placed = replace(study, is_marked=self.is_marked)
        for series in study.series:
            for instance in islice(series.instances, 1):
                yield self.final(placed, placed.wanted_of(series, instance, sop_uid).file)

    def missing(self, record: Record) -> list[OrthancId]:
        """Return the images whose files differ from the record in name or size. Raises OSError."""
        folder = self._output / record.folder
        return [image for image, instance in record.images.items() if is_missing(folder, instance)]

    def present(self, record: Record) -> frozenset[OrthancId]:
        """Return the images that have a file of their name, whatever its content. Raises OSError."""
        return present(self._output / record.folder, record)

    def remove(self, record: Record, images: Iterable[OrthancId] | None = None) -> None:
        """Remove the files of these images (default: all), then the folders that became empty. Raises OSError.

        Callers: self-test cleanup and retention only.
        """
        folder, removed = self._output / record.folder, record.images if images is None else images
        self._remove([folder / record.images[image].file for image in removed])

    def mark(self, record: Record, name: str, content: bytes) -> None:
        """Write the route's marker file into the study's folder, atomically. Raises StorageFullError, LinkedError and OSError."""
        target, below = self._output / record.folder / name, self._output
        if not target.parent.is_dir():  # retention has removed the whole study
            return
        with suppress(FileNotFoundError), safe_folder.opened(target, below) as file:
            if file.read(len(content) + 1) == content:
                return
        temporary = target.with_name(f".{name}.part")
        durable.unlink(temporary, below)
        durable.write_new(temporary, [content], below=below)
        try:
            durable.rename(temporary, target, below=below)
        except BaseException:
            with suppress(OSError, LinkedError):
                durable.unlink(temporary, below)
            raise

    def unmark(self, record: Record, name: str) -> None:
        """Remove the marker file, then the folders that became empty. Raises OSError."""
        self._remove([self._output / record.folder / name])

    def _remove(self, files: Sequence[Path]) -> None:
        for file in files:
            durable.unlink(file, self._output)
        folders = {folder for file in files for folder in file.parents if self._output in folder.parents}
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            durable.remove_folder(folder, self._output)
