"""C-MOVE from ORTHANC2 to our SCP (PS3.4 annex C.4.2), cancelled when the extractor stops. Runs in worker threads."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.core.errors import Failure, PeerDownError
from ddwd.dicom import nodes
from ddwd.dicom.move_scu import Mover, echo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ddwd.config.schema import Config
    from ddwd.core.model import Study
    from ddwd.core.watchdog import Watchdog
    from ddwd.extractor.workers import Shutdown

_TAKE_SECONDS = 0.1
"""Between two verifications of what a C-MOVE has brought: it continues meanwhile, and all that came since is verified at once."""
_ASSOCIATION_SECONDS = 30.0
"""Longest silence of a peer while an association is opened or released."""


@dataclass
class Arrivals:
    """Whether any file grows in the SCP's folder of unfinished objects, so that one huge image is not taken for silence."""

    incoming: Path
    clock: Callable[[], float] = time.monotonic
    every: float = 0.0
    _looked: float = float("-inf")
    _seen: frozenset[tuple[str, int]] = frozenset()
    _grew: float = 0.0

    def last(self) -> float:
        """Return when a file last grew (time.monotonic), measured no more often than every `every` seconds."""
        if self.clock() - self._looked < self.every:
            return self._grew
        self._looked = self.clock()
        try:
            now = frozenset((path.name, path.stat().st_size) for path in self.incoming.iterdir())
        except OSError:  # a file was removed meanwhile: that is progress, and seen next time
            return self._grew
        if now - self._seen:
            self._grew = self.clock()
        self._seen = now
        return self._grew


class StorageMover:
    """C-MOVE from ORTHANC2 to our SCP, one association for each."""

    def __init__(self, config: Config, incoming: Path, watchdog: Watchdog, shutdown: Shutdown) -> None:
        self._config = config
        self._incoming = incoming
        self._watchdog = watchdog
        self._shutdown = shutdown
        self._storage = nodes.storage(config, "extractor")
        self._scp = nodes.scp(config, config.scp.aet, "extractor")

    def move(
        self, study: Study, series_uids: Sequence[str], sop_uids: Sequence[str], arrived: Callable[[], None]
    ) -> Failure | None:
        """See MoverPort. Raises PeerDownError for a stop too."""
        if self._shutdown.asked.is_set():
            raise PeerDownError("the extractor stops")
        arrivals = Arrivals(self._incoming, every=_TAKE_SECONDS)
        taken_at = time.monotonic()

        def progressed() -> float:
            self._shutdown.look()
            self._watchdog.alive()  # the wait itself makes progress, and Mover limits it
            return arrivals.last()

        def sent(_outcome: object) -> None:
            nonlocal taken_at
            if time.monotonic() - taken_at >= _TAKE_SECONDS and not self._shutdown.cut.is_set():
                arrived()
                taken_at = time.monotonic()

        self._watchdog.alive(_ASSOCIATION_SECONDS)
        try:
            with Mover(self._storage, self._config.scp.aet, self._config.retrieve.timeout) as mover:
                outcome = mover.move(
                    study.study_uid,
                    series_uids,
                    sop_uids,
                    on_progress=sent,
                    progressed=progressed,
                    cancel=self._shutdown.cut,
                )
                self._watchdog.alive(_ASSOCIATION_SECONDS)
        finally:
            self._watchdog.idle()  # the thread may end here; what it does next declares itself
        self._shutdown.check()
        return None if outcome.ok else Failure(f"C-MOVE ended with {outcome.describe()}", outcome.code)

    def scp_answers(self) -> bool:
        """See MoverPort."""
        self._watchdog.alive(_ASSOCIATION_SECONDS)
        return echo(self._scp)
