"""The extractor put together from its services: the two Orthancs, the stores, the workers, the clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.config.paths import Paths
from ddwd.config.routing import stow_jobs_elsewhere
from ddwd.core import disk_space
from ddwd.extractor.change_feed import ChangeFeeds
from ddwd.extractor.comparison import Comparison
from ddwd.extractor.conflicts import Conflicts
from ddwd.extractor.disk_guard import DiskGuard
from ddwd.extractor.flow_control import FlowControl
from ddwd.extractor.loop import ExtractorLoop
from ddwd.extractor.observer import Observer
from ddwd.extractor.operator_commands import OperatorCommands
from ddwd.extractor.orphans import OrphanSweeper
from ddwd.extractor.peers import Peers
from ddwd.extractor.quarantine import Quarantine
from ddwd.extractor.reconciler import Steps, StudyReconciler
from ddwd.extractor.redo import Redo
from ddwd.extractor.router import Router, read_table
from ddwd.extractor.set_aside import SetAside
from ddwd.extractor.sharing import Sharing
from ddwd.extractor.sources import Sources
from ddwd.extractor.spool import Spool
from ddwd.extractor.steps.forward import Forwarder
from ddwd.extractor.steps.notify import PublishNotifier
from ddwd.extractor.steps.publish import Publisher, PublishStep
from ddwd.extractor.steps.repair import StorageRepair
from ddwd.extractor.steps.retrieve import Retriever, RetrieveStep
from ddwd.extractor.steps.verify import Verifier
from ddwd.extractor.study_events import StudyEvents
from ddwd.extractor.sweep import Sweep
from ddwd.extractor.work_queue import WorkQueue
from ddwd.retention.eligibility import Examiner, owed
from ddwd.retention.remove import Remover
from ddwd.retention.scheduler import RetentionScheduler
from ddwd.store.hook_queue import HookQueue
from ddwd.store.operator_requests import Requests
from ddwd.store.output_tree import OutputTree

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from ddwd.config.schema import Config
    from ddwd.core.audit import Audit
    from ddwd.core.clock import Clock
    from ddwd.core.disk_space import Space
    from ddwd.extractor.disk_guard import Purpose
    from ddwd.extractor.steps.retrieve import MoverPort
    from ddwd.orthanc.port import OrthancPort
    from ddwd.store.backends import Stores


def _ignore() -> None:
    """No-op callback."""


@dataclass(frozen=True, slots=True)
class Threads:
    """Where long work runs."""

    workers: Executor
    """For C-MOVE and verification."""
    sweeper: Executor
    """For the sweep and retention."""
    wake: Callable[[], None] = _ignore
    """Begins the loop's next turn."""


@dataclass(frozen=True, slots=True)
class Volumes:
    """The paths whose volumes limit each purpose, and how their space is measured."""

    paths: Mapping[Purpose, Sequence[Path]]
    measure: Callable[[Path], Space] = disk_space.space_of


@dataclass(frozen=True, slots=True)
class Services:
    """What the extractor acts on outside itself."""

    gateway: OrthancPort
    storage: OrthancPort
    mover: MoverPort
    stores: Stores
    volumes: Volumes
    threads: Threads
    audit: Audit
    clock: Clock


class Extractor:
    """All parts of the extractor, wired. `loop` does the work; the others are read for the status file, and by tests."""

    def __init__(self, config: Config, services: Services) -> None:
        self._services = services
        paths, audit, clock, stores = Paths(config), services.audit, services.clock, services.stores
        volumes = services.volumes
        self.peers = Peers(services.gateway, services.storage, audit, shared_ledger=stores.claims.are_shared)
        self.guard = DiskGuard(
            volumes.paths, config.disk.reserve, paths.forwarding_paused, clock, audit, volumes.measure
        )
        self.flow = FlowControl(self.guard, stores.ledger, audit)
        self.quarantine = Quarantine(paths.quarantine, clock, audit)
        self.output = OutputTree(paths, stores.custody)
        self.requests = Requests(paths.requests, clock)
        self.queue = WorkQueue(clock, services.threads.wake)
        router = Router(
            config.routes, read_table(paths.routes, config.routes), *self.peers.nodes, config.forward.grace
        )
        comparison = Comparison(self.peers, stores.custody, router, audit)
        self.sharing = Sharing(
            stores, comparison, router, self.peers, self.flow, self.queue, config.retrieve.tries
        )
        orphans = OrphanSweeper(paths, (services.storage, services.gateway), self.quarantine)
        sweep = Sweep(
            self.peers.nodes,
            comparison.suspects,
            lambda: reversed(stores.ledger.state.closed),
            services.threads.sweeper,
            clock,
        )
        feeds = ChangeFeeds(
            self.peers, stores.ledger, self.queue, clock, config.poll_interval, config.stable_age
        )
        conflicts = self._conflicts(config, paths)
        self.sources = Sources(self.peers, feeds, sweep, orphans, conflicts, self.sharing, self.queue)
        self.retention = self._make_retention(config, paths)
        redo = Redo(self.sharing, self.queue, stores.custody, self.quarantine, self.output)
        commands = OperatorCommands(
            self.requests, redo, self.flow, self.retention, self.sources, self.sharing, audit
        )
        self.loop = ExtractorLoop(
            self.sharing,
            self.queue,
            self.sources,
            commands,
            self._reconciler(config, paths, router, orphans),
            self.retention,
            self.flow,
        )

    def _conflicts(self, config: Config, paths: Paths) -> Conflicts:
        return Conflicts(
            {node.name: paths.conflicts(node.name) for node in config.own_nodes},
            {"gateway": self.peers.gateway, "storage": self.peers.storage},
            self.quarantine,
        )

    def _reconciler(
        self, config: Config, paths: Paths, router: Router, orphans: OrphanSweeper
    ) -> StudyReconciler:
        services, events = self._services, StudyEvents(self._services.audit)
        spool = Spool(paths, self.peers.storage, self.output, self.quarantine)
        publisher = Publisher(paths, self.quarantine)
        retriever = Retriever(
            spool,
            self.peers.nodes,
            services.mover,
            Verifier(self.peers.storage, self.peers.gateway),
            publisher,
            self.quarantine,
            StorageRepair(*self.peers.nodes, services.audit),
        )
        notifier = PublishNotifier(config.routes, paths, self.output, HookQueue(paths.hooks))
        steps = Steps(
            Forwarder(self.peers.gateway, beside=stow_jobs_elsewhere(config.destinations)),
            RetrieveStep(retriever, services.threads.workers, config.retrieve.batch),
            PublishStep(publisher, services.stores, notifier, spool, events, services.clock),
            SetAside(self.peers, self.quarantine),
            orphans,
        )
        observer = Observer(self.peers, router, services.clock)
        return StudyReconciler(config, observer, steps, self.flow, events, services.clock)

    def _make_retention(self, config: Config, paths: Paths) -> RetentionScheduler:
        services, custody, nodes = self._services, self._services.stores.custody, self.peers.nodes
        return RetentionScheduler(
            config=config,
            paths=paths,
            nodes=nodes,
            custody=custody,
            claims=services.stores.claims,
            examiner=Examiner(nodes, paths, custody, owed(paths)),
            remover=Remover(nodes, self.output, custody, config.routes),
            audit=services.audit,
            clock=services.clock,
            executor=services.threads.sweeper,
            measure=services.volumes.measure,
        )
