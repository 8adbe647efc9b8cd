"""Entry point of ddwd-signer: extend the chain by the events of the audit trail, and sign its heads. Runs as user ddwd-signer.

It reads the journal and the custody records, no settings and no password, and has no network. A chain that was changed is never
extended again: the daemon goes on running, and says so in its status, until somebody has looked.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ddwd.chain.signer import Chain, Signer
from ddwd.core import watchdog
from ddwd.core.audit import Audit, selection
from ddwd.core.clock import Clock, SystemClock, stamp
from ddwd.core.errors import DdwdError, reason_of
from ddwd.core.journal_reader import Reader, open_reader
from ddwd.core.retry import Backoff
from ddwd.daemon.loop import Loop, TickResult, enter
from ddwd.store.custody import Custody
from ddwd.store.status_files import SIGNER, SignerStatus

log = logging.getLogger("ddwd.chain")

INTERVAL = 5.0
"""Seconds between two turns: one signature covers all events of a turn."""
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 5.0, 60.0


class SignerDaemon:
    """The signer and its turns; `write` stores the status."""

    def __init__(self, signer: Signer, clock: Clock, write: Callable[[SignerStatus], None]) -> None:
        self._signer = signer
        self._clock = clock
        self._write = write
        self._backoff = Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
        self._problem = ""

    def turn(self) -> TickResult:
        """Enter what is new; after an error wait, and begin anew from the disk."""
        wait = INTERVAL
        try:
            if self._signer.step():
                wait = 0.0
            self._backoff.succeeded()
            problem = self._signer.broken
        except (DdwdError, OSError) as error:
            problem = reason_of(error)
            wait = self._backoff.failed()
            if problem != self._problem:
                log.warning("%s; events wait in the journal", problem)
        self._problem = problem
        status = self._status(problem)
        self._write(status)
        return TickResult(_summary(status), wait=wait)

    def _status(self, problem: str) -> SignerStatus:
        newest, published = self._signer.newest, self._signer.published
        return SignerStatus(
            at=stamp(self._clock.utc()),
            pid=os.getpid(),
            entries=newest.size if newest else 0,
            signed_at=newest.time if newest else "",
            root=newest.root if newest else "",
            published=published.size if published else 0,
            published_at=published.time if published else "",
            is_broken=bool(self._signer.broken),
            problem=problem,
        )


def _summary(status: SignerStatus) -> str:
    if status.is_broken:
        return f"the chain is broken, and not extended: {status.problem}"
    if status.problem:
        return f"events wait in the journal: {status.problem}"
    return f"{status.entries} entries signed"


def _open_trail(cursor: str, since: str) -> Reader:
    """Open the audit trail of this machine's journal. Raises StateError."""
    age = datetime.now(UTC) - datetime.fromisoformat(since) if since else timedelta(0)
    return open_reader(selection(), cursor, max(age, timedelta(0)))


def main() -> int:
    """Run until stopped. Arguments: the chain's folder, the key, the folder of the custody records, the status file."""
    return enter("ddwd-signer", _run)


def _run() -> None:
    folder, key, records, status = map(Path, sys.argv[1:])
    clock = SystemClock()
    signer = Signer(Chain(folder, key), _open_trail, Custody(records), Audit(), clock)
    loop = Loop(SignerDaemon(signer, clock, lambda one: SIGNER.write_status(status, one)).turn, INTERVAL)
    watchdog.install(loop.alive)
    loop.serve()


if __name__ == "__main__":
    sys.exit(main())
