"""The content of the extractor's status file: its open studies, and what they wait for.

Every user of the machine may read that file: it has no patient ID, no accession number, and no path that begins with one.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING

from ddwd.core.audit import Event
from ddwd.core.clock import stamp
from ddwd.store.status_files import Backlog, ExtractorStatus, FinishedStudy, InFlightStudy, WorkTotals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ddwd.core.clock import Clock
    from ddwd.extractor.services import Extractor
    from ddwd.extractor.study import StudyState
    from ddwd.extractor.turn_report import TurnReport

_FAILURES = (
    Event.FORWARD_FAILED,
    Event.RETRIEVE_FAILED,
    Event.CONFLICT,
    Event.QUARANTINED,
    Event.VANISHED,
    Event.REPAIRED,
)
_TURNS = 100


class StatusTotals:
    """What was done since the start, with the failures by audit event, and how long the latest turns took."""

    def __init__(self) -> None:
        self._done: Counter[str] = Counter(studies=0, instances=0, bytes=0, forwarded=0, late=0)
        self._failures: Counter[str] = Counter({event.name.lower(): 0 for event in _FAILURES})
        self._turns: deque[float] = deque(maxlen=_TURNS)

    def add(self, report: TurnReport, seconds: float) -> None:
        """Add what one turn did and how long it took."""
        self._turns.append(seconds)
        self._done["studies"] += sum(one.revision == 1 for one in report.published)
        self._done["late"] += sum(one.revision > 1 for one in report.published)
        self._done["instances"] += report.retrieved
        self._done["bytes"] += report.bytes
        self._done["forwarded"] += report.forwarded

    def count_failure(self, event: Event, _message: str, _fields: dict[str, str]) -> None:
        """Count the event if it is a failure: a sink of the audit."""
        if event in _FAILURES:
            self._failures[event.name.lower()] += 1

    @property
    def studies(self) -> int:
        """Studies published."""
        return self._done["studies"]

    @property
    def turn_seconds(self) -> float:
        """Median of the latest turns."""
        return round(median(self._turns or [0.0]), 4)

    def stored(self) -> WorkTotals:
        """Return the totals for the status file."""
        return WorkTotals(**self._done, failures=dict(self._failures))


def extractor_status(extractor: Extractor, totals: StatusTotals, clock: Clock) -> ExtractorStatus:
    """Return the content. The counts of images include the images of open studies that are published already."""
    studies = list(extractor.sharing.open.values())
    return ExtractorStatus(
        updated=stamp(clock.utc()),
        pid=os.getpid(),
        paused=extractor.flow.is_paused,
        counts=dict(Counter(study.stage.value for study in studies)),
        totals=totals.stored(),
        turn_seconds=totals.turn_seconds,
        swept=extractor.sources.swept(),
        retention=extractor.retention.state(),
        backlog=_backlog(studies),
        peers=dict(extractor.peers.states),
        disk=extractor.guard.state(),
        in_flight=tuple(_in_flight(study, extractor) for study in studies),
        recent=tuple(FinishedStudy(**asdict(one)) for one in extractor.loop.recent),
    )


def _in_flight(study: StudyState, extractor: Extractor) -> InFlightStudy:
    return InFlightStudy(
        study=study.study_id,
        study_uid=study.listing.study_uid if study.listing else "",
        aet=study.timeline.aet,
        state=study.stage.value,
        route=study.route.name if study.route else "",
        reason=study.reason,
        status=study.status,
        blocker=study.blocker.value,
        instances=len(study.known),
        on_gateway=len(study.on_gateway),
        on_storage=len(study.on_storage),
        on_disk=len(study.verified),
        set_aside=len(study.set_aside),
        failures=study.failures,
        opened_at=extractor.sharing.opened_at(study.study_id),
        newest_at=study.timeline.newest_at,
    )


def _backlog(studies: Iterable[StudyState]) -> Backlog:
    """Count the images that wait before each hop."""
    waiting = Counter(storage=0, disk=0, publish=0)
    for study in studies:
        aside, verified = study.set_aside.keys(), study.verified.keys()
        if study.route is None or study.route.forward:
            waiting["storage"] += len(study.on_gateway - study.on_storage - aside)
        if study.route is None or study.route.extract:
            waiting["disk"] += len(study.on_storage - verified - aside)
        waiting["publish"] += len(verified - (study.record.images.keys() if study.record else frozenset()))
    return Backlog(**waiting)
