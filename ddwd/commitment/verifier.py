"""Verify that an object of a commitment request is kept: look it up in the index, then prove it by its file.

`stored`: ORTHANC1 has it, or ORTHANC2 where ORTHANC1 no longer does, and the file has the MD5 it came with. `verified`: the custody
record names it, and the published file has the recorded SHA-256. Either way its SOP class is the one asked about, and no object of
other content that came under its identifiers lies aside: the modality may mean that one, which is in no custody. Writes nothing.
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
"""What the indexes hold of each object that is asked about; no entry if neither holds it."""


@dataclass(frozen=True, slots=True)
class CommitmentResult:
    """The objects that are kept, and the others with the reason."""

    committed: tuple[Reference, ...]
    failed: Mapping[Reference, Reason]


class CommitmentVerifier:
    """Combines both Orthancs, the custody records and the published files."""

    def __init__(
        self,
        orthancs: Sequence[ImageProofs],
        custody: Custody,
        paths: Paths,
        *,
        verified: bool,
    ) -> None:
        self._orthancs = orthancs
        self._custody = custody
        self._paths = paths
        self._verified = verified

    def look(self, references: Iterable[Reference]) -> Found:
        """Ask ORTHANC1 for each object, and ORTHANC2 for what it does not know. Raises PeerDownError, PeerRefusedError."""
        found: Found = {reference: [] for reference in references}
        for orthanc in self._orthancs:
            wanted = {reference.sop_uid for reference, copies in found.items() if not copies}
            copies = self._copies(orthanc, wanted)
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
        """Tell whether waiting longer could not help: by names and sizes alone, no server is asked."""
        aside = self._aside()
        records: dict[OrthancId, Record | None] = {}
        return not any(
            copy.held.orthanc_id in aside or (self._verified and self._is_missing(copy, records))
            for reference, copies in found.items()
            for copy in copies
            if copy.held.sop_class == reference.sop_class
        )

    def answer(self, found: Found) -> CommitmentResult:
        """Prove each object by its file. Raises PeerDownError, PeerRefusedError, OSError."""
        disputed = self._aside() | self._in_quarantine()
        records: dict[OrthancId, Record | None] = {}
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
        return CommitmentResult(tuple(one for one in found if one not in failed), failed)

    def _aside(self) -> set[str]:
        """What came under identifiers that were taken, and was not compared with what is stored yet (ddwd/orthanc/plugin/admission.py)."""
        folders = (self._paths.conflicts("gateway"), self._paths.conflicts("storage"))
        return {path.name.partition(".")[0] for folder in folders for path in folder.glob("*.dcm")}

    def _in_quarantine(self) -> set[str]:
        entries = read_entries(self._paths.quarantine)
        return {str(entry.subject.instance) for entry in entries if entry.subject.kind == "conflict"}

    def _is_missing(self, copy: Copy, records: dict[OrthancId, Record | None]) -> bool:
        record = self._record(copy, records)
        kept = record.images.get(copy.held.orthanc_id) if record else None
        if record is not None and copy.held.orthanc_id in record.passed:
            return False  # its rule leaves it where it is: it will not come
        if record is None or kept is None:
            return True
        try:
            return is_missing(self._paths.output / record.folder, kept)
        except OSError:  # it cannot be looked for now
            return True

    def _is_proved(self, copy: Copy, records: dict[OrthancId, Record | None]) -> bool:
        record = self._record(copy, records) if self._verified else None
        kept = record.images.get(copy.held.orthanc_id) if record else None
        if not self._verified or (kept is not None and kept.removed):
            # what retention took from the disk was proved there, and goes only while an Orthanc has it
            try:
                return copy.holder.is_whole(copy.held.orthanc_id)
            except NotFoundError:  # deleted a moment ago
                return False
        return record is not None and kept is not None and is_as_recorded(self._paths.output, record, kept)

    def _record(self, copy: Copy, records: dict[OrthancId, Record | None]) -> Record | None:
        """The custody record of its study; None where there is none that can be trusted. Read once in each look."""
        if copy.study is None:
            return None
        if copy.study not in records:
            try:
                records[copy.study] = self._custody.read(copy.study)
            except StateError:
                records[copy.study] = None
        return records[copy.study]
