"""Report a round of retention: what was removed, what was kept and why. Only the extractor writes the file.

It holds no patient data: one study per reason is named, by its StudyInstanceUID.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ddwd.config.retention import PLACES, Place
from ddwd.core import durable
from ddwd.core.errors import StateError

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.retention.eligibility import Eligibility
    from ddwd.retention.remove import Removed

SCHEMA = 1
_MAX_REASONS = 50
"""Some reasons hold a number; any further reasons are counted together."""


@dataclass
class HeldBack:
    """Number of studies that were kept for this reason after their time was over; `example` is the StudyInstanceUID of one."""

    reason: str
    studies: int = 0
    example: str = ""


@dataclass
class Tally:
    """What was removed from one place, and what was kept."""

    studies: int = 0
    images: int = 0
    bytes: int = 0
    kept: dict[str, HeldBack] = field(default_factory=dict)

    def removed(self, gone: Removed) -> None:
        """Count a study of which images were removed."""
        self.studies += 1
        self.images += gone.images
        self.bytes += gone.bytes

    def stays(self, finding: Eligibility, reason: str) -> None:
        """Count a study that was kept."""
        if len(self.kept) >= _MAX_REASONS and reason not in self.kept:
            reason = "other reasons"
        kept = self.kept.setdefault(reason, HeldBack(reason, example=finding.study_uid or finding.study))
        kept.studies += 1

    def as_dict(self) -> dict[str, Any]:
        """Return the tally for JSON; the reason with most studies first."""
        kept = sorted(self.kept.values(), key=lambda one: -one.studies)
        return {
            "studies": self.studies,
            "images": self.images,
            "bytes": self.bytes,
            "kept": [asdict(one) for one in kept],
        }


@dataclass
class RoundReport:
    """One round: the stamps of its begin and end, a tally for each place, and the error that ended it, if any."""

    began_at: str = ""
    ended_at: str = ""
    problem: str = ""
    places: dict[Place, Tally] = field(default_factory=lambda: {place: Tally() for place in PLACES})

    def as_dict(self) -> dict[str, Any]:
        """Return the report for the status file and for its own file."""
        places = {place: tally.as_dict() for place, tally in self.places.items()}
        return {
            "began_at": self.began_at,
            "ended_at": self.ended_at,
            "problem": self.problem,
            "places": places,
        }


def read(path: Path) -> dict[str, Any]:
    """Return the last round in the form of `RoundReport.as_dict`; empty if there was none or the file is damaged. Raises StateError."""
    try:
        body = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}; it is for root and group ddwd") from error
    return body if isinstance(body, dict) and body.get("schema") == SCHEMA else {}


def write(path: Path, account: RoundReport) -> None:
    """Write the report of the round over that of the round before. Raises StorageFullError and OSError."""
    durable.make_dirs(path.parent)
    body = {"schema": SCHEMA} | account.as_dict()
    durable.replace_file(path, json.dumps(body, indent=1).encode("ascii") + b"\n")
