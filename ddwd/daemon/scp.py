"""Entry point of ddwd-scp: serves C-STORE, writes its heartbeat (Paths.heartbeat('scp')), shows itself alive by a C-ECHO.

The CLI and the extractor read the heartbeat. A full or failing disk is no reason to restart, and so no part of the check.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.core import watchdog
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import DdwdError
from ddwd.daemon.loop import Loop, TickResult
from ddwd.dicom.store_scp import StoreScp
from ddwd.monitoring.rejected_associations import RejectionReporter
from ddwd.store.status_files import SCP, ScpStatus

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.core.clock import Clock
    from ddwd.dicom.store_service import Counts

log = logging.getLogger("ddwd.scp")

_INTERVAL = 2.0
"""Seconds between two heartbeats."""
_ECHO_EVERY = 8.0
"""Seconds between two self checks: well within WatchdogSec."""
_ECHO_TIMEOUT = 5.0
_DRAIN = 20.0
"""Seconds that objects on their way in have to come whole after SIGTERM."""


class HeartbeatWriter:
    """One beat: counts to the heartbeat file, a C-ECHO to ourselves now and then."""

    def __init__(self, scp: StoreScp, file: Path, clock: Clock) -> None:
        self._scp = scp
        self._file = file
        self._clock = clock
        self._alive = True
        self._checked = -_ECHO_EVERY

    def beat(self) -> TickResult:
        """Check, write, report."""
        now = self._clock.monotonic()
        if now - self._checked >= _ECHO_EVERY:
            self._alive = self._scp.answers(_ECHO_TIMEOUT)
            self._checked = now
            if not self._alive:
                log.error("the SCP does not answer its own C-ECHO")
        counts = self._scp.counts()
        self._write(counts)
        return TickResult(
            f"{counts.associations} associations, {counts.received} objects received "
            f"({counts.received_bytes / 1e6:.1f} MB), {counts.refused} refused",
            healthy=self._alive,
        )

    def _write(self, counts: Counts) -> None:
        """Replace the heartbeat file; not fsynced, it lies on a tmpfs and is worth nothing after a power cut."""
        last = counts.last_received
        facts = asdict(counts) | {
            "last_received": stamp(last) if last else None,
            "progressed": round(time.monotonic() - counts.progressed, 1),
        }
        status = ScpStatus(**facts, alive=self._alive, at=stamp(self._clock.utc()), pid=os.getpid())
        try:
            SCP.write_volatile(self._file, status)
        except OSError as error:
            log.warning("cannot write the heartbeat: %s", error.strerror)


def main() -> int:
    """Run until stopped; the exit status is that of the error tree."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        config = load()
        scp = StoreScp(config)
        audit = Audit(patient_ids=config.audit.patient_id)
        scp.on_refused(RejectionReporter(audit, SystemClock()).refused)
        scp.start()
    except DdwdError as error:
        log.error("%s", error)  # noqa: TRY400 - the message is for the operator, a stack is not
        return error.exit_status
    except OSError as error:
        log.error("cannot start: %s %s", error.strerror, error.filename or "")  # noqa: TRY400 - as above
        return DdwdError.exit_status
    file = Paths(config).heartbeat("scp")
    file.parent.mkdir(parents=True, exist_ok=True)
    audit.record(Event.STARTED, "the receiver starts")
    loop = Loop(HeartbeatWriter(scp, file, SystemClock()).beat, _INTERVAL)
    loop.listen()
    loop.run()
    loop.extend(_DRAIN + 10)
    watchdog.install(loop.alive)
    if not scp.stop(_DRAIN):
        log.warning("objects on their way in were cut off; they were not acknowledged and will be sent again")
    audit.record(Event.STOPPED, "the receiver stops")
    return 0


if __name__ == "__main__":
    sys.exit(main())
