"""The status files of the daemons, as frozen dataclasses that the writer and all readers share.

Every field has a default, so that a file of an older version, which has fewer keys, is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ddwd.config.retention import Place

# --- retention --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeptStudies:
    """Studies that should have been removed, and were kept for `reason`; `example` is the StudyInstanceUID of one."""

    reason: str
    studies: int = 0
    example: str = ""


@dataclass(frozen=True, slots=True)
class PlaceReport:
    """What retention removed from one place (studies, images, bytes), and what it had to keep there, the commonest reason first."""

    studies: int = 0
    images: int = 0
    bytes: int = 0
    kept: tuple[KeptStudies, ...] = ()


@dataclass(frozen=True, slots=True)
class RetentionRound:
    """One round of retention: UTC stamps of its begin and end, what broke it off, and a report for each place."""

    began_at: str = ""
    ended_at: str = ""
    problem: str = ""
    places: dict[Place, PlaceReport] = field(default_factory=dict)
