"""The receiver's spool: the files that C-MOVE brought of a study, and how it is emptied once the study is published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.core import durable
from ddwd.core.errors import PeerDownError, PeerRefusedError
from ddwd.core.model import marked_component
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

WHOLE_DIGEST = 64
_SHORT_DIGEST = 16
"""Hexadecimal digits of the SHA-256 in a spool file's name (dicom/incoming.py); the short one is an earlier version's."""


@dataclass
class Spool:
    """The spool folders of studies."""

    paths: Paths
    storage: OrthancPort
    output: OutputTree
    quarantine: Quarantine

    def folder(self, study: Study) -> Path:
        """Return the folder where the receiver puts images of the study."""
        return self.paths.spool / marked_component(study.study_uid)

    def files(self, study: Study) -> list[Path]:
        """Return the images of the study that came, without links."""
        folder = self.folder(study)
        if folder.is_symlink() or not folder.is_dir():
            return []
        return [path for path in folder.iterdir() if not path.is_symlink()]

    def clear(self, study: Study, images: dict[OrthancId, InstanceRecord], *, others: bool) -> None:
        """Empty the study's spool once it is published: drop repeats of published `images`, put other files into quarantine.

        `others` is True while another study in flight has the same StudyInstanceUID: unknown files may be its own.
        Raises StorageFullError and OSError.
        """
        folder = self.folder(study)
        if not folder.is_dir() or folder.is_symlink():
            return
        digests = {
            image.sha256[:digits] for image in images.values() for digits in (_SHORT_DIGEST, WHOLE_DIGEST)
        }
        sop_uids = {marked_component(image.sop_uid): image.sop_uid for image in images.values()}
        for path in folder.iterdir():
            if path.is_symlink() or digest_of(path) in digests:
                durable.unlink(path, self.paths.output)
            elif not others:
                self._put_away(study, path, sop_uids.get(uid_of(path), ""))
        durable.remove_folder(folder, self.paths.output)

    def _published(self, study: Study, spooled: Path) -> Iterator[Path]:
        """Yield published files of this SOPInstanceUID under this StudyInstanceUID, of any patient: a C-MOVE sends those of all.

        Raises PeerDownError and PeerRefusedError.
        """
        for one in self.storage.find_study(study.study_uid):
            if (namesake := self.storage.study(one)) is None:
                continue
            for path in self.output.files_named(namesake, uid_of(spooled)):
                if path.exists():
                    yield path

    def _put_away(self, study: Study, path: Path, sop_uid: str) -> None:
        """Drop a file that no image was made of if it is published, even if encoded otherwise; else put it into quarantine."""
        try:
            if any(not difference_of(path, there.read_bytes()) for there in self._published(study, path)):
                durable.unlink(path, self.paths.output)
                return
        except (PeerDownError, PeerRefusedError):
            return  # found again by the orphan sweeper
        reason = "the SCP acknowledged it, and it is not what ORTHANC2 holds of this study"
        subject = QuarantinedObject("stray", study.study_uid, reason, study.orthanc_id, sop_uid=sop_uid)
        self.quarantine.put(path, subject)


def uid_of(spooled: Path) -> str:
    """Return the encoded SOPInstanceUID in a spool file's name."""
    return spooled.name.rsplit(".", 2)[0]


def digest_of(spooled: Path) -> str:
    """Return the SHA-256 in a spool file's name, or its first digits."""
    return spooled.name.rsplit(".", 2)[-2]
