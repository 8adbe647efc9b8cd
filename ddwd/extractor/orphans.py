"""Images that belong to no study in flight: orphaned files in spool and staging, and objects that the Orthancs' plugin put aside.

A kill can leave files of a study that was closed in the same moment, and any process on this machine may send to our receiver. An
acknowledged image is never thrown away: if an Orthanc has the study, it is opened again and its own end cleans up; otherwise the
files go to quarantine. A folder counts as orphaned if two sweeps in a row find it so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom import dcmread

from ddwd.core import durable, safe_folder
from ddwd.core.errors import NotFoundError
from ddwd.core.model import PADDING, OrthancId, identifier_of, marked_component
from ddwd.dicom.head import UnreadableError, read_identity
from ddwd.extractor.quarantine import QuarantinedObject
from ddwd.extractor.steps.publish import remove_empty
from ddwd.extractor.steps.verify import difference_of
from ddwd.store.rejected_files import RejectedFiles

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.config.schema import NodeName
    from ddwd.core.model import Study
    from ddwd.extractor.peers import Peers
    from ddwd.extractor.quarantine import Quarantine
    from ddwd.orthanc.port import OrthancPort

_NAME = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{8}){4})\.[0-9a-f]{32}\.dcm")
_UNKNOWN = "the SCP acknowledged it, and no Orthanc knows its study"
_DELETED = "its study was deleted on both Orthancs before it was published"


@dataclass
class OrphanSweeper:
    """Remembers from one sweep to the next which folders belonged to no study in flight."""

    paths: Paths
    peers: Peers
    quarantine: Quarantine
    _orphaned: frozenset[Path] = frozenset()

    def sweep(self, ids: Collection[OrthancId], study_uids: Collection[str]) -> list[OrthancId]:
        """Clear orphaned folders, given the Orthanc IDs and StudyInstanceUIDs in flight; return the studies to open again.

        Raises PeerDownError, PeerRefusedError, StorageFullError and OSError; the next sweep does the rest.
        """
        uids = {marked_component(uid) for uid in study_uids}
        spooled = {folder for folder in _folders(self.paths.spool) if folder.name not in uids}
        staged = {folder for folder in _folders(self.paths.staging) if folder.name not in ids}
        before, self._orphaned = self._orphaned, frozenset(spooled | staged)
        nodes = self.peers.storage, self.peers.gateway
        reopened: list[OrthancId] = []
        for folder in spooled & before:
            study_uid = identifier_of(folder.name) or folder.name
            found = [study for node in nodes for study in node.find_study(study_uid)]
            reopened += found
            if not found:
                self._put_away(folder, QuarantinedObject("stray", study_uid, _UNKNOWN))
        for folder in staged & before:
            study = OrthancId(folder.name)
            if any(node.study(study) is not None for node in nodes):
                reopened.append(study)
            else:
                self._put_away(folder, QuarantinedObject("vanished", study, _DELETED, study))
        return list(dict.fromkeys(reopened))

    def vanished(self, study: Study, reason: str) -> int:
        """Put the unpublished images of a study that both Orthancs deleted into quarantine; return the number of files.

        Raises StorageFullError and OSError.
        """
        subject = QuarantinedObject("vanished", study.study_uid, reason, study.orthanc_id)
        folders = (
            self.paths.staging / study.orthanc_id,
            self.paths.spool / marked_component(study.study_uid),
        )
        return sum(self._put_away(folder, subject) for folder in folders if folder.is_dir())

    def _put_away(self, folder: Path, subject: QuarantinedObject) -> int:
        """Move all images below a folder to quarantine, then remove the empty folders; return the number of files."""
        files = sorted(path for path in folder.rglob("*.dcm") if not path.is_symlink())
        for path in files:
            self.quarantine.put(path, subject)
        remove_empty(folder, self.paths.output)
        return len(files)


def _folders(parent: Path) -> Iterable[Path]:
    """Return the folders in `parent`. Links are left out: the portal makes none, and a planted one leads elsewhere."""
    inner = parent.iterdir() if parent.is_dir() else ()
    return [path for path in inner if path.is_dir() and not path.is_symlink()]


@dataclass
class Conflicts:
    """Objects that the Orthancs' plugin put aside, because the Orthanc had other content under their identifiers.

    The plugin compares bytes. Here each object is compared with the stored one element by element: an equal one, encoded differently,
    is dropped, since its content is stored already; any other goes to quarantine. An object stays in its folder until then. The Orthanc's
    user may put anything there: what is no readable file is put aside.
    """

    folders: Mapping[NodeName, Path]
    peers: Mapping[NodeName, OrthancPort]
    quarantine: Quarantine
    _rejected: RejectedFiles = field(default_factory=lambda: RejectedFiles("object"))

    def collect(self) -> int:
        """Compare the objects that wait; return how many went to quarantine.

        Raises PeerDownError, PeerRefusedError, StorageFullError and OSError; the rest waits for the next call.
        """
        return sum(
            self._settle(path, node)
            for node, folder in self.folders.items()
            for path in sorted(folder.glob("*.dcm"))
            if _NAME.fullmatch(path.name) and path not in self._rejected
        )

    def _settle(self, path: Path, node: NodeName) -> bool:
        """Drop the object or put it into quarantine; return whether it went to quarantine."""
        if self._rejected.read(path, 0) is None:
            return False
        instance = OrthancId(path.name.partition(".")[0])
        reason = self._difference(path, node, instance)
        if not reason:
            durable.unlink(path)
            return False
        study_uid, sop_uid = _uids(path)
        study = self.peers[node].study_of("Instance", instance) or ""
        subject = QuarantinedObject("conflict", study_uid, reason, study, instance, sop_uid)
        self.quarantine.put(path, subject)
        return True

    def _difference(self, path: Path, node: NodeName, instance: OrthancId) -> str:
        """Return how the object differs from the stored one; empty if it does not."""
        try:
            stored = self.peers[node].file(instance)
        except NotFoundError:
            return f"{node} held other content under its identifiers, and no longer holds it"
        found = difference_of(path, stored)
        return f"{node} holds other content under its identifiers: {found}" if found else ""


def _uids(path: Path) -> tuple[str, str]:
    """Return StudyInstanceUID and SOPInstanceUID, as far as they can be read."""
    content = safe_folder.read(path)
    try:
        found = read_identity(content)
    except UnreadableError:
        head = dcmread(BytesIO(content), force=True, specific_tags=["StudyInstanceUID", "SOPInstanceUID"])
        return str(head.get("StudyInstanceUID", "")), str(head.get("SOPInstanceUID", ""))
    return found.study_uid.strip(PADDING), found.sop_uid.strip(PADDING)
