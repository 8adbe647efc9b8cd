"""What a round of retention did, for people: what went, what had to stay and why. The extractor alone writes the file.

It holds no patient: studies are named by their StudyInstanceUID, one for each reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.config.retention import PLACES, Place
from ddwd.core import durable
from ddwd.core.errors import DamagedStateError, NewerStateError, StateError
from ddwd.store.statefile import StateFormat
from ddwd.store.status_files import KeptStudies, PlaceReport, RoundReport

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.retention.eligibility import Finding
    from ddwd.retention.remove import Removed

FORMAT = StateFormat(RoundReport, "report of retention", schema=1, indent=1)
_MOST_REASONS = 50
"""Some have a number in them; beyond so many they are told as one."""


@dataclass
class KeptCount:
    """Studies that should have gone, and could not for this reason; `example` is the StudyInstanceUID of one."""

    reason: str
    studies: int = 0
    example: str = ""


@dataclass
class Tally:
    """What went from one place, and what had to stay."""

    studies: int = 0
    images: int = 0
    bytes: int = 0
    kept: dict[str, KeptCount] = field(default_factory=dict)

    def removed(self, gone: Removed) -> None:
        """Count what went."""
        self.studies += 1
        self.images += gone.images
        self.bytes += gone.bytes

    def stays(self, finding: Finding, reason: str) -> None:
        """Count one that had to stay."""
        if len(self.kept) >= _MOST_REASONS and reason not in self.kept:
            reason = "other reasons"
        kept = self.kept.setdefault(reason, KeptCount(reason, example=finding.study_uid or finding.study))
        kept.studies += 1

    def report(self) -> PlaceReport:
        """What has been counted so far."""
        kept = sorted(self.kept.values(), key=lambda one: -one.studies)
        rows = tuple(KeptStudies(one.reason, one.studies, one.example) for one in kept)
        return PlaceReport(self.studies, self.images, self.bytes, rows)


@dataclass
class Account:
    """One round: stamps of its begin and end, a tally for each place, and what broke it off."""

    began_at: str = ""
    ended_at: str = ""
    problem: str = ""
    places: dict[Place, Tally] = field(default_factory=lambda: {place: Tally() for place in PLACES})

    def report(self) -> RoundReport:
        """What has been counted so far, for the status and the file."""
        places = {place: tally.report() for place, tally in self.places.items()}
        return RoundReport(self.began_at, self.ended_at, self.problem, places)


def read(path: Path) -> RoundReport | None:
    """The last round; None where there was none, or its file is damaged. Raises StateError."""
    try:
        return FORMAT.read(path)
    except (DamagedStateError, NewerStateError):
        return None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}; it is for root and group ddwd") from error


def write(path: Path, account: Account) -> None:
    """Put the round in place of the one before. Raises StorageFullError and OSError."""
    durable.make_dirs(path.parent)
    FORMAT.write(path, account.report())
