"""Answer waiting requests for storage commitment: each once it is settled or its time is over, by the state at that moment.

Only the request is on disk (store/commitment_queue.py); after a restart each request is examined anew. A report that a modality does
not accept is retried for a day, then dropped: without a report the modality keeps its objects.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ddwd.core import watchdog
from ddwd.core.audit import Event
from ddwd.core.errors import InvalidValueError, PeerDownError, PeerRefusedError
from ddwd.core.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ddwd.commitment.verifier import CommitmentResult, CommitmentVerifier, Found
    from ddwd.config.parsers import Station
    from ddwd.core.audit import Audit
    from ddwd.core.clock import Clock
    from ddwd.store.commitment_queue import CommitmentQueue, CommitmentRequest

    Report = Callable[[Station, str, CommitmentResult], None]
    """Reports the result of a transaction to a station. Raises PeerDownError, PeerRefusedError."""

log = logging.getLogger("ddwd.commitment")

_DAY = 86400.0
_backoff = partial(Backoff, first=10.0, longest=600.0)


@dataclass
class _Open:
    """One waiting request: until when it may wait for images, until when its answer is retried, by the monotonic clock."""

    path: Path
    request: CommitmentRequest
    settled_by: float
    tried_until: float
    found: Found | None = None


@dataclass
class CommitmentResponder:
    """Answers waiting requests; `wait` is the longest time in seconds that a request waits for its images."""

    commitments: CommitmentQueue
    verifier: CommitmentVerifier
    stations: Iterable[Station]
    report: Report
    audit: Audit
    clock: Clock
    wait: float

    def __post_init__(self) -> None:
        self._stations = {station.aet.lower(): station for station in self.stations}
        self._open: dict[Path, _Open] = {}
        self._failures: defaultdict[Station | Path, Backoff] = defaultdict(_backoff)
        self._due: dict[Station | Path, float] = {}

    def turn(self) -> str:
        """Examine each request once; return the state in one line. Raises OSError."""
        waiting = self.commitments.waiting()
        for gone in self._open.keys() - set(waiting):
            del self._open[gone]
        for path in waiting:
            watchdog.alive()
            if (request := self._opened(path)) is not None:
                self._attend(request)
        return f"{len(self._open)} requests wait"

    def _opened(self, path: Path) -> _Open | None:
        if path not in self._open:
            try:
                request = self.commitments.read(path)
            except InvalidValueError as error:
                self._give_up(path, "?", f"the request is invalid: {error}")
                return None
            if request is None:
                return None
            # a clock that was put back makes no request older
            age = max(0.0, (self.clock.utc() - request.at).total_seconds())
            settled_by = self.clock.monotonic() + self.wait - age
            self._open[path] = _Open(path, request, settled_by, settled_by + _DAY)
        return self._open[path]

    def _attend(self, opened: _Open) -> None:
        path, aet, now = opened.path, opened.request.aet, self.clock.monotonic()
        station = self._stations.get(aet.lower())
        if station is None:
            self._give_up(path, aet, f"{aet} is not in commitment.modalities")
        elif now >= max(self._due.get(station, 0.0), self._due.get(path, 0.0)):
            try:
                self._answer(opened, station)
            except (PeerDownError, PeerRefusedError) as error:
                log.info("%s: %s", path.stem, error)
            except OSError as error:  # no report of what could not be proved
                log.warning("%s: cannot be examined: %s", path.stem, error.strerror)

    def _answer(self, opened: _Open, station: Station) -> None:
        """Report once it is settled. Raises PeerDownError, PeerRefusedError of an Orthanc: the truth is unknown, and there is no report."""
        path, request = opened.path, opened.request
        if opened.found is None:
            opened.found = self.verifier.look(request.references)
        if not self.verifier.is_settled(opened.found) and self.clock.monotonic() < opened.settled_by:
            return
        answer = self.verifier.answer(self.verifier.look(request.references))
        try:
            self.report(station, request.transaction, answer)
        except (PeerDownError, PeerRefusedError) as error:
            key = station if isinstance(error, PeerDownError) else path
            self._due[key] = self.clock.monotonic() + self._failures[key].failed()
            if self.clock.monotonic() >= opened.tried_until:
                self._give_up(path, station.aet, f"the report failed for a day: {error}")
            raise
        self._forget(station)
        self._close(path)
        committed, failed = len(answer.committed), len(answer.failed)
        reasons = ", ".join(sorted({f"0x{reason:04X}" for reason in answer.failed.values()}))
        message = f"reported to {request.aet}: {committed} objects are committed, {failed} are not"
        self.audit.record(
            Event.COMMITMENT_ANSWERED,
            f"{message} ({reasons})" if reasons else message,
            aet=request.aet,
            instances=committed,
            failed=failed,
            transaction=request.transaction,
        )

    def _give_up(self, path: Path, aet: str, why: str) -> None:
        self._close(path)
        message = f"a request for storage commitment is not answered: {why}"
        self.audit.record(Event.COMMITMENT_FAILED, message, aet=aet)

    def _close(self, path: Path) -> None:
        self.commitments.done(path)
        self._forget(path)
        self._open.pop(path, None)

    def _forget(self, key: Station | Path) -> None:
        self._failures.pop(key, None)
        self._due.pop(key, None)
