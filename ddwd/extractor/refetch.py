"""Studies that were published and whose files are gone from OUTPUT_DIR: found here, asked for again by the extractor, a few at a time.

Used by `ddwd retry --gone` and after a restore. Reads the custody records and the extractor's status; asks by requests, as any operator.
All at once would make the extractor look at every one of them in each turn.
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
"""Seconds without one more study until the rest is left to the extractor: some peer is down, or the disk full."""


@dataclass
class RefetchOutcome:
    """Studies asked for; those that are on disk again, those that neither Orthanc brought back, those still under way."""

    asked: int = 0
    back: int = 0
    lost: int = 0
    waiting: int = 0


@dataclass
class _Asked:
    """A request, and when it was seen to be taken."""

    request: Path
    taken_at: str = ""


class Regain:
    """One run over all records."""

    def __init__(
        self,
        paths: Paths,
        custody: Custody,
        requests: Requests,
        clock: Clock,
        wait: Callable[[float], None],
    ) -> None:
        self._paths = paths
        self._custody = custody
        self._requests = requests
        self._clock = clock
        self._wait = wait

    def gone(self) -> Iterator[OrthancId]:
        """The studies of which a recorded file is not on disk. Raises OSError."""
        return (study for study in self._custody.studies() if self._is_gone(study))

    def run(self, told: Callable[[RefetchOutcome], None]) -> RefetchOutcome:
        """Ask for each, and wait until the extractor is done with it; `told` hears of every change."""
        outcome = RefetchOutcome()
        under_way: dict[OrthancId, _Asked] = {}
        wanted, moved_at = self.gone(), self._clock.monotonic()
        while self._clock.monotonic() - moved_at <= _PATIENCE:
            for study in islice(wanted, _AT_ONCE - len(under_way)):
                under_way[study] = _Asked(self._requests.submit(Request("retry", study)))
                outcome.asked += 1
            if not under_way:
                break
            done = self._settle(under_way, outcome)
            outcome.waiting = len(under_way)
            told(outcome)
            if done:
                moved_at = self._clock.monotonic()
            else:
                self._wait(_LOOK_SECONDS)
        return outcome

    def _settle(self, under_way: dict[OrthancId, _Asked], outcome: RefetchOutcome) -> int:
        """Take out those that are back, and those that the extractor has closed all the same; their number."""
        updated, in_flight = self._status()
        before = len(under_way)
        for study, asked in list(under_way.items()):
            if not self._is_gone(study):
                outcome.back += 1
                del under_way[study]
            elif not asked.taken_at and not asked.request.exists():
                asked.taken_at = stamp(self._clock.utc())
            elif asked.taken_at and updated > asked.taken_at and study not in in_flight:
                outcome.lost += 1
                del under_way[study]
        return before - len(under_way)

    def _is_gone(self, study: OrthancId) -> bool:
        try:
            record = self._custody.read(study)
        except StateError:  # the extractor makes a damaged one anew
            return False
        if record is None:
            return False
        folder = self._paths.output / record.folder
        return any(is_missing(folder, kept) for kept in record.images.values())

    def _status(self) -> tuple[str, frozenset[str]]:
        """When the extractor last wrote its status, and the studies that it has in flight."""
        status = EXTRACTOR.read_or_none(self._paths.heartbeat("extractor")) or ExtractorStatus()
        return status.updated, frozenset(row.study for row in status.in_flight)
