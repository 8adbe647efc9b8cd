"""Check the invariant for all studies: gateway within storage within disk. Reads both Orthancs, records and disk; writes no file.

Used by `ddwd reconcile --dry-run`; what the extractor does about a difference is decided in `decision.py`. One study is in memory
at a time, whatever the number of studies; of those compared before, a number each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.core.errors import StateError
from ddwd.extractor.lost_images import LostImages, accepted, is_covered, lost_images
from ddwd.extractor.study import ids_of
from ddwd.store.custody import is_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ddwd.config.paths import Paths
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort
    from ddwd.store.custody import Custody, Record
    from ddwd.store.record_check import RecordChecker

_ID_DIGITS = 16
"""Hexadecimal digits of an Orthanc ID that distinguish studies here: two of 100,000 are taken for one once in a billion runs."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One study, and how many of its images are missing where.

    `not_on_storage`: on the gateway, not on storage. `not_on_disk`: on storage, not in the record.
    `lost_on_gateway`, `lost_on_storage`: received and no longer there, and retention did not remove it: see lost_images.
    `set_aside`: given up, in quarantine. `gone_from_disk`: recorded, and not there by name and size.
    `nodes`: the Orthancs that have the study. `damage`: why its record cannot be used.
    """

    study: OrthancId
    study_uid: str
    nodes: tuple[str, ...]
    not_on_storage: int = 0
    not_on_disk: int = 0
    set_aside: int = 0
    gone_from_disk: int = 0
    damage: str = ""
    lost_on_gateway: int = 0
    lost_on_storage: int = 0

    @property
    def agrees(self) -> bool:
        """Whether the invariant holds for this study."""
        missing = self.not_on_storage + self.not_on_disk + self.set_aside + self.gone_from_disk
        return not missing and not self.damage and not self.lost_on_gateway and not self.lost_on_storage


@dataclass(slots=True)
class DifferenceTotals:
    """The sums over all studies compared."""

    studies: int = 0
    differing: int = 0
    on_gateway_only: int = 0
    on_storage_only: int = 0
    on_disk_only: int = 0
    not_on_storage: int = 0
    not_on_disk: int = 0
    set_aside: int = 0
    gone_from_disk: int = 0
    damaged: int = 0
    lost_on_gateway: int = 0
    lost_on_storage: int = 0

    def add(self, one: Difference) -> None:
        """Add one study."""
        self.studies += 1
        self.differing += not one.agrees
        self.on_gateway_only += one.nodes == ("gateway",)
        self.on_storage_only += one.nodes == ("storage",)
        self.on_disk_only += not one.nodes
        self.not_on_storage += one.not_on_storage
        self.not_on_disk += one.not_on_disk
        self.set_aside += one.set_aside
        self.gone_from_disk += one.gone_from_disk
        self.damaged += bool(one.damage)
        self.lost_on_gateway += one.lost_on_gateway
        self.lost_on_storage += one.lost_on_storage


@dataclass
class ConsistencyCheck:
    """Compares studies over all three places. Every method raises PeerDownError, PeerRefusedError and StateError."""

    gateway: OrthancPort
    storage: OrthancPort
    custody: Custody
    prover: RecordChecker
    paths: Paths

    def __post_init__(self) -> None:
        self._accepted = accepted(self.paths.lost)

    def everything(self, seen: Callable[[], None] = lambda: None) -> Iterator[Difference]:
        """Compare every study of either Orthanc and every published one; `seen` is called for each listed, so twice for some."""
        self.prover.assert_listable()
        compared: set[int] = set()
        for listing in (self.gateway.study_ids, self.storage.study_ids, self.custody.studies):
            for study in listing():
                seen()
                short = int(study.replace("-", "")[:_ID_DIGITS], 16)
                if short not in compared:
                    compared.add(short)
                    yield self._of(study)

    def some(
        self, studies: Iterable[OrthancId], seen: Callable[[], None] = lambda: None
    ) -> Iterator[Difference]:
        """Compare these studies; as `everything` otherwise."""
        self.prover.assert_listable()
        for study in studies:
            seen()
            yield self._of(study)

    def _of(self, study: OrthancId) -> Difference:
        """Read in the order of the flow, so that an image that moves on meanwhile is not missed."""
        gateway, storage = self.gateway.study(study), self.storage.study(study)
        nodes = tuple(name for name, found in (("gateway", gateway), ("storage", storage)) if found)
        listing = gateway or storage
        uid = listing.study_uid if listing else ""
        try:
            record = self.prover.record(study) if self.custody.has(study) else None
        except StateError as error:
            return Difference(study, uid, nodes, damage=str(error))
        sent, stored = ids_of(gateway), ids_of(storage)
        images = frozenset(record.images if record else ())
        aside = frozenset(record.set_aside if record else ()) - images
        lost = self._lost(record, sent, stored)
        return Difference(
            study,
            uid or (record.study_uid if record else ""),
            nodes,
            not_on_storage=len(sent - stored - aside),
            not_on_disk=len(stored - images - aside),
            set_aside=len(aside),
            gone_from_disk=self._gone(record) if record else 0,
            lost_on_gateway=len(lost.gateway) if lost else 0,
            lost_on_storage=len(lost.storage) if lost else 0,
        )

    def _lost(
        self, record: Record | None, gateway: frozenset[OrthancId], storage: frozenset[OrthancId]
    ) -> LostImages | None:
        """Return the images that are missing on the Orthancs and whose loss was not accepted."""
        if record is None:
            return None
        lost, row = lost_images(record, gateway, storage), self._accepted.get(record.study)
        return None if row is not None and is_covered(lost, row) else lost

    def _gone(self, record: Record) -> int:
        folder = self.paths.output / record.folder
        try:
            return sum(is_missing(folder, image) for image in record.images.values())
        except OSError as error:  # its own text would have the path, and with it the PatientID
            raise StateError(
                f"a file below {self.paths.output} cannot be looked at ({error.strerror})"
            ) from error
