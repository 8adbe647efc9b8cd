"""How one destination stands, as its lane tells it to people: nothing of a patient is in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Standing:
    """How one destination stands; `state` is ok or away, `since` when that began, stamps UTC. `wait` is in seconds."""

    name: str
    kind: str
    state: str
    since: str
    reason: str
    studies: int
    images: int
    oldest: str
    delivered: int
    delivered_at: str
    wait: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the status file."""
        return {key: value for key, value in asdict(self).items() if key != "wait"}
