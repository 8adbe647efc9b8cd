"""The receiver's spool: what C-MOVE brought of a study, and what is done with the rest once the study is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core import durable
from ddwd.core.errors import PeerDownError, PeerRefusedError
from ddwd.core.model import safe_component
from ddwd.extractor.quarantine import QuarantinedObject
from ddwd.extractor.steps.verify import difference_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.core.model import OrthancId, Study
    from ddwd.extractor.quarantine import Quarantine
    from ddwd.orthanc.port import OrthancPort
    from ddwd.store.custody import InstanceRecord
    from ddwd.store.output_tree import OutputTree

SHORT_DIGEST = 16
WHOLE_DIGEST = 64
"""Hexadecimal digits of the SHA-256 in a spool file's name (dicom/incoming.py); the short one is an earlier version's."""


class Spool:
    """The spool folders of studies."""

    def __init__(
        self, paths: Paths, storage: OrthancPort, output: OutputTree, quarantine: Quarantine
    ) -> None:
        self._paths = paths
        self._storage = storage
        self.output = output
        self._quarantine = quarantine

    @property
    def below(self) -> Path:
        """OUTPUT_DIR: no link below it is followed."""
        return self._paths.output

    def folder(self, study: Study) -> Path:
        """Return the folder where the receiver puts images of the study."""
        return self._paths.spool / safe_component(study.study_uid)

    def files(self, study: Study) -> list[Path]:
        """Return the images of the study that came; links are none."""
        folder = self.folder(study)
        if folder.is_symlink() or not folder.is_dir():
            return []
        return [path for path in folder.iterdir() if not path.is_symlink()]

    def clear(self, study: Study, kept: dict[OrthancId, InstanceRecord], *, others: bool) -> None:
        """Empty the study's spool once it is published: drop repeats of a kept image, put other files into quarantine.

        `others` is True while another study in flight has the same StudyInstanceUID: unknown files may be its own.
        Raises StorageFullError and OSError.
        """
        folder = self.folder(study)
        if not folder.is_dir() or folder.is_symlink():
            return
        digests = {one.sha256[:digits] for one in kept.values() for digits in (SHORT_DIGEST, WHOLE_DIGEST)}
        files = {safe_component(one.sop_uid): one for one in kept.values()}
        for path in folder.iterdir():
            if path.is_symlink() or digest_of(path) in digests:
                durable.unlink(path, self._paths.output)
            elif not others:
                self._put_away(study, path, files.get(uid_of(path)))
        durable.remove_folder(folder, self._paths.output)

    def _published(self, study: Study, spooled: Path) -> Iterator[Path]:
        """Yield published files of this SOPInstanceUID under this StudyInstanceUID, of any patient: a C-MOVE sends those of all.

        Raises PeerDownError and PeerRefusedError.
        """
        for one in self._storage.find_study(study.study_uid):
            if (namesake := self._storage.study(one)) is None:
                continue
            for path in self.output.files_named(namesake, uid_of(spooled)):
                if path.exists():
                    yield path

    def _put_away(self, study: Study, path: Path, ours: InstanceRecord | None) -> None:
        """Drop a file that no image was made of if it is published, even if encoded otherwise; else put it into quarantine."""
        try:
            if any(not difference_of(path, there.read_bytes()) for there in self._published(study, path)):
                durable.unlink(path, self._paths.output)
                return
        except (PeerDownError, PeerRefusedError):
            return  # found again by the orphan sweeper
        reason = "the SCP acknowledged it, and it is not what ORTHANC2 holds of this study"
        self._quarantine.put(
            path,
            QuarantinedObject(
                "stray", study.study_uid, reason, study.orthanc_id, sop_uid=ours.sop_uid if ours else ""
            ),
        )


def uid_of(spooled: Path) -> str:
    """Return the encoded SOPInstanceUID in a spool file's name."""
    return spooled.name.rsplit(".", 2)[0]


def digest_of(spooled: Path) -> str:
    """Return the SHA-256 in a spool file's name, or its first digits."""
    return spooled.name.rsplit(".", 2)[-2]
