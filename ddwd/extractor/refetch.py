"""Find published studies whose files are missing from OUTPUT_DIR, and request a retry of each from the extractor, a few at a time.

Used by `ddwd retry --gone` and after a restore. Reads the custody records and the extractor's status; files requests, as any operator.
Requested all at once, they would all be in flight together.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from ddwd.core.clock import stamp
from ddwd.core.errors import StateError
from ddwd.store.custody import is_missing
from ddwd.store.operator_requests import Request
from ddwd.store.status_files import EXTRACTOR, ExtractorStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.core.clock import Clock
    from ddwd.core.model import OrthancId
    from ddwd.store.custody import Custody
    from ddwd.store.operator_requests import Requests

_AT_ONCE = 30
_LOOK_SECONDS = 0.5
_PATIENCE = 600.0
"""Seconds without one more study until the rest is left to the extractor: a peer is down, or the disk full."""


@dataclass
class RefetchOutcome:
    """Numbers of studies: requested, on disk again, not restored by any Orthanc, still under way."""

    asked: int = 0
    back: int = 0
    lost: int = 0
    waiting: int = 0


@dataclass
class _Pending:
    """A request, and when the extractor had taken it."""

    request: Path
    taken_at: str = ""


@dataclass
class Refetch:
    """One run over all records."""

    paths: Paths
    custody: Custody
    requests: Requests
    clock: Clock
    wait: Callable[[float], None]

    def gone(self) -> Iterator[OrthancId]:
        """Return the studies of which a recorded file is missing on disk. Raises OSError."""
        return (study for study in self.custody.studies() if self._is_gone(study))

    def run(self, report: Callable[[RefetchOutcome], None]) -> RefetchOutcome:
        """Request each, and wait until the extractor is done with it; `report` is called at every change."""
        outcome = RefetchOutcome()
        under_way: dict[OrthancId, _Pending] = {}
        gone, moved_at = self.gone(), self.clock.monotonic()
        while self.clock.monotonic() - moved_at <= _PATIENCE:
            for study in islice(gone, _AT_ONCE - len(under_way)):
                under_way[study] = _Pending(self.requests.submit(Request("retry", study)))
                outcome.asked += 1
            if not under_way:
                break
            done = self._settle(under_way, outcome)
            outcome.waiting = len(under_way)
            report(outcome)
            if done:
                moved_at = self.clock.monotonic()
            else:
                self.wait(_LOOK_SECONDS)
        return outcome

    def _settle(self, under_way: dict[OrthancId, _Pending], outcome: RefetchOutcome) -> int:
        """Take out those that are back, and those that the extractor has closed all the same; return their number."""
        status = EXTRACTOR.read_or_none(self.paths.heartbeat("extractor")) or ExtractorStatus()
        in_flight = {row.study for row in status.in_flight}
        before = len(under_way)
        for study, pending in list(under_way.items()):
            if not self._is_gone(study):
                outcome.back += 1
                del under_way[study]
            elif not pending.taken_at and not pending.request.exists():
                pending.taken_at = stamp(self.clock.utc())
            elif pending.taken_at and status.updated > pending.taken_at and study not in in_flight:
                outcome.lost += 1
                del under_way[study]
        return before - len(under_way)

    def _is_gone(self, study: OrthancId) -> bool:
        try:
            record = self.custody.read(study)
        except StateError:  # the extractor replaces a damaged record
            return False
        if record is None:
            return False
        folder = self.paths.output / record.folder
        return any(is_missing(folder, image) for image in record.images.values())
