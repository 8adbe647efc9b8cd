"""Entry point of ddwd-commitment: answer storage commitment requests of modalities."""

from __future__ import annotations

import logging

from ddwd.commitment.responder import CommitmentResponder
from ddwd.commitment.verifier import CommitmentResult, CommitmentVerifier
from ddwd.config.loader import load
from ddwd.config.parsers import Station
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core import watchdog
from ddwd.core.audit import Audit
from ddwd.core.clock import SystemClock
from ddwd.daemon import file_watch
from ddwd.daemon.loop import Loop, TickResult, enter
from ddwd.dicom import commitment_scu
from ddwd.dicom.upper_layer import Peer
from ddwd.status.study_lookup import both
from ddwd.store.backends import custody_of
from ddwd.store.commitment_queue import CommitmentQueue

log = logging.getLogger("ddwd.commitment")


class _TurnStoppedError(Exception):
    """The daemon is stopping in the middle of a turn; the requests stay in the queue."""


class CommitmentDaemon:
    """The responder and its loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        paths, settings = Paths(config), config.commitment
        self.loop = Loop(self._turn, config.poll_interval, breath=0.2)
        watchdog.install(self._alive)
        is_verified = settings.after == "verified"
        verifier = CommitmentVerifier(both(config), custody_of(config), paths, verified=is_verified)
        self._responder = CommitmentResponder(
            CommitmentQueue(paths.commitments),
            verifier,
            settings.modalities,
            self._report,
            Audit(),
            SystemClock(),
            settings.wait,
        )

    def _turn(self) -> TickResult:
        try:
            return TickResult(self._responder.turn())
        except _TurnStoppedError:
            return TickResult("stopping; the requests stay in the queue")
        except OSError as error:
            log.warning("the requests cannot be read: %s", error.strerror)
            return TickResult(f"the requests cannot be read: {error.strerror}")

    def _alive(self, wait: float) -> None:
        """The hook of core.watchdog. Raises _TurnStoppedError."""
        if self.loop.stopping.is_set():
            raise _TurnStoppedError
        self.loop.alive(wait)

    def _report(self, station: Station, transaction: str, answer: CommitmentResult) -> None:
        watchdog.alive(commitment_scu.SILENCE)
        peer = Peer(station.address, station.port, station.aet, self._config.gateway.aet)
        commitment_scu.report(peer, transaction, answer.committed, list(answer.failed.items()))


def main() -> int:
    """Run until stopped; return the exit status."""
    return enter("ddwd-commitment", _run, wanted=lambda: bool(load().commitment.modalities))


def _run() -> None:
    config = load()
    file_watch.serve(CommitmentDaemon(config).loop, Paths(config).commitments)
