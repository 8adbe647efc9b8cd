"""Find the published studies of other patients that have the StudyInstanceUID of a study, and ask the operator about them, once for each pair.

A study belongs to one patient (PS3.3 section A.1.2.2). Two PatientIDs under one StudyInstanceUID are most often a PatientID that was
corrected: both studies stay as they are, and the operator decides (an entry of the quarantine, which moves no file).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ddwd.core.errors import StateError
from ddwd.extractor.quarantine import TWO_PATIENTS, QuarantinedObject
from ddwd.store.custody import report_change

if TYPE_CHECKING:
    from ddwd.core.audit import Audit
    from ddwd.core.model import OrthancId
    from ddwd.extractor.peers import Peers
    from ddwd.extractor.quarantine import Quarantine
    from ddwd.store.custody import Custody, Record


@dataclass
class Namesakes:
    """Asks both Orthancs, which have an index of StudyInstanceUIDs: a study that neither has any more is not found."""

    peers: Peers
    custody: Custody
    quarantine: Quarantine
    audit: Audit

    def report(self, record: Record) -> None:
        """Put an entry into quarantine if the study has namesakes that are published and were not reported, and record them.

        The record must be durable: of two extractors that publish namesakes at once, one at least finds the other's record then.
        May be repeated after a crash. Raises PeerDownError, PeerRefusedError, StorageFullError and OSError; call it again then.
        """
        found = {study for node in self.peers.nodes for study in node.find_study(record.study_uid)}
        new = [study for study in sorted(found - {record.study}) if self._is_unreported(study, record)]
        if not new:
            return
        others = f"study {new[0]}" if len(new) == 1 else f"studies {', '.join(new)}"
        reason = f"its StudyInstanceUID is in use under another PatientID too, as {others}; both stay"
        self.quarantine.keep(
            None, QuarantinedObject(TWO_PATIENTS, record.study_uid, reason, study=record.study)
        )
        known = sorted({*record.namesakes, *new})
        digest = self.custody.write(replace(record, namesakes=known))
        record.namesakes = known  # not before: a record that could not be written is written again
        report_change(self.audit, record, digest, "its StudyInstanceUID is published under another PatientID")

    def _is_unreported(self, other: OrthancId, record: Record) -> bool:
        """Whether the other study is published, and neither record names the other: the later one of a pair does."""
        if other in record.namesakes:
            return False
        try:
            found = self.custody.read(other)
        except StateError:  # it was published, and its record is damaged
            return True
        return found is not None and record.study not in found.namesakes
