"""Patient ID and accession number of the studies on the screen: asked of an Orthanc, kept in memory only.

No world-readable file of the portal has them; who may read the Orthancs' passwords (group ddwd) may see them here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.core.errors import DdwdError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort

_KEPT = 500
_MASK = "\N{BULLET}"
_SHOWN = 2


@dataclass(frozen=True, slots=True)
class Patient:
    """Patient ID and accession number of a study; empty if no Orthanc reports them."""

    patient_id: str = ""
    accession: str = ""

    @property
    def masked(self) -> str:
        """The patient ID with all but its last two characters hidden."""
        hidden = max(len(self.patient_id) - _SHOWN, min(len(self.patient_id), _SHOWN))
        return _MASK * min(hidden, 6) + self.patient_id[hidden:]


class Patients:
    """Remembers the patients of the latest studies."""

    def __init__(self, nodes: Sequence[OrthancPort]) -> None:
        self._nodes = nodes
        self._known: dict[OrthancId, Patient] = {}

    def of(self, study: OrthancId) -> Patient:
        """Return what is known of this study so far; asks no Orthanc."""
        return self._known.get(study, Patient())

    def ask(self, studies: Sequence[OrthancId]) -> None:
        """Ask about studies not known yet. An Orthanc that does not answer is asked again next time."""
        for study in studies:
            if study not in self._known and (found := self._asked(study)) is not None:
                self._known[study] = found
        while len(self._known) > _KEPT:
            self._known.pop(next(iter(self._known)))

    def _asked(self, study: OrthancId) -> Patient | None:
        for node in self._nodes:
            try:
                listing = node.study(study)
            except DdwdError:
                continue
            if listing is not None:
                return Patient(listing.patient_id.strip(), listing.accession.strip())
        return None
