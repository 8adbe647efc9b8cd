"""One row of the table: what was measured, on which side, against which target. And the sizes of a full and of a quick bench."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: repetitions of each side, images in each study, and how long."""

    times: int
    tails: dict[int, int]
    """Images of a study to how often the plain pipeline is measured with it; the last is the one that is compared."""
    compared: int
    ingest: int
    ingest_others: int
    """Images for the senders that the target is not about; 0 leaves out those over the LAN."""
    hop_ct: int
    hop_mr: int
    chain: int
    reception: int
    steady_seconds: float
    object_bytes: int
    finished: tuple[int, int]
    settle: float
    """Seconds that the finished studies are left to themselves before they are measured."""


FULL = Scale(
    times=5,
    tails={100: 1, 600: 5, 2000: 0},
    compared=600,
    ingest=250,  # of the 2000 that the target names: Debian's side takes 95 ms for each
    ingest_others=50,
    hop_ct=600,
    hop_mr=2000,
    chain=60,
    reception=600,
    steady_seconds=1800,
    object_bytes=2 * 1024**3,
    finished=(100, 100_000),
    settle=20,
)
QUICK = Scale(
    times=1,
    tails={50: 1, 150: 1},
    compared=150,
    ingest=80,
    ingest_others=0,
    hop_ct=150,
    hop_mr=300,
    chain=12,
    reception=150,
    steady_seconds=15,
    object_bytes=256 * 1024**2,
    finished=(100, 2_000),
    settle=8,
)


@dataclass
class Row:
    """One figure and its target.

    `ours` and `theirs` are all measurements, in `unit`. `value` is what the target is about: the median of ours, or where there
    is another side the ratio of the medians, greater being better for us.
    """

    name: str
    what: str
    unit: str
    target: float
    sense: Literal["<=", ">="]
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    bigger_is_better: bool = False

    @property
    def value(self) -> float:
        """The figure that is held against the target."""
        if not self.theirs:
            return median(self.ours)
        ours, theirs = median(self.ours), median(self.theirs)
        return ours / theirs if self.bigger_is_better else theirs / ours

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.value <= self.target if self.sense == "<=" else self.value >= self.target

    def as_dict(self) -> dict[str, Any]:
        """For bench.json."""
        return {
            "name": self.name,
            "what": self.what,
            "unit": self.unit,
            "ours": self.ours,
            "theirs": self.theirs,
            "ours_median": median(self.ours),
            "theirs_median": median(self.theirs) if self.theirs else None,
            "ratio": self.value if self.theirs else None,
            "value": self.value,
            "target": f"{self.sense} {self.target:g}",
            "met": self.met,
        }
