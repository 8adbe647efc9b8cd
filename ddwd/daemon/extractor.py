"""Entry point of ddwd-extractor: watch both Orthancs, forward, retrieve, verify, publish, repair. Runs as user ddwd.

A turn begins when the plugin of an Orthanc writes to its doorbell file, when work is finished, and at the latest after POLL_INTERVAL.
Writes the ledger, the custody records, OUTPUT_DIR, quarantine and its own status file.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from statistics import median

from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core import watchdog
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock, SystemClock, stamp
from ddwd.core.errors import PeerDownError
from ddwd.core.watchdog import Watchdog
from ddwd.daemon import file_watch
from ddwd.daemon.loop import Loop, TickResult, enter
from ddwd.extractor.decision import Stage
from ddwd.extractor.flow_control import Volumes
from ddwd.extractor.loop import TurnReport
from ddwd.extractor.peers import silent
from ddwd.extractor.services import Extractor, Services
from ddwd.extractor.steps.cmove import StorageMover
from ddwd.extractor.study import StudyState
from ddwd.extractor.workers import Shutdown, Workers
from ddwd.status.study_lookup import both
from ddwd.store import status_files
from ddwd.store.backends import stores_of
from ddwd.store.former_names import give_former_names, take_back_names
from ddwd.store.ledger import Pause
from ddwd.store.settings_snapshot import changed_settings

log = logging.getLogger("ddwd.extractor")

_STATUS_SECONDS = 1.0
_PIECE_SECONDS = 2.0  # time to finish one comparison of the sweep: ten times what it takes
_BREATH_SECONDS = 0.1
"""Between two turns, however often a doorbell file is written: each turn queries the changes of both Orthancs."""
_FAILURES = (
    Event.FORWARD_FAILED,
    Event.RETRIEVE_FAILED,
    Event.CONFLICT,
    Event.QUARANTINED,
    Event.VANISHED,
    Event.REPAIRED,
)
_TURNS = 100


class ExtractorDaemon:
    """The extractor with its real services, and its status file, which status, dashboard and metrics read."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._paths = Paths(config)
        self._clock = SystemClock()
        self._watchdog = Watchdog(self._clock)
        self._audit = Audit(patient_ids=config.audit.patient_id)
        self._loop = Loop(self._turn, config.poll_interval, breath=_BREATH_SECONDS)
        self._shutdown = Shutdown(self._loop.stopping, self._clock)
        self._workers = Workers(self._watchdog, self._loop.wake)
        self._sweeper = Workers(self._watchdog, self._loop.wake)
        self._main = threading.get_ident()
        self._totals = StatusTotals()
        self._audit.add_sink(self._totals.count_failure)
        self._status_at = 0.0
        watchdog.install(self._alive)
        services = self._services()
        self._custody = services.stores.custody
        self._may_have_former_names = True
        self._extractor = Extractor(config, services)
        self._extractor.requests.prepare()

    def run(self) -> bool:
        """Work until stopped, then finish running work in bounded time. Return False if a worker is still running."""
        folders = {
            self._paths.doorbell("gateway").parent,
            self._paths.doorbell("storage").parent,
            self._paths.requests,
        }
        self._audit.record(Event.STARTED, "the extractor starts", open=len(self._extractor.sharing.open))
        try:
            file_watch.serve(self._loop, *folders)
        finally:
            finished = self._workers.finish()
            finished = self._sweeper.finish(_PIECE_SECONDS) and finished
            self._audit.record(Event.STOPPED, "the extractor stops", open=len(self._extractor.sharing.open))
            self._extractor.loop.drain()
            self._write_status()
        return finished

    def _services(self) -> Services:
        paths, config, audit = self._paths, self._config, self._audit
        gateway, storage = both(config)
        stores = stores_of(config, self._clock)
        audit.add_sink(stores.ledger.note)
        if changed := changed_settings(config, paths.settings):
            audit.record(
                Event.CONFIG_CHANGED, f"settings changed: {', '.join(changed)}", keys=",".join(changed)
            )
        if stores.ledger.damaged:
            audit.record(
                Event.STATE_REBUILT, "the ledger was damaged: everything is compared with both Orthancs"
            )
        database = paths.database_area()
        return Services(
            gateway=gateway,
            storage=storage,
            mover=StorageMover(config, paths.incoming, self._watchdog, self._shutdown),
            stores=stores,
            volumes=Volumes(
                {
                    "retrieve": [paths.output, paths.state, paths.quarantine],
                    "forward": [paths.storage_area("storage"), *database] if config.has("storage") else [],
                    "receive": [paths.storage_area("gateway"), *database] if config.has("gateway") else [],
                }
            ),
            workers=self._workers,
            sweeper=self._sweeper,
            audit=audit,
            clock=self._clock,
            wake=self._loop.wake,
        )

    def _alive(self, wait: float) -> None:
        """The hook of core.watchdog: the main thread notifies systemd, unless a worker is stuck. Raises PeerDownError in a worker that must stop."""
        self._watchdog.alive(wait)
        if threading.get_ident() != self._main:
            self._shutdown.check()
        elif not self._watchdog.stuck():
            self._loop.alive(wait)

    def _turn(self) -> TickResult:
        began = self._clock.monotonic()
        self._watchdog.alive()
        if self._may_have_former_names:
            self._take_back_names()
        report = self._extractor.loop.run()
        self._watchdog.idle()
        now = self._clock.monotonic()
        self._totals.add(report, now - began)
        if now - self._status_at >= _STATUS_SECONDS or report.published:
            self._status_at = now
            self._write_status()
        wait = 0.0 if report.more else self._extractor.loop.next_due()
        stuck = self._watchdog.stuck()
        if stuck:
            log.error("no progress: %s; the watchdog will restart the extractor", ", ".join(stuck))
        return TickResult(self._summary(), healthy=not stuck, wait=wait)

    def _take_back_names(self) -> None:
        """After a downgrade: before any file is looked for by its record. A shared ledger may not be reached yet."""
        with suppress(PeerDownError):
            if count := take_back_names(self._paths, self._custody):
                log.info(
                    "%d studies have the names back that they had before an older version was installed",
                    count,
                )
            self._may_have_former_names = False

    def _summary(self) -> str:
        down = list(silent(self._extractor.peers.states))
        text = f"{len(self._extractor.sharing.open)} studies in flight, {self._totals.studies} published since the start"
        return text + (f"; does not answer: {', '.join(down)}" if down else "")

    def _write_status(self) -> None:
        status = extractor_status(self._extractor, self._totals, self._clock)
        status_files.EXTRACTOR.write_status(self._paths.heartbeat("extractor"), status)


def main() -> int:
    """Run until stopped; return the exit status."""
    return enter("ddwd-extractor", _run)


def _run() -> None:
    if sys.argv[1:] == [
        "former-names"
    ]:  # prerm, before a downgrade: the extractor alone writes below OUTPUT_DIR
        give_former_names(Paths(load()))
        return
    if not ExtractorDaemon(load()).run():
        logging.shutdown()
        os._exit(0)  # the interpreter would wait for the worker; the state is durable


# --- the status file --------------------------------------------------------------------------------------------------


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

    def stored(self) -> status_files.WorkTotals:
        """Return the totals for the status file."""
        return status_files.WorkTotals(**self._done, failures=dict(self._failures))


def extractor_status(
    extractor: Extractor, totals: StatusTotals, clock: Clock
) -> status_files.ExtractorStatus:
    """Return the content of the status file. The counts of images include the images of open studies that are published already.

    Every user of the machine may read the file: it has no patient ID, no accession number, and no path that begins with one.
    """
    studies = list(extractor.sharing.open.values())
    pause = extractor.flow.ledger.state.paused or Pause()
    return status_files.ExtractorStatus(
        updated=stamp(clock.utc()),
        pid=os.getpid(),
        paused=extractor.flow.is_paused,
        paused_by=pause.by,
        paused_at=pause.at,
        counts=dict(Counter(study.stage.value for study in studies)),
        totals=totals.stored(),
        turn_seconds=totals.turn_seconds,
        swept=extractor.sources.swept(),
        retention=extractor.retention.state(),
        lost=extractor.lost.status(),
        backlog=_backlog(studies, is_streaming=extractor.is_streaming),
        peers=dict(extractor.peers.states),
        disk=extractor.flow.state(),
        in_flight=tuple(_in_flight(study, extractor) for study in studies),
        recent=tuple(extractor.loop.recent),
    )


def _in_flight(study: StudyState, extractor: Extractor) -> status_files.InFlightStudy:
    return status_files.InFlightStudy(
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
        opened_at=extractor.sharing.ledger.state.open.get(study.study_id, ""),
        newest_at=study.timeline.newest_at,
    )


_INCOMPLETE = frozenset({Stage.ARRIVING, Stage.FORWARDING, Stage.RETRIEVING})


def _backlog(studies: Iterable[StudyState], *, is_streaming: bool) -> status_files.Backlog:
    """Count the images that wait before each hop: not those that wait until their own study is complete.

    Unless it `is_streaming`, ORTHANC1 forwards a study once it is complete there.
    """
    waiting = Counter(storage=0, disk=0, publish=0)
    for study in studies:
        aside, verified = study.set_aside.keys(), study.verified.keys()
        arrives = study.stage is Stage.ARRIVING
        if (study.route is None or study.route.forward) and (is_streaming or not arrives):
            waiting["storage"] += len(study.on_gateway - study.on_storage - aside)
        if study.route is None or study.route.extract:
            waiting["disk"] += len(study.on_storage - verified - aside)
        if study.stage not in _INCOMPLETE:
            recorded = study.record.images.keys() if study.record else frozenset()
            waiting["publish"] += len(verified - recorded)
    return status_files.Backlog(**waiting)
