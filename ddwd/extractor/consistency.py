"""The invariant, asked of everything at once: gateway within storage within disk. Reads both Orthancs, records and disk; writes nothing.

Used by `ddwd reconcile --dry-run`; what the extractor does about a difference is decided in `lifecycle.py`. One study is in memory
at a time, whatever the number of studies; of those seen before, a number each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.core.errors import StateError
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
"""Hexadecimal digits of an Orthanc ID that tell studies apart here: two of 100,000 are taken for one once in a billion runs."""


_NONE: frozenset[OrthancId] = frozenset()


@dataclass(frozen=True, slots=True)
class Difference:
    """One study, and how many of its images are where; it agrees when nothing is missing.

    `not_on_storage`: on the gateway, not on storage. `not_on_disk`: on storage, not in the record.
    `set_aside`: given up on, in quarantine. `gone_from_disk`: recorded, and not there by name and size.
    `nodes`: where it is known. `damage`: why its record cannot be used.
    """

    study: OrthancId
    study_uid: str
    nodes: tuple[str, ...]
    not_on_storage: int = 0
    not_on_disk: int = 0
    set_aside: int = 0
    gone_from_disk: int = 0
    damage: str = ""

    @property
    def agrees(self) -> bool:
        """True when the invariant holds for this study."""
        lacking = self.not_on_storage + self.not_on_disk + self.set_aside + self.gone_from_disk
        return not lacking and not self.damage


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

    def add(self, one: Difference) -> None:
        """Take in one study."""
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


class ConsistencyCheck:
    """Compares studies over all three places."""

    def __init__(
        self,
        gateway: OrthancPort,
        storage: OrthancPort,
        custody: Custody,
        prover: RecordChecker,
        paths: Paths,
    ) -> None:
        self._gateway = gateway
        self._storage = storage
        self._custody = custody
        self._prover = prover
        self._paths = paths

    def everything(self, seen: Callable[[], None] = lambda: None) -> Iterator[Difference]:
        """Every study of either Orthanc and every published one; `seen` is called for each listed, so twice for some.

        Raises PeerDownError, PeerRefusedError and StateError.
        """
        self._prover.assert_listable()
        known: set[int] = set()
        for listing in (self._gateway.study_ids, self._storage.study_ids, self._custody.studies):
            for study in listing():
                seen()
                if (short := _short(study)) not in known:
                    known.add(short)
                    yield self._of(study)

    def some(
        self, studies: Iterable[OrthancId], seen: Callable[[], None] = lambda: None
    ) -> Iterator[Difference]:
        """These studies; as `everything` otherwise."""
        self._prover.assert_listable()
        for study in studies:
            seen()
            yield self._of(study)

    def _of(self, study: OrthancId) -> Difference:
        """Follow the way of the images, so that one that moves on meanwhile is not missed."""
        gateway, storage = self._gateway.study(study), self._storage.study(study)
        nodes = tuple(name for name, found in (("gateway", gateway), ("storage", storage)) if found)
        listing = gateway or storage
        uid = listing.study_uid if listing else ""
        try:
            record = self._prover.record(study) if self._custody.has(study) else None
        except StateError as error:
            return Difference(study, uid, nodes, damage=str(error))
        sent, stored = ids_of(gateway), ids_of(storage)
        images = frozenset(record.images) if record else _NONE
        aside = frozenset(record.set_aside) - images if record else _NONE
        return Difference(
            study,
            uid or (record.study_uid if record else ""),
            nodes,
            not_on_storage=len(sent - stored - aside),
            not_on_disk=len(stored - images - aside),
            set_aside=len(aside),
            gone_from_disk=self._gone(record) if record else 0,
        )

    def _gone(self, record: Record) -> int:
        folder = self._paths.output / record.folder
        try:
            return sum(is_missing(folder, kept) for kept in record.images.values())
        except OSError as error:  # its own text would have the path, and with it the PatientID
            raise StateError(
                f"a file below {self._paths.output} cannot be looked at ({error.strerror})"
            ) from error


def _short(study: OrthancId) -> int:
    return int(study.replace("-", "")[:_ID_DIGITS], 16)
