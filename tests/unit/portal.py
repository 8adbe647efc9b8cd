"""The whole pipeline over the fakes, on a real folder: what the unit tests of the cycle play with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.config.loader import Config
from ddwd.config.paths import Paths
from ddwd.config.retention import Retention
from ddwd.config.routing import Route, table
from ddwd.core.audit import Audit
from ddwd.extractor.conflicts import Conflicts
from ddwd.extractor.disk_guard import Guard
from ddwd.extractor.loop import Cycle, CycleReport, Ports
from ddwd.extractor.orphans import Leftovers
from ddwd.extractor.quarantine import Quarantine
from ddwd.extractor.router import Router
from ddwd.extractor.steps.forward import Forwarder
from ddwd.extractor.steps.notify import Finished
from ddwd.extractor.steps.publish import Publisher
from ddwd.extractor.steps.repair import Mender
from ddwd.extractor.steps.retrieve import Retriever
from ddwd.extractor.steps.verify import Verifier
from ddwd.retention.eligibility import Examiner, owed
from ddwd.retention.remove import Remover
from ddwd.retention.scheduler import Keeper, Tools
from ddwd.store.backends import Stores
from ddwd.store.claims import Alone
from ddwd.store.custody import Custody
from ddwd.store.hook_queue import Notices
from ddwd.store.ledger import Ledger
from ddwd.store.operator_requests import Requests
from ddwd.store.output_tree import OutputTree
from tests.unit.fakes import FakeClock, FakeDisk, FakeMover, FakeOrthanc, InlineExecutor

if TYPE_CHECKING:
    from ddwd.core.audit import Event
    from tests.unit.fakes import Image


class Portal:
    """Gateway, storage, SCP spool and extractor in one folder; `start` throws all memory away.

    With `beside`, one more extractor of the same Orthancs.
    """

    def __init__(
        self,
        folder: Path,
        segment_bytes: int = 4096,
        config: Config | None = None,
        beside: Portal | None = None,
        retention: Retention | None = None,
    ) -> None:
        self._segment_bytes = segment_bytes
        self.config = config or replace(
            Config(),
            output_dir=folder / "received_dicom",
            data_dir=folder,
            run_dir=folder / "run",
            retention=retention or Retention(),
        )
        self.paths = Paths(self.config)
        self.paths.output.mkdir(exist_ok=True)
        self.clock: FakeClock = beside.clock if beside else FakeClock()
        self.storage: FakeOrthanc = beside.storage if beside else FakeOrthanc("storage", self.clock)
        self.gateway: FakeOrthanc = (
            beside.gateway if beside else FakeOrthanc("gateway", self.clock, peer=self.storage)
        )
        self.mover = FakeMover(self.storage, self.paths.spool)
        self.disk = FakeDisk()
        self.events: list[tuple[Event, dict[str, str]]] = []
        self.start()

    def stores(self) -> Stores:
        """Where its state is."""
        ledger = Ledger.open(self.paths.ledger, self.clock, segment_bytes=self._segment_bytes, keep_days=1)
        return Stores(ledger, Custody(self.paths.custody), Alone())

    def start(self) -> None:
        """Start an extractor on whatever the folder holds."""
        audit = Audit(lambda event, _message, fields: self.events.append((event, fields)))
        quarantine = Quarantine(self.paths.quarantine, self.clock, audit)
        stores = self.stores()
        tree = OutputTree(self.paths, stores.custody)
        publisher = Publisher(self.paths, tree, quarantine)
        verifier = Verifier(self.storage, self.gateway)
        mender = Mender(self.gateway, self.storage, audit)
        nodes = (self.gateway, self.storage)
        retriever = Retriever(self.paths, nodes, self.mover, verifier, publisher, quarantine, mender)
        self.requests = Requests(self.paths.requests)
        self.guard = Guard(
            {
                "retrieve": [self.paths.output],
                "forward": [Path("/storage")],
                "receive": [Path("/gateway")],
            },
            self.config.disk.reserve,
            self.paths.forwarding_paused,
            self.clock,
            audit,
            self.disk.measure,
        )
        audit.also(stores.ledger.note)
        tools = Tools(
            paths=self.paths,
            nodes=nodes,
            custody=stores.custody,
            claims=stores.claims,
            examiner=Examiner(nodes, self.paths, stores.custody, owed(self.paths)),
            remover=Remover(nodes, tree, stores.custody, self.config.routes),
            audit=audit,
            clock=self.clock,
            executor=InlineExecutor(),
            measure=self.disk.measure,
        )
        ports = Ports(
            gateway=self.gateway,
            storage=self.storage,
            router=self._router(),
            forwarder=Forwarder(self.gateway),
            retriever=retriever,
            publisher=publisher,
            output=tree,
            quarantine=quarantine,
            requests=self.requests,
            guard=self.guard,
            conflicts=Conflicts(
                {"gateway": self.paths.conflicts("gateway"), "storage": self.paths.conflicts("storage")},
                {"gateway": self.gateway, "storage": self.storage},
                quarantine,
            ),
            leftovers=Leftovers(self.paths, (self.storage, self.gateway), quarantine),
            finished=Finished(self.config.routes, self.paths, tree, Notices(self.paths.hooks)),
            keeper=Keeper(self.config, tools),
            ledger=stores.ledger,
            custody=stores.custody,
            claims=stores.claims,
            audit=audit,
            clock=self.clock,
            executor=InlineExecutor(),
            sweeper=InlineExecutor(),
            alive=lambda: None,
        )
        self.cycle = Cycle(self.config, ports)
        self.custody = Custody(self.paths.custody)
        self.quarantine = quarantine

    def _router(self) -> Router:
        routes = self.config.routes
        return Router(routes, table(routes), self.gateway, self.storage, self.config.forward.grace)

    def rule(self, *routes: Route) -> None:
        """Other rules, as after a restart."""
        self.config = replace(self.config, routes=routes)
        self.start()

    def deliver(self, *images: Image) -> None:
        """Images come to the gateway, and Lua forwards them at once."""
        self.gateway.store(*images)
        self.storage.store(*images)

    def run(self, seconds: float = 60.0) -> list[CycleReport]:
        """Let time pass, one turn each half second."""
        reports = []
        for _ in range(int(seconds * 2)):
            reports.append(self.cycle.run())
            self.clock.advance(0.5)
        return reports

    def published(self) -> dict[str, bytes]:
        """What people see in OUTPUT_DIR: relative name to content."""
        output = self.paths.output
        return {
            str(path.relative_to(output)): path.read_bytes()
            for path in sorted(output.rglob("*.dcm"))
            if ".ddwd" not in path.parts
        }

    def leftovers(self) -> list[Path]:
        """Files that should not stay behind once everything is delivered."""
        return [path for path in self.paths.private.rglob("*") if path.is_file()]


def names(*images: Image) -> dict[str, bytes]:
    """What `Portal.published` says when exactly these are."""
    return {
        f"{one.patient_id}/{one.study_uid}/{one.series_uid}/{one.sop_uid}.dcm": one.content for one in images
    }
