"""Entry point of ddwd-scp: serve C-STORE, write the status file (Paths.heartbeat('scp')), check itself by a C-ECHO.

The CLI and the extractor read the status file. A full or failing disk is no reason to restart, and so no part of the check.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict
from pathlib import Path

from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.core import watchdog
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock, SystemClock, stamp
from ddwd.daemon.loop import Loop, TickResult, enter
from ddwd.dicom.store_scp import StoreScp
from ddwd.monitoring.rejected_associations import RejectionReporter
from ddwd.provisioning.port_holders import cannot_start
from ddwd.store.status_files import SCP, ScpStatus

log = logging.getLogger("ddwd.scp")

_INTERVAL = 2.0  # seconds between two heartbeats
_ECHO_EVERY = 8.0  # seconds between two self checks: well within WatchdogSec
_ECHO_TIMEOUT = 5.0
_DRAIN = 20.0  # seconds after SIGTERM in which objects that are being received may be completed


class HeartbeatWriter:
    """The receiver's cycle: write the counts to the status file, and at intervals send a C-ECHO to the receiver."""

    def __init__(self, scp: StoreScp, file: Path, clock: Clock) -> None:
        self._scp = scp
        self._file = file
        self._clock = clock
        self._alive = True
        self._checked = -_ECHO_EVERY

    def beat(self) -> TickResult:
        """Check, write the file, return the status."""
        now = self._clock.monotonic()
        if now - self._checked >= _ECHO_EVERY:
            self._alive = self._scp.answers(_ECHO_TIMEOUT)
            self._checked = now
            if not self._alive:
                log.error("the SCP does not answer its own C-ECHO")
        counts = self._scp.counts()
        last = counts.last_received
        facts = asdict(counts) | {
            "last_received": stamp(last) if last else None,
            "progressed": round(time.monotonic() - counts.progressed, 1),
        }
        status = ScpStatus(**facts, alive=self._alive, at=stamp(self._clock.utc()), pid=os.getpid())
        SCP.write_status(self._file, status)
        return TickResult(
            f"{counts.associations} associations, {counts.received} objects received "
            f"({counts.received_bytes / 1e6:.1f} MB), {counts.refused} refused",
            healthy=self._alive,
        )


def main() -> int:
    """Run until stopped; return the exit status."""
    return enter("ddwd-scp", _run)


def _run() -> None:
    config = load()
    try:
        audit = Audit(patient_ids=config.audit.patient_id)
        scp = StoreScp(config)
        scp.on_refused(RejectionReporter(audit, SystemClock()).refused)
        scp.start()
    except OSError as error:
        raise cannot_start(error, config.scp.port) from error
    file = Paths(config).heartbeat("scp")
    file.parent.mkdir(parents=True, exist_ok=True)
    audit.record(Event.STARTED, "the receiver starts")
    loop = Loop(HeartbeatWriter(scp, file, SystemClock()).beat, _INTERVAL)
    loop.serve()
    loop.extend(_DRAIN + 10)
    watchdog.install(loop.alive)
    if not scp.stop(_DRAIN):
        log.warning(
            "objects that were being received were cut off; they were not acknowledged and will be sent again"
        )
    audit.record(Event.STOPPED, "the receiver stops")
