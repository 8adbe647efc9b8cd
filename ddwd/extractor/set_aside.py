"""Setting one image aside: its bytes go to quarantine as far as an Orthanc can read them, and its study goes on without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core.errors import DdwdError
from ddwd.extractor.quarantine import QuarantinedObject

if TYPE_CHECKING:
    from ddwd.core.model import OrthancId
    from ddwd.extractor.peers import Peers
    from ddwd.extractor.quarantine import Quarantine
    from ddwd.extractor.study import AttemptCounter, StudyState


class SetAside:
    """Puts images that were tried too often into quarantine."""

    def __init__(self, peers: Peers, quarantine: Quarantine) -> None:
        self._peers = peers
        self._quarantine = quarantine

    def set_aside(
        self, study: StudyState, instance: OrthancId, reason: str, attempts: AttemptCounter
    ) -> None:
        """Give the image up. Raises StorageFullError and OSError."""
        content, sop_uid = self._bytes_of(instance)
        subject = QuarantinedObject(
            kind="undeliverable",
            study_uid=study.listing.study_uid if study.listing else "",
            reason=reason,
            study=study.study_id,
            instance=instance,
            sop_uid=sop_uid,
            tries=attempts.attempts(instance),
        )
        self._quarantine.keep(content, subject)
        study.set_aside[instance] = reason

    def _bytes_of(self, instance: OrthancId) -> tuple[bytes | None, str]:
        """Return the file as either Orthanc has it, None if neither can read it, and the SOPInstanceUID."""
        content, sop_uid = None, ""
        for node in (self._peers.storage, self._peers.gateway):
            try:
                sop_uid = sop_uid or node.sop_uids([instance]).get(instance, "")
                content = content or node.file(instance)
            except DdwdError:
                continue
        return content, sop_uid
