"""Answer waiting requests for storage commitment: each once it is settled or its time is over, by the state at that moment.

Only the request is on disk (store/commitment_queue.py); after a restart each request is examined anew. A report that a modality does
not take is retried for a day, then dropped: without a report the modality keeps its objects.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.core import watchdog
from ddwd.core.audit import Event
from ddwd.core.errors import InvalidValueError, PeerDownError, PeerRefusedError
from ddwd.core.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
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
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 10.0, 600.0


@dataclass
class _Open:
    """One request that waits: until when it may wait for images, until when its answer is tried, by the monotonic clock."""

    path: Path
    asked: CommitmentRequest
    settled_by: float
    tried_until: float
    found: Found | None = None


class _Retries:
    """When each station, and each request, may be tried again after failures."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed: dict[object, tuple[Backoff, float]] = {}

    def must_wait(self, key: object) -> bool:
        return key in self._failed and self._clock.monotonic() < self._failed[key][1]

    def failed(self, key: object) -> None:
        backoff = self._failed[key][0] if key in self._failed else _backoff()
        self._failed[key] = (backoff, self._clock.monotonic() + backoff.failed())

    def forget(self, key: object) -> None:
        self._failed.pop(key, None)


def _backoff() -> Backoff:
    return Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)


class CommitmentResponder:
    """Answers waiting requests; `wait` is the longest time in seconds that a request waits for its images."""

    def __init__(
        self,
        commitments: CommitmentQueue,
        verifier: CommitmentVerifier,
        stations: Iterable[Station],
        report: Report,
        audit: Audit,
        clock: Clock,
        wait: float,
    ) -> None:
        self._commitments = commitments
        self._verifier = verifier
        self._stations: Mapping[str, Station] = {one.aet.lower(): one for one in stations}
        self._report = report
        self._audit = audit
        self._clock = clock
        self._wait = wait
        self._open: dict[Path, _Open] = {}
        self._retries = _Retries(clock)

    def turn(self) -> str:
        """Examine each request once; return the state in one line. Raises OSError."""
        waiting = self._commitments.waiting()
        for gone in self._open.keys() - set(waiting):
            del self._open[gone]
        for path in waiting:
            watchdog.alive()
            one = self._opened(path)
            if one is not None:
                self._attend(one)
        return f"{len(self._open)} requests wait"

    def _opened(self, path: Path) -> _Open | None:
        if path not in self._open:
            try:
                asked = self._commitments.read(path)
            except InvalidValueError as error:
                self._give_up(path, "?", f"a request is no request: {error}")
                return None
            age = max(
                0.0, (self._clock.utc() - asked.at).total_seconds()
            )  # a clock put back makes none older
            now = self._clock.monotonic()
            self._open[path] = _Open(path, asked, now + self._wait - age, now + self._wait + _DAY - age)
        return self._open[path]

    def _attend(self, one: _Open) -> None:
        station = self._stations.get(one.asked.aet.lower())
        if station is None:
            self._give_up(one.path, one.asked.aet, f"{one.asked.aet} is not in commitment.modalities")
        elif not self._retries.must_wait(station) and not self._retries.must_wait(one.path):
            try:
                self._answer(one, station)
            except (PeerDownError, PeerRefusedError) as error:
                log.info("%s: %s", one.path.stem, error)
            except OSError as error:  # nothing is said that could not be proved
                log.warning("%s: cannot be looked into: %s", one.path.stem, error.strerror)

    def _answer(self, one: _Open, station: Station) -> None:
        """Raises PeerDownError, PeerRefusedError of the Orthancs: then it is not known what is true, and nothing is said."""
        if one.found is None:
            one.found = self._verifier.look(one.asked.references)
        if not self._verifier.is_settled(one.found) and self._clock.monotonic() < one.settled_by:
            return
        answer = self._verifier.answer(self._verifier.look(one.asked.references))
        try:
            self._report(station, one.asked.transaction, answer)
        except (PeerDownError, PeerRefusedError) as error:
            self._retries.failed(station if isinstance(error, PeerDownError) else one.path)
            if self._clock.monotonic() >= one.tried_until:
                self._give_up(one.path, station.aet, f"it was not told for a day: {error}")
            raise
        self._retries.forget(station)
        self._close(one.path)
        self._tell(one.asked, answer)

    def _tell(self, asked: CommitmentRequest, answer: CommitmentResult) -> None:
        kept, failed = len(answer.committed), len(answer.failed)
        reasons = {f"0x{reason:04X}" for reason in answer.failed.values()}
        why = f" ({', '.join(sorted(reasons))})" if reasons else ""
        self._audit.record(
            Event.COMMITMENT_ANSWERED,
            f"{asked.aet} was told: {kept} objects are committed, {failed} are not{why}",
            aet=asked.aet,
            instances=kept,
            failed=failed,
            transaction=asked.transaction,
        )

    def _give_up(self, path: Path, aet: str, why: str) -> None:
        self._close(path)
        self._audit.record(
            Event.COMMITMENT_FAILED, f"a request for storage commitment is not answered: {why}", aet=aet
        )

    def _close(self, path: Path) -> None:
        self._commitments.done(path)
        self._retries.forget(path)
        self._open.pop(path, None)
