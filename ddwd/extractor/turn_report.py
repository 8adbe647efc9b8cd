"""What one turn of the extractor did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddwd.extractor.reconciler import Result
    from ddwd.extractor.steps.publish import Published


@dataclass
class TurnReport:
    """What one turn did; `more` is True if the next turn should begin at once."""

    published: list[Published] = field(default_factory=list)
    opened: int = 0
    retrieved: int = 0
    bytes: int = 0
    forwarded: int = 0
    more: bool = False

    def add(self, result: Result) -> None:
        """Add what came of one reconciliation."""
        self.forwarded += result.forwarded
        self.retrieved += result.retrieved
        self.bytes += result.bytes
        if result.published is not None:
            self.published.append(result.published)
