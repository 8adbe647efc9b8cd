"""Report a round of retention: what was removed, what was kept and why. Only the extractor writes the file.

It holds no patient data: one study per reason is named, by its StudyInstanceUID.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ddwd.config.retention import PLACES, Place
from ddwd.core import durable
from ddwd.core.errors import DamagedStateError, NewerStateError, StateError
from ddwd.store.statefile import StateFormat
from ddwd.store.status_files import KeptStudies, PlaceReport, RetentionRound

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.retention.eligibility import Eligibility
    from ddwd.retention.remove import Removed

FORMAT = StateFormat(RetentionRound, "report of retention", schema=1, indent=1)
_MAX_REASONS = 50
"""Some reasons hold a number; any further reasons are counted together."""


WHERE: dict[Place, str] = {"gateway": "the gateway", "storage": "storage", "output": "the output"}
"""Name of each place in messages to people."""


@dataclass
class Tally:
    """What was removed from one place, and what was kept, by the reason."""

    studies: int = 0
    images: int = 0
    bytes: int = 0
    kept: dict[str, KeptStudies] = field(default_factory=dict)

    def removed(self, gone: Removed) -> None:
        """Count a study of which images were removed."""
        self.studies += 1
        self.images += gone.images
        self.bytes += gone.bytes

    def stays(self, finding: Eligibility, reason: str) -> None:
        """Count a study that was kept."""
        if len(self.kept) >= _MAX_REASONS and reason not in self.kept:
            reason = "other reasons"
        kept = self.kept.get(reason) or KeptStudies(reason, example=finding.study_uid or finding.study)
        self.kept[reason] = replace(kept, studies=kept.studies + 1)

    def report(self) -> PlaceReport:
        """Return the tally as it is stored; the reason with most studies first."""
        kept = sorted(self.kept.values(), key=lambda row: -row.studies)
        return PlaceReport(self.studies, self.images, self.bytes, tuple(kept))


def tallies() -> dict[Place, Tally]:
    """Return an empty tally for each place."""
    return {place: Tally() for place in PLACES}


def read(path: Path) -> RetentionRound | None:
    """Return the last round; None if there was none or the file is damaged. Raises StateError."""
    try:
        return FORMAT.read(path)
    except (DamagedStateError, NewerStateError):
        return None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}; it is for root and group ddwd") from error


def write(path: Path, report: RetentionRound) -> None:
    """Write the report of the round over that of the round before. Raises StorageFullError and OSError."""
    durable.make_dirs(path.parent)
    FORMAT.write(path, report)
