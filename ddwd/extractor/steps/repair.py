"""Repair step: have an image sent again that storage lists and whose file it has lost. Runs in the retriever's threads.

A database that is killed while it commits may keep the row although Orthanc saw a failure and removed the file; a disk may lose a
file. Such an image can never be moved, and Orthanc takes no new copy while it lists the old one. If the gateway has the whole file,
the row is deleted from storage, and the reconciler forwards the image as it forwards any that storage is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core.audit import Audit, Event
from ddwd.core.errors import NotFoundError, PeerRefusedError

if TYPE_CHECKING:
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort


class StorageRepair:
    """Compares both Orthancs' files of one image. Besides retention the only code that deletes a modality's image from an Orthanc."""

    def __init__(self, gateway: OrthancPort, storage: OrthancPort, audit: Audit) -> None:
        self._gateway = gateway
        self._storage = storage
        self._audit = audit

    def repair(self, study_uid: str, instance: OrthancId) -> bool:
        """Delete the image from storage if its file is lost or damaged there and the gateway has the same file, whole.

        Returns whether it was deleted. Raises PeerDownError.
        """
        try:
            if self._storage.is_whole(instance) or not self._gateway_has_the_same(instance):
                return False
            self._storage.forget(instance)
        except (NotFoundError, PeerRefusedError):
            return False
        self._audit.record(
            Event.REPAIRED,
            "storage listed an image and had lost its file; the gateway sends it again",
            study_uid=study_uid,
            instance=instance,
        )
        return True

    def _gateway_has_the_same(self, instance: OrthancId) -> bool:
        same = self._gateway.md5(instance) == self._storage.md5(instance)
        return same and self._gateway.is_whole(instance)
