"""The extractor put together from its services: the two Orthancs, the stores, the workers, the clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.config.paths import Paths
from ddwd.config.routing import stow_jobs_elsewhere
from ddwd.extractor.flow_control import FlowControl
from ddwd.extractor.indexing import Indexing, finished
from ddwd.extractor.loop import RECENT, ExtractorLoop
from ddwd.extractor.lost_images import LostRegister
from ddwd.extractor.namesakes import Namesakes
from ddwd.extractor.observer import Observer
from ddwd.extractor.operator_commands import OperatorCommands
from ddwd.extractor.orphans import Conflicts, OrphanSweeper
from ddwd.extractor.peers import Peers
from ddwd.extractor.quarantine import Quarantine
from ddwd.extractor.reconciler import Steps, StudyReconciler
from ddwd.extractor.router import Router
from ddwd.extractor.sharing import Sharing
from ddwd.extractor.sources import Sources
from ddwd.extractor.spool import Spool
from ddwd.extractor.steps.forward import Copier, Forwarder, ForwardStep
from ddwd.extractor.steps.publish import Publisher, PublishNotifier, PublishStep
from ddwd.extractor.steps.repair import GatewayRepair, SetAside, StorageRepair
from ddwd.extractor.steps.retrieve import Retriever
from ddwd.extractor.steps.verify import Verifier
from ddwd.extractor.study_events import StudyEvents
from ddwd.extractor.sweep import Sweep
from ddwd.extractor.work_queue import WorkQueue
from ddwd.retention.candidates import Shortage
from ddwd.retention.eligibility import Examiner, owed
from ddwd.retention.remove import Remover
from ddwd.retention.scheduler import RetentionScheduler
from ddwd.store.hook_queue import HookQueue
from ddwd.store.operator_requests import Requests
from ddwd.store.output_tree import OutputTree
from ddwd.store.study_index import StudyIndex

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from ddwd.config.schema import Config
    from ddwd.core.audit import Audit
    from ddwd.core.clock import Clock
    from ddwd.extractor.flow_control import Volumes
    from ddwd.extractor.steps.retrieve import MoverPort
    from ddwd.orthanc.port import OrthancPort
    from ddwd.store.backends import Stores


@dataclass(frozen=True, slots=True)
class Services:
    """What the extractor acts on outside itself.

    `workers` runs C-MOVE and verification, `sweeper` the sweep and retention; `wake` begins the loop's next turn.
    """

    gateway: OrthancPort
    storage: OrthancPort
    mover: MoverPort
    stores: Stores
    volumes: Volumes
    workers: Executor
    sweeper: Executor
    audit: Audit
    clock: Clock
    wake: Callable[[], None] = lambda: None


class Extractor:
    """All parts of the extractor, wired. `loop` does the work; the others are read for the status file, and by tests."""

    def __init__(self, config: Config, services: Services) -> None:
        self._services = services
        self.is_streaming = config.forward.mode == "streaming"
        paths, audit, clock, stores = Paths(config), services.audit, services.clock, services.stores
        custody = stores.custody
        self.peers = Peers(services.gateway, services.storage, audit, shared_ledger=stores.claims.are_shared)
        self.flow = FlowControl(
            services.volumes, config.disk.reserve, paths.forwarding_paused, stores.ledger, clock, audit
        )
        self.quarantine = Quarantine(paths.quarantine, clock, audit)
        self.output = OutputTree(paths, custody)
        self.index = StudyIndex(paths.studies, custody, clock)
        custody.on_change = self.index.note
        self.requests = Requests(paths.requests, clock)
        self.queue = WorkQueue(clock, services.wake)
        router = Router.of(config.routes, paths.routes, self.peers, config.forward.grace)
        self.lost = LostRegister(paths.lost, clock, audit)
        observer = Observer(self.peers, router, custody, audit, clock, self.lost, self.output)
        self.sharing = Sharing(stores.ledger, stores.claims, observer, self.flow, self.queue)
        orphans = OrphanSweeper(paths, self.peers, self.quarantine)
        sweep = Sweep(
            self.peers.nodes,
            observer.suspects,
            lambda: reversed(stores.ledger.state.closed),
            services.sweeper,
            clock,
            custody.studies,
        )
        conflicts = Conflicts(
            {node.name: paths.conflicts(node.name) for node in config.own_nodes},
            {"gateway": services.gateway, "storage": services.storage},
            self.quarantine,
        )
        self.sources = Sources(
            self.peers, sweep, orphans, conflicts, self.sharing, self.queue, config, clock, self.lost
        )
        self.retention = self._make_retention(config, paths)
        commands = OperatorCommands(
            self.requests,
            self.retention,
            self.sources,
            self.sharing,
            custody,
            self.quarantine,
            self.output,
            HookQueue(paths.hooks),
            audit,
        )
        reconciler = self._reconciler(config, paths, observer, orphans)
        self.loop = ExtractorLoop(
            self.sharing,
            self.queue,
            self.sources,
            commands,
            reconciler,
            self.retention,
            self.flow,
            Indexing(self.index, services.sweeper),
            [finished(row) for row in self.index.latest(RECENT)],
        )

    def _reconciler(
        self, config: Config, paths: Paths, observer: Observer, orphans: OrphanSweeper
    ) -> StudyReconciler:
        services, stores, clock = self._services, self._services.stores, self._services.clock
        events = StudyEvents(services.audit)
        spool = Spool(paths, services.storage, self.output, self.quarantine)
        publisher = Publisher(paths, self.quarantine)
        verifier = Verifier(services.storage, services.gateway)
        repair = StorageRepair(self.peers, services.audit)
        retriever = Retriever(
            spool,
            self.peers,
            services.mover,
            verifier,
            publisher,
            repair,
            services.workers,
            config.retrieve.batch,
        )
        namesakes = Namesakes(self.peers, stores.custody, self.quarantine, services.audit)
        routes = {route.name: route for route in config.routes}
        notifier = PublishNotifier(routes, self.output, HookQueue(paths.hooks), paths.output)
        set_aside = SetAside(self.peers, self.quarantine, config.retrieve.tries)
        forward = ForwardStep(
            Forwarder(services.gateway, clock, beside=stow_jobs_elsewhere(config.destinations)),
            Copier(self.peers, services.workers),
            GatewayRepair(self.peers, self.quarantine),
            set_aside,
            observer,
            events,
            clock,
        )
        steps = Steps(
            forward=forward,
            retrieve=retriever,
            publish=PublishStep(
                publisher, stores.custody, stores.claims, namesakes, notifier, spool, events, clock
            ),
            set_aside=set_aside,
        )
        return StudyReconciler(config, observer, steps, orphans, self.flow, events, clock)

    def _make_retention(self, config: Config, paths: Paths) -> RetentionScheduler:
        services, custody, nodes = self._services, self._services.stores.custody, self.peers.nodes
        return RetentionScheduler(
            config=config,
            claims=services.stores.claims,
            examiner=Examiner(nodes, paths, custody, owed(paths)),
            remover=Remover(nodes, self.output, custody, config.routes),
            shortage=Shortage(config, paths, services.volumes.measure),
            audit=services.audit,
            clock=services.clock,
            executor=services.sweeper,
        )
