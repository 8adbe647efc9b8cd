"""Verify that an object of a commitment request is kept: look it up in the index, then prove it by its file. Writes no file.

`stored`: ORTHANC1 has it, or ORTHANC2 where ORTHANC1 no longer does, and the file has the MD5 from reception. `verified`: the custody
record names it, and the published file has the recorded SHA-256. Either way its SOP class is that of the request, and no object of
other content arrived under its identifiers: the modality may mean that one, which is not in custody.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from ddwd.core import watchdog
from ddwd.core.errors import NotFoundError, StateError
from ddwd.extractor.quarantine import read_entries
from ddwd.store.custody import is_missing
from ddwd.store.record_check import is_as_recorded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ddwd.config.paths import Paths
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import Held, ImageProofs
    from ddwd.store.commitment_queue import Reference
    from ddwd.store.custody import Custody, Record

    _Records = dict[OrthancId, Record | None]


class Reason(IntEnum):
    """Why an object is not committed (PS3.3 section C.14.1.1, Failure Reason)."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT = 0x0112
    CLASS_CONFLICT = 0x0119


class Copy(NamedTuple):
    """One stored object, the Orthanc that has it, and its study there."""

    holder: ImageProofs
    held: Held
    study: OrthancId | None


Found = dict["Reference", list[Copy]]
"""The copies of each requested object by the indexes; an empty list if neither Orthanc has it."""


@dataclass(frozen=True, slots=True)
class CommitmentResult:
    """The objects that are kept, and the others with the reason."""

    committed: tuple[Reference, ...]
    failed: Mapping[Reference, Reason]


@dataclass(frozen=True)
class CommitmentVerifier:
    """Combines both Orthancs, the custody records and the published files."""

    orthancs: Sequence[ImageProofs]
    custody: Custody
    paths: Paths
    verified: bool

    def look(self, references: Iterable[Reference]) -> Found:
        """Query ORTHANC1 for each object, and ORTHANC2 for those that it does not have. Raises PeerDownError, PeerRefusedError."""
        found: Found = {reference: [] for reference in references}
        for orthanc in self.orthancs:
            missing = {reference.sop_uid for reference, copies in found.items() if not copies}
            copies = self._copies(orthanc, missing)
            for reference in found:
                found[reference] += copies.get(reference.sop_uid, [])
        return found

    @staticmethod
    def _copies(orthanc: ImageProofs, sop_uids: Iterable[str]) -> dict[str, list[Copy]]:
        studies: dict[OrthancId, OrthancId | None] = {}
        copies: dict[str, list[Copy]] = {}
        for held in orthanc.find_images(sop_uids):
            if held.series not in studies:
                studies[held.series] = orthanc.study_of("Series", held.series)
            copies.setdefault(held.sop_uid, []).append(Copy(orthanc, held, studies[held.series]))
        return copies

    def is_settled(self, found: Found) -> bool:
        """Return whether longer waiting could not help: by names and sizes alone, no server is queried."""
        conflicts = self._conflicts()
        records: _Records = {}
        return not any(
            copy.held.orthanc_id in conflicts or (self.verified and self._is_missing(copy, records))
            for reference, copies in found.items()
            for copy in copies
            if copy.held.sop_class == reference.sop_class
        )

    def answer(self, found: Found) -> CommitmentResult:
        """Prove each object by its file. Raises PeerDownError, PeerRefusedError, OSError."""
        # first: a conflict that moves to quarantine meanwhile is noted there before it leaves this folder
        disputed = self._conflicts()
        quarantined = read_entries(self.paths.quarantine)
        disputed |= {str(entry.subject.instance) for entry in quarantined if entry.subject.kind == "conflict"}
        records: _Records = {}
        failed: dict[Reference, Reason] = {}
        for reference, copies in found.items():
            watchdog.alive()
            if not copies:
                failed[reference] = Reason.NO_SUCH_OBJECT
            elif any(copy.held.sop_class != reference.sop_class for copy in copies):
                failed[reference] = Reason.CLASS_CONFLICT
            elif any(
                copy.held.orthanc_id in disputed or not self._is_proved(copy, records) for copy in copies
            ):
                failed[reference] = Reason.PROCESSING_FAILURE
        return CommitmentResult(tuple(reference for reference in found if reference not in failed), failed)

    def _conflicts(self) -> set[str]:
        """Return the objects of which other content arrived that is not compared with the stored one yet (orthanc/plugin/admission.py)."""
        folders = (self.paths.conflicts("gateway"), self.paths.conflicts("storage"))
        return {path.name.partition(".")[0] for folder in folders for path in folder.glob("*.dcm")}

    def _is_missing(self, copy: Copy, records: _Records) -> bool:
        image, record = copy.held.orthanc_id, self._record(copy, records)
        if record is not None and image in record.passed:
            return False  # its route leaves it on storage: it will not be published
        if record is None or image not in record.images:
            return True
        try:
            return is_missing(self.paths.output / record.folder, record.images[image])
        except OSError:  # it cannot be read now
            return True

    def _is_proved(self, copy: Copy, records: _Records) -> bool:
        record = self._record(copy, records) if self.verified else None
        entry = record.images.get(copy.held.orthanc_id) if record else None
        if not self.verified or (entry is not None and entry.removed):
            # a file that retention removed was proved before, and an Orthanc still has the image
            try:
                return copy.holder.is_whole(copy.held.orthanc_id)
            except NotFoundError:  # deleted a moment ago
                return False
        return record is not None and entry is not None and is_as_recorded(self.paths.output, record, entry)

    def _record(self, copy: Copy, records: _Records) -> Record | None:
        """Return the custody record of its study; None if it does not exist or is damaged. Each is read once per call of `answer`."""
        if copy.study is None:
            return None
        if copy.study not in records:
            try:
                records[copy.study] = self.custody.read(copy.study)
            except StateError:
                records[copy.study] = None
        return records[copy.study]
