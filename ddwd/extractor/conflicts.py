"""Conflicts: objects that the Orthancs' plugin put aside because the Orthanc held other content under their identifiers.

The plugin compares bytes. Here each object is compared with the stored one element by element: an equal one, encoded differently, is
dropped, since it is kept already; any other goes to quarantine. An object stays where it is until one of both is done.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom import dcmread

from ddwd.core import durable
from ddwd.core.errors import NotFoundError
from ddwd.core.model import OrthancId
from ddwd.dicom.head import UnreadableError, read_identity
from ddwd.extractor.quarantine import QuarantinedObject
from ddwd.extractor.steps.verify import difference_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ddwd.config.schema import NodeName
    from ddwd.extractor.quarantine import Quarantine
    from ddwd.orthanc.port import OrthancPort

_NAME = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{8}){4})\.[0-9a-f]{32}\.dcm")
_PADDING = " \0"


@dataclass
class Conflicts:
    """The folders of both Orthancs' plugins."""

    folders: Mapping[NodeName, Path]
    peers: Mapping[NodeName, OrthancPort]
    quarantine: Quarantine

    def waiting(self) -> bool:
        """Return whether an object waits; lists each folder once."""
        return any(True for node in self.folders for _ in self._files(node))

    def collect(self) -> int:
        """Compare the objects that wait; return how many went to quarantine.

        Raises PeerDownError, PeerRefusedError, StorageFullError and OSError; the rest waits for the next call.
        """
        return sum(self._judge(path, node) for node in self.folders for path in sorted(self._files(node)))

    def _files(self, node: NodeName) -> Iterator[Path]:
        folder = self.folders[node]
        return (path for path in folder.glob("*.dcm") if _NAME.fullmatch(path.name))

    def _judge(self, path: Path, node: NodeName) -> bool:
        instance = OrthancId(path.name.partition(".")[0])
        reason = self._difference(path, node, instance)
        if not reason:
            durable.unlink(path)
            return False
        self.quarantine.put(path, self._subject(path, node, instance, reason))
        return True

    def _difference(self, path: Path, node: NodeName, instance: OrthancId) -> str:
        """Return how the object differs from the stored one; empty if it does not."""
        try:
            stored = self.peers[node].file(instance)
        except NotFoundError:
            return f"{node} held other content under its identifiers, and holds it no more"
        found = difference_of(path, stored)
        return f"{node} holds other content under its identifiers: {found}" if found else ""

    def _subject(self, path: Path, node: NodeName, instance: OrthancId, reason: str) -> QuarantinedObject:
        study_uid, sop_uid = _uids(path)
        study = self.peers[node].study_of("Instance", instance) or ""
        return QuarantinedObject("conflict", study_uid, reason, study, instance, sop_uid)


def _uids(path: Path) -> tuple[str, str]:
    """Return StudyInstanceUID and SOPInstanceUID, as far as they can be read."""
    try:
        found = read_identity(path.read_bytes())
    except UnreadableError:
        head = dcmread(path, force=True, specific_tags=["StudyInstanceUID", "SOPInstanceUID"])
        return str(head.get("StudyInstanceUID", "")), str(head.get("SOPInstanceUID", ""))
    return found.study_uid.strip(_PADDING), found.sop_uid.strip(_PADDING)
