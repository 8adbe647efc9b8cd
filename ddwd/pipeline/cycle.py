"""One turn of the extractor: look, compare, act. The only module that calls the stages; the only writer of ledger and records.

`Cycle.run` returns what it did. Comparing and publishing happen in the calling thread; C-MOVE and verification, which take long,
run as work in an executor, one piece a study at a time. Peers that are away make a study wait, never fail.
"""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.audit import Audit, Event
from ddwd.clock import Clock, stamp
from ddwd.errors import DdwdError, PeerDownError, PeerRefusedError, StateError, StorageFullError
from ddwd.lifecycle import Decision, Observation, Stage, decide, retry_delay
from ddwd.pipeline.retrieve import reason_of
from ddwd.pipeline.watch import ChangeFeed
from ddwd.state.custody import Custody, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ddwd.config import Config
    from ddwd.model import OrthancId, Study
    from ddwd.orthanc_api import OrthancPort
    from ddwd.pipeline.forward import Forwarder
    from ddwd.pipeline.publish import Publisher
    from ddwd.pipeline.quarantine import Quarantine
    from ddwd.pipeline.retrieve import Fetched, Retriever
    from ddwd.state.custody import Kept
    from ddwd.state.ledger import Ledger

_CHECKS_A_TURN = 40
"""Candidates compared in one turn, about 10 ms each: the watchdog is answered in between."""
_LOOK_SECONDS = 0.3
"""A study that is arriving is compared at most this often."""
_CURSOR_SECONDS = 5.0
_SWEEP_SECONDS = 300.0
_RECENT = 20


@dataclass
class Ports:
    """Everything the cycle acts on."""

    gateway: OrthancPort
    storage: OrthancPort
    forwarder: Forwarder
    retriever: Retriever
    publisher: Publisher
    quarantine: Quarantine
    ledger: Ledger
    custody: Custody
    audit: Audit
    clock: Clock
    executor: Executor
    alive: Callable[[], None]


@dataclass
class OpenStudy:
    """A study in flight: what was seen of it, and what is on disk and proved. Times are monotonic seconds."""

    study_id: OrthancId
    record: Record | None
    grew_at: float
    moved_at: float
    listing: Study | None = None
    known: frozenset[OrthancId] = frozenset()
    behind: frozenset[OrthancId] = frozenset()
    held: dict[OrthancId, Kept] = field(default_factory=dict)
    failures: int = 0
    not_before: float = 0.0
    work: Future[Fetched] | None = None
    stage: Stage = Stage.ARRIVING
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """One study that was just made visible; `seconds` from its newest image seen on either Orthanc to publication."""

    study_uid: str
    folder: str
    instances: int
    revision: int
    published_at: str
    seconds: float


@dataclass
class CycleReport:
    """What one turn did; `busy` asks for the next turn soon, else the poll interval will do."""

    published: list[Published] = field(default_factory=list)
    opened: int = 0
    retrieved: int = 0
    forwarded: int = 0
    busy: bool = False


class Cycle:
    """Holds the open studies between turns."""

    def __init__(self, config: Config, ports: Ports) -> None:
        self._config = config
        self._ports = ports
        cursors = ports.ledger.state.cursors
        self._feeds = [
            ChangeFeed(ports.gateway, cursors.get("gateway", 0)),
            ChangeFeed(ports.storage, cursors.get("storage", 0)),
        ]
        self._candidates: dict[OrthancId, None] = {}
        self._sweep: Iterator[OrthancId] | None = None
        self._next_sweep = 0.0
        self._cursor_at = 0.0
        self.peers = {"gateway": "ok", "storage": "ok"}
        self.open: dict[OrthancId, OpenStudy] = {}
        self.recent: list[Published] = []
        for study in ports.ledger.state.open:
            self._open(study)

    def run(self) -> CycleReport:
        """Take one turn. Only damage to our own state is raised (StateError); everything else is waited out."""
        report = CycleReport()
        for feed in self._feeds:
            self._look(feed, report)
        self._check_candidates(report)
        for study in list(self.open.values()):
            self._ports.alive()
            self._advance(study, report)
        self._commit()
        report.busy = report.busy or bool(self.open) or bool(self._candidates)
        return report

    def drain(self) -> None:
        """Before a stop: take in the work that is finished and make everything known durable."""
        for study in self.open.values():
            if study.work is not None and study.work.done():
                self._collect(study, CycleReport())
        self._commit(force=True)

    def next_due(self) -> float:
        """Seconds until some open study wants to be looked at again."""
        now = self._ports.clock.monotonic()
        due = [study.not_before - now for study in self.open.values() if study.work is None]
        return max(0.0, min([self._config.poll_interval, *due]))

    # --- seeing -----------------------------------------------------------------------------------------------

    def _look(self, feed: ChangeFeed, report: CycleReport) -> None:
        try:
            touched = feed.look()
        except (PeerDownError, PeerRefusedError) as error:
            self._peer(feed.node.name, str(error))
            return
        self._peer(feed.node.name, "ok")
        self._candidates = dict.fromkeys(touched.studies) | self._candidates
        report.busy = report.busy or touched.more
        if touched.grew:
            for study in self.open.values():
                study.not_before = min(study.not_before, self._ports.clock.monotonic() + _LOOK_SECONDS)

    def _peer(self, name: str, state: str) -> None:
        if (self.peers[name] == "ok") != (state == "ok"):
            event, words = (Event.PEER_UP, "answers again") if state == "ok" else (Event.PEER_DOWN, state)
            self._ports.audit.record(event, f"{name}: {words}", peer=name)
            self._next_sweep = 0.0  # after every fault everything is compared
        self.peers[name] = state

    def _check_candidates(self, report: CycleReport) -> None:
        """Compare a bounded number of candidates: first those that moved, then the sweep over all studies."""
        self._ready_sweep()
        for _ in range(_CHECKS_A_TURN):
            study = self._next_candidate()
            if study is None:
                return
            self._ports.alive()
            try:
                needed = study not in self.open and self._needs_work(study)
            except (PeerDownError, PeerRefusedError):
                self._candidates[study] = None  # asked again when the peer is back
                return
            if needed:
                self._ports.ledger.append("opened", study=study)
                self._open(study)
                report.opened += 1

    def _ready_sweep(self) -> None:
        now = self._ports.clock.monotonic()
        if self._sweep is None and now >= self._next_sweep and set(self.peers.values()) == {"ok"}:
            self._sweep = self._all_studies()
            self._next_sweep = now + _SWEEP_SECONDS

    def _all_studies(self) -> Iterator[OrthancId]:
        yield from self._ports.gateway.study_ids()
        yield from self._ports.storage.study_ids()

    def _next_candidate(self) -> OrthancId | None:
        if self._candidates:
            study = next(iter(self._candidates))
            del self._candidates[study]
            return study
        if self._sweep is None:
            return None
        try:
            return next(self._sweep)
        except StopIteration:
            self._sweep = None
        except (PeerDownError, PeerRefusedError):
            self._sweep, self._next_sweep = None, 0.0
        return None

    def _needs_work(self, study: OrthancId) -> bool:
        record = self._read_record(study)
        if record is None:
            return True
        known = record.images.keys() | record.set_aside.keys()
        sides = (self._ports.gateway.study(study), self._ports.storage.study(study))
        return any(side is not None and not side.ids <= known for side in sides)

    def _read_record(self, study: OrthancId) -> Record | None:
        try:
            return self._ports.custody.read(study)
        except StateError as error:
            # the files are still there: the study is opened, verified against storage and recorded anew
            self._ports.audit.record(Event.STATE_REBUILT, str(error))
            return None

    def _open(self, study: OrthancId) -> None:
        now = self._ports.clock.monotonic()
        opened = OpenStudy(study, self._read_record(study), grew_at=now, moved_at=now)
        if opened.record is not None:
            opened.held.update(opened.record.images)
        self.open[study] = opened

    # --- acting -----------------------------------------------------------------------------------------------

    def _advance(self, study: OpenStudy, report: CycleReport) -> None:
        if study.work is not None:
            if not study.work.done():
                return
            self._collect(study, report)
        if self._ports.clock.monotonic() < study.not_before:
            return
        try:
            seen = self._observe(study)
            if seen is not None:
                self._act(study, seen, report)
        except (DdwdError, OSError) as error:
            self._postpone(study, reason_of(error))

    def _observe(self, study: OpenStudy) -> Observation | None:
        """Ask both Orthancs; None where neither knows the study any more and it is closed."""
        now = self._ports.clock.monotonic()
        storage = self._ports.storage.study(study.study_id)
        gateway, gateway_known = self._ask_gateway(study.study_id)
        if storage is None and gateway is None and gateway_known:
            self._close(study)
            return None
        study.listing = storage or gateway or study.listing
        storage_ids = storage.ids if storage else frozenset()
        gateway_ids = gateway.ids if gateway else frozenset()
        if not (storage_ids | gateway_ids) <= study.known:
            study.known |= storage_ids | gateway_ids
            study.grew_at = now
        if (behind := gateway_ids - storage_ids) != study.behind:
            study.behind, study.moved_at = behind, now
        return Observation(
            gateway=gateway_ids if gateway else None,
            gateway_known=gateway_known,
            gateway_stable=gateway.is_stable if gateway else False,
            storage=storage_ids,
            storage_stable=storage.is_stable if storage else False,
            held=frozenset(study.held),
            set_aside=frozenset(study.record.set_aside if study.record else ()),
            quiet=now - study.grew_at,
            unmoved=now - study.moved_at,
        )

    def _ask_gateway(self, study: OrthancId) -> tuple[Study | None, bool]:
        try:
            return self._ports.gateway.study(study), True
        except (PeerDownError, PeerRefusedError) as error:
            self._peer("gateway", str(error))
            return None, False

    def _act(self, study: OpenStudy, seen: Observation, report: CycleReport) -> None:
        config = self._config
        decision = decide(seen, stable_age=config.stable_age, grace=config.forward.grace)
        study.stage, study.reason = decision.stage, decision.reason
        study.not_before = self._ports.clock.monotonic() + _LOOK_SECONDS
        if decision.forward:
            report.forwarded += self._forward(study, decision)
        if decision.retrieve:
            self._retrieve(study, decision)
        elif decision.publish:
            self._publish(study, report)

    def _forward(self, study: OpenStudy, decision: Decision) -> int:
        sent = self._ports.forwarder.send(decision.forward)
        study.moved_at = self._ports.clock.monotonic()
        if sent and study.listing:
            self._ports.audit.record(
                Event.FORWARD_STARTED,
                f"sending {sent} images to storage that the gateway's own forwarding left behind",
                study_uid=study.listing.study_uid,
                instances=sent,
            )
        return sent

    def _retrieve(self, study: OpenStudy, decision: Decision) -> None:
        if study.listing is None:
            return
        block = sorted(decision.retrieve)[: self._config.retrieve.batch]
        study.work = self._ports.executor.submit(
            self._ports.retriever.fetch, study.listing, block, self._ports.alive
        )

    def _collect(self, study: OpenStudy, report: CycleReport) -> None:
        """Take in what a finished piece of work brought."""
        work, study.work = study.work, None
        if work is None or work.cancelled():
            return
        try:
            fetched = work.result()
        except Exception as error:  # noqa: BLE001 - whatever one study does to us, the others must go on
            self._postpone(study, reason_of(error))
            return
        study.held.update({kept.orthanc_id: kept for kept in fetched.kept})
        report.retrieved += len(fetched.kept)
        if fetched.failed:
            self._postpone(study, next(iter(fetched.failed.values())))
        else:
            study.failures = 0

    def _postpone(self, study: OpenStudy, reason: str) -> None:
        study.failures += 1
        study.stage, study.reason = Stage.WAITING, reason
        study.not_before = self._ports.clock.monotonic() + retry_delay(study.failures)
        if study.failures == 1:
            uid = study.listing.study_uid if study.listing else ""
            self._ports.audit.record(Event.RETRIEVE_FAILED, f"will be tried again: {reason}", study_uid=uid)

    def _publish(self, study: OpenStudy, report: CycleReport) -> None:
        """Make the study visible, then prove it by its custody record, then forget it: in this order."""
        if study.listing is None:
            return
        self._ports.publisher.publish(study.listing)
        record = self._record(study, study.listing)
        if record is not None:
            self._ports.custody.write(record)
            self._announce(study, record, report)
        self._ports.retriever.clear_spool(study.listing, study.held)
        self._close(study)

    def _record(self, study: OpenStudy, listing: Study) -> Record | None:
        """The new revision of the study's record, or None where nothing was added."""
        before = study.record.images if study.record else {}
        added = len(study.held.keys() - before.keys())
        if study.record is not None and not added:
            return None
        now = stamp(self._ports.clock.utc())
        revision = study.record.revision + 1 if study.record else 1
        history = list(study.record.history) if study.record else []
        history.append({"revision": revision, "at": now, "added": added})
        return Record(
            study=study.study_id,
            study_uid=listing.study_uid,
            accession=listing.accession,
            folder=study.record.folder if study.record else listing.folder,
            revision=revision,
            published_at=now,
            images=dict(sorted(study.held.items())),
            set_aside=study.record.set_aside if study.record else {},
            history=history,
        )

    def _announce(self, study: OpenStudy, record: Record, report: CycleReport) -> None:
        seconds = round(self._ports.clock.monotonic() - study.grew_at, 3)
        one = Published(
            record.study_uid, record.folder, len(record.images), record.revision, record.published_at, seconds
        )
        report.published.append(one)
        self.recent = [one, *self.recent][:_RECENT]
        event = Event.PUBLISHED if record.revision == 1 else Event.LATE_IMAGE
        added = record.history[-1]["added"]
        self._ports.audit.record(
            event,
            f"{added} images published, {len(record.images)} in all, revision {record.revision}",
            study_uid=record.study_uid,
            instances=len(record.images),
            bytes=sum(kept.size for kept in record.images.values()),
            accession=record.accession,
            revision=record.revision,
        )

    def _close(self, study: OpenStudy) -> None:
        self._ports.ledger.append("closed", study=study.study_id)
        del self.open[study.study_id]

    def _commit(self, *, force: bool = False) -> None:
        """Make the turn durable. Cursors move only past studies that are in the ledger by now."""
        now = self._ports.clock.monotonic()
        cursors = self._ports.ledger.state.cursors
        if not self._candidates and (force or now - self._cursor_at >= _CURSOR_SECONDS):
            self._cursor_at = now
            for feed in self._feeds:
                if cursors.get(feed.node.name, 0) != feed.cursor:
                    self._ports.ledger.append("cursor", node=feed.node.name, seq=feed.cursor)
        try:
            self._ports.ledger.commit()
        except StorageFullError:
            return  # kept in memory and written when there is room again; a restart would only compare again
