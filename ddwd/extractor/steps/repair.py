"""Repair step: images that cannot pass. Storage that has lost a file gets it again; an image tried too often is set aside.

A database that is killed while it commits may keep the row although Orthanc saw a failure and removed the file; a disk may lose a
file. Such an image can never be moved, and Orthanc takes no new copy while it lists the old one. If the gateway has the whole file,
the row is deleted from storage, and the reconciler forwards the image as it forwards any that storage is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.core.audit import Audit, Event
from ddwd.core.errors import DdwdError, NotFoundError, PeerRefusedError
from ddwd.extractor.quarantine import QuarantinedObject

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection, Mapping

    from ddwd.core.model import OrthancId
    from ddwd.extractor.peers import Peers
    from ddwd.extractor.quarantine import Quarantine
    from ddwd.extractor.study import StudyState


_CHECKED = 200
"""Files of ORTHANC1 that are read at most to find a lost one: as many as one STOW-RS job sends."""


@dataclass
class StorageRepair:
    """Compares both Orthancs' files of one image. Besides retention only this module deletes a modality's image from an Orthanc."""

    peers: Peers
    audit: Audit

    def repair(self, study_uid: str, instance: OrthancId) -> bool:
        """Delete the image from storage if its file is lost or damaged there and the gateway has the same file, whole.

        Returns whether it was deleted. Raises PeerDownError.
        """
        gateway, storage = self.peers.nodes
        try:
            if (
                storage.is_whole(instance)
                or gateway.md5(instance) != storage.md5(instance)
                or not gateway.is_whole(instance)
            ):
                return False
            storage.forget(instance)
        except (NotFoundError, PeerRefusedError):
            return False
        self.audit.record(
            Event.REPAIRED,
            "storage listed an image and had lost its file; the gateway sends it again",
            study_uid=study_uid,
            instance=instance,
        )
        return True


@dataclass
class GatewayRepair:
    """Removes from ORTHANC1's index an image whose file it has not: one of them makes the STOW-RS of every image beside it fail.

    A database that is killed while it commits keeps such a row of an image that was never acknowledged. Its sender can send it again.
    """

    peers: Peers
    quarantine: Quarantine

    def forget_lost(self, study: StudyState, missing: Collection[OrthancId]) -> int:
        """Note the images in quarantine and delete their rows; return their number. Raises PeerDownError, StorageFullError and OSError.

        None is deleted unless another one of `missing` is whole: if the volume is away, every file is.
        """
        gateway, lost, is_there = self.peers.gateway, [], False
        for instance in sorted(missing)[:_CHECKED]:
            try:
                if gateway.is_whole(instance):
                    is_there = True
                elif not self._has_file(instance):
                    lost.append(instance)
            except (NotFoundError, PeerRefusedError):
                continue
        if not is_there:
            return 0
        for instance in lost:
            subject = QuarantinedObject(
                kind="undeliverable",
                study_uid=study.listing.study_uid if study.listing else "",
                reason="ORTHANC1 listed it and had no file of it; if its sender still has it, send it again",
                study=study.study_id,
                instance=instance,
                sop_uid=gateway.sop_uids([instance]).get(instance, ""),
            )
            self.quarantine.keep(None, subject)
            gateway.forget(instance)
        return len(lost)

    def _has_file(self, instance: OrthancId) -> bool:
        try:
            return bool(self.peers.gateway.file(instance))
        except (NotFoundError, PeerRefusedError):
            return False


@dataclass
class SetAside:
    """Gives up images after `tries` failed attempts: their bytes go to quarantine, and their study continues without them.

    Only attempts count that the peer itself refused, or that failed while a sound image passed the same hop: so an outage sends no
    image to quarantine, and one bad image does not hold up its study.
    """

    peers: Peers
    quarantine: Quarantine
    tries: int

    def count(self, study: StudyState, attempts: Counter[OrthancId], failed: Mapping[OrthancId, str]) -> bool:
        """Count one failed attempt of each image, given with its reason; return whether any was set aside.

        Raises StorageFullError and OSError.
        """
        attempts.update(failed.keys())
        spent = [instance for instance in failed if attempts[instance] >= self.tries]
        for instance in spent:
            content, sop_uid = self._content(instance)
            subject = QuarantinedObject(
                kind="undeliverable",
                study_uid=study.listing.study_uid if study.listing else "",
                reason=failed[instance],
                study=study.study_id,
                instance=instance,
                sop_uid=sop_uid,
                tries=attempts[instance],
            )
            self.quarantine.keep(content, subject)
            study.set_aside[instance] = failed[instance]
        return bool(spent)

    def _content(self, instance: OrthancId) -> tuple[bytes | None, str]:
        """Return the file as either Orthanc has it, None if neither can read it, and the SOPInstanceUID."""
        content, sop_uid = None, ""
        for node in (self.peers.storage, self.peers.gateway):
            try:
                sop_uid = sop_uid or node.sop_uids([instance]).get(instance, "")
                content = content or node.file(instance)
            except DdwdError:
                continue
        return content, sop_uid
