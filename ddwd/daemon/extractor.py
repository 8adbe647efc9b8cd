"""Entry point of ddwd-extractor: watches both Orthancs, heals, retrieves, verifies, publishes. Runs as user ddwd.

Turns are taken when a doorbell rings (both Orthancs' Lua touch a file, heard by inotify), when work is finished, and at the latest
every POLL_INTERVAL. Writes the ledger, the custody records, OUTPUT_DIR, quarantine and its own status file.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING

from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.config.routing import stow_jobs_elsewhere
from ddwd.core import durable
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import SystemClock
from ddwd.core.errors import DdwdError, PeerDownError
from ddwd.core.watchdog import Progress
from ddwd.daemon import file_watch
from ddwd.daemon.extractor_status import Totals, standing
from ddwd.daemon.loop import Beat, Loop
from ddwd.extractor.conflicts import Conflicts
from ddwd.extractor.disk_guard import Guard
from ddwd.extractor.loop import Cycle, Ports
from ddwd.extractor.orphans import Leftovers
from ddwd.extractor.quarantine import Quarantine
from ddwd.extractor.router import Router, read_table
from ddwd.extractor.steps.forward import Forwarder
from ddwd.extractor.steps.notify import Finished
from ddwd.extractor.steps.publish import Publisher
from ddwd.extractor.steps.repair import Mender
from ddwd.extractor.steps.retrieve import Retriever
from ddwd.extractor.steps.verify import Verifier
from ddwd.extractor.workers import Ending, StorageMover, Workers
from ddwd.orthanc.client import Orthanc
from ddwd.provisioning import credentials
from ddwd.retention.eligibility import Examiner, owed
from ddwd.retention.remove import Remover
from ddwd.retention.scheduler import Keeper, Tools
from ddwd.store.backends import stores_of
from ddwd.store.hook_queue import Notices
from ddwd.store.operator_requests import Requests
from ddwd.store.output_tree import OutputTree
from ddwd.store.settings_snapshot import changed_settings

if TYPE_CHECKING:
    from ddwd.config.loader import Config

log = logging.getLogger("ddwd.extractor")

_STATUS_SECONDS = 1.0
_PIECE_SECONDS = 2.0
"""Ten times what the sweep compares at once takes."""
_BREATH_SECONDS = 0.1
"""Between two turns, however often the bell rings: each turn costs both Orthancs a look at their changes."""


class Extractor:
    """The cycle with its real ports, and the status file that people's views are made from."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._paths = Paths(config)
        self._clock = SystemClock()
        self._progress = Progress(self._clock)
        self._audit = Audit(patient_ids=config.audit.patient_id)
        self._loop = Loop(self._turn, config.poll_interval, breath=_BREATH_SECONDS)
        self._ending = Ending(self._loop.stopping, self._clock)
        self._workers = Workers(self._progress, self._loop.wake)
        self._sweeper = Workers(self._progress, self._loop.wake)
        self._main = threading.get_ident()
        self._totals = Totals()
        self._audit.also(self._totals.happened)
        self._status_at = 0.0
        self._guard = self._make_guard()
        self._cycle = Cycle(config, self._ports())

    def run(self) -> bool:
        """Work until told to stop; finish what runs, in bounded time. False where a worker had to be left behind."""
        folders = {
            self._paths.doorbell("gateway").parent,
            self._paths.doorbell("storage").parent,
            self._paths.requests,
        }
        ears = file_watch.listen(folders, self._loop.wake)
        self._audit.record(Event.STARTED, "the extractor starts", open=len(self._cycle.open))
        self._loop.listen()
        try:
            self._loop.run()
        finally:
            finished = self._workers.finish()
            finished = self._sweeper.finish(_PIECE_SECONDS) and finished
            self._audit.record(Event.STOPPED, "the extractor stops", open=len(self._cycle.open))
            self._cycle.drain()
            ears.stop()
            self._write_status()
        return finished

    def _make_guard(self) -> Guard:
        paths = self._paths
        database = paths.database_area()
        return Guard(
            {
                "retrieve": [paths.output, paths.state, paths.quarantine],
                "forward": [paths.storage_storage, *database] if self._config.has("storage") else [],
                "receive": [paths.gateway_storage, *database] if self._config.has("gateway") else [],
            },
            self._config.disk.reserve,
            paths.forwarding_paused,
            self._clock,
            self._audit,
        )

    def _ports(self) -> Ports:
        login = credentials.read(self._config.credentials_file)
        gateway, storage = (
            Orthanc(node.name, node.url, *login.login(node.name), self._waiting)
            for node in (self._config.gateway, self._config.storage)
        )
        paths, clock, audit = self._paths, self._clock, self._audit
        quarantine = Quarantine(paths.quarantine, clock, audit)
        mover = StorageMover(self._config, paths.incoming, self._progress, self._ending)
        requests = Requests(paths.requests, clock)
        requests.prepare()
        stores = stores_of(self._config, clock, self._waiting)
        tree = OutputTree(paths, stores.custody)
        publisher = Publisher(paths, tree, quarantine)
        audit.also(stores.ledger.note)
        if changed := changed_settings(self._config, paths.settings):
            audit.record(
                Event.CONFIG_CHANGED, f"settings changed: {', '.join(changed)}", keys=",".join(changed)
            )
        if stores.ledger.damaged:
            audit.record(
                Event.STATE_REBUILT, "the ledger was damaged: everything is compared with both Orthancs"
            )
        nodes, routes = (gateway, storage), self._config.routes
        tools = Tools(
            paths=paths,
            nodes=nodes,
            custody=stores.custody,
            claims=stores.claims,
            examiner=Examiner(nodes, paths, stores.custody, owed(paths), self._unhurried),
            remover=Remover(nodes, tree, stores.custody, routes, self._unhurried),
            audit=audit,
            clock=clock,
            executor=self._sweeper,
        )
        return Ports(
            gateway=gateway,
            storage=storage,
            router=self._router(gateway, storage),
            forwarder=Forwarder(gateway, beside=stow_jobs_elsewhere(self._config.destinations)),
            retriever=Retriever(
                paths,
                (gateway, storage),
                mover,
                Verifier(storage, gateway),
                publisher,
                quarantine,
                Mender(gateway, storage, audit),
            ),
            publisher=publisher,
            output=tree,
            quarantine=quarantine,
            requests=requests,
            guard=self._guard,
            conflicts=Conflicts(
                {node.name: paths.conflicts(node.name) for node in self._config.own_nodes},
                {"gateway": gateway, "storage": storage},
                quarantine,
            ),
            leftovers=Leftovers(paths, (storage, gateway), quarantine),
            finished=Finished(self._config.routes, paths, tree, Notices(paths.hooks)),
            keeper=Keeper(self._config, tools),
            ledger=stores.ledger,
            custody=stores.custody,
            claims=stores.claims,
            audit=audit,
            clock=clock,
            executor=self._workers,
            sweeper=self._sweeper,
            alive=self._alive,
        )

    def _router(self, gateway: Orthanc, storage: Orthanc) -> Router:
        routes = self._config.routes
        rules = read_table(self._paths.routes, routes)
        return Router(routes, rules, gateway, storage, self._config.forward.grace)

    def _alive(self) -> None:
        self._waiting(0.0)

    def _unhurried(self) -> None:
        """A sign of life of work that can wait until after the next start. Raises PeerDownError once a stop is asked for."""
        self._alive()
        if self._ending.is_asked:
            raise PeerDownError("the extractor stops")

    def _waiting(self, seconds: float) -> None:
        """The calling thread moves, and may now be kept waiting by a peer; the main thread tells systemd, unless a worker hangs."""
        self._progress.alive(seconds)
        if threading.get_ident() != self._main:
            self._ending.check()
        elif not self._progress.stuck():
            self._loop.alive(seconds)

    def _turn(self) -> Beat:
        began = self._clock.monotonic()
        self._progress.alive()
        report = self._cycle.run()
        self._progress.idle()
        now = self._clock.monotonic()
        self._totals.add(report, now - began)
        if now - self._status_at >= _STATUS_SECONDS or report.published:
            self._status_at = now
            self._write_status()
        wait = 0.0 if report.more else self._cycle.next_due()
        stuck = self._progress.stuck()
        if stuck:
            log.error("no sign of life: %s; the watchdog will restart the extractor", ", ".join(stuck))
        return Beat(self._summary(), healthy=not stuck, wait=wait)

    def _summary(self) -> str:
        down = [name for name, state in self._cycle.peers.items() if state != "ok"]
        text = f"{len(self._cycle.open)} studies in flight, {self._totals.studies} published since the start"
        return text + (f"; does not answer: {', '.join(down)}" if down else "")

    def _write_status(self) -> None:
        body = standing(self._cycle, self._totals, self._guard, self._clock)
        path = self._paths.heartbeat("extractor")
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.replace_volatile(path, json.dumps(body, indent=1).encode() + b"\n")


def main() -> int:
    """Run the daemon; the exit status is that of the error tree."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        finished = Extractor(load()).run()
    except DdwdError as error:
        sys.stderr.write(f"ddwd-extractor: {error}\n")
        return error.exit_status
    if not finished:
        logging.shutdown()
        os._exit(0)  # the interpreter would wait for the worker; all that counts is durable
    return 0
