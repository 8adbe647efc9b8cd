"""The whole pipeline over the fakes, on a real folder: what the unit tests of the extractor play with."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.config.paths import Paths
from ddwd.config.retention import Retention
from ddwd.config.routing import Route
from ddwd.config.schema import Config
from ddwd.core.audit import Audit, Event
from ddwd.core.model import OrthancId
from ddwd.extractor.flow_control import Volumes
from ddwd.extractor.services import Extractor, Services
from ddwd.store.backends import Stores
from ddwd.store.claims import Claims
from ddwd.store.custody import Custody
from ddwd.store.ledger import Ledger
from tests.unit.fakes import FakeClock, FakeDisk, FakeMover, FakeOrthanc, InlineExecutor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddwd.extractor.loop import TurnReport
    from ddwd.extractor.study import StudyState
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
        return Stores(ledger, Custody(self.paths.custody), Claims())

    def start(self) -> None:
        """Start an extractor on whatever the folder holds."""
        audit = Audit(lambda event, _message, fields: self.events.append((event, fields)))
        stores = self.stores()
        audit.add_sink(stores.ledger.note)
        self.extractor = Extractor(
            self.config,
            Services(
                gateway=self.gateway,
                storage=self.storage,
                mover=self.mover,
                stores=stores,
                volumes=Volumes(
                    {
                        "retrieve": [self.paths.output],
                        "forward": [Path("/storage")],
                        "receive": [Path("/gateway")],
                    },
                    self.disk.measure,
                ),
                workers=InlineExecutor(),
                sweeper=InlineExecutor(),
                audit=audit,
                clock=self.clock,
            ),
        )
        self.loop = self.extractor.loop
        self.guard = self.extractor.flow
        self.requests = self.extractor.requests
        self.quarantine = self.extractor.quarantine
        self.custody = Custody(self.paths.custody)

    @property
    def open(self) -> Mapping[OrthancId, StudyState]:
        """The studies in flight."""
        return self.extractor.sharing.open

    def peer_states(self) -> Mapping[str, str]:
        """What is said of each peer."""
        return self.extractor.peers.states

    def rule(self, *routes: Route) -> None:
        """Other rules, as after a restart."""
        self.config = replace(self.config, routes=routes)
        self.start()

    def deliver(self, *images: Image) -> None:
        """Images come to the gateway, and Lua forwards them at once."""
        self.gateway.store(*images)
        self.storage.store(*images)

    def close_forwarding(self, *, is_closed: bool = True) -> None:
        """Let no image from the gateway to storage, by STOW-RS or REST, or let all pass again."""
        self.gateway.lose_jobs = self.storage.is_failing = is_closed

    def run(self, seconds: float = 60.0) -> list[TurnReport]:
        """Let time pass, one turn each half second."""
        reports = []
        for _ in range(int(seconds * 2)):
            reports.append(self.loop.run())
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

    def records_not_as_stated(self) -> list[OrthancId]:
        """Studies whose custody record is not the one that the latest audit event about it states, and those of a removed record."""
        stated = {
            fields["DDWD_STUDY"]: fields.get("DDWD_RECORD_SHA256", "")
            for event, fields in self.events
            if "DDWD_RECORD_SHA256" in fields or event is Event.RECORD_REMOVED
        }
        there = {
            study: hashlib.sha256(self.custody.stored(study) or b"").hexdigest()
            for study in self.custody.studies()
        }
        kept = {OrthancId(study): digest for study, digest in stated.items() if digest}
        return sorted(study for study in there.keys() | kept.keys() if there.get(study) != kept.get(study))

    def leftovers(self) -> list[Path]:
        """Files that should not stay behind once everything is delivered."""
        return [path for path in self.paths.private.rglob("*") if path.is_file()]


def names(*images: Image) -> dict[str, bytes]:
    """What `Portal.published` says when exactly these are."""
    return {
        f"{one.patient_id}/{one.study_uid}/{one.series_uid}/{one.sop_uid}.dcm": one.content for one in images
    }
