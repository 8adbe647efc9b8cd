"""One turn of the extractor: look, compare, act. The only module that calls the stages; the only writer of ledger and records.

`Cycle.run` returns what it did. Comparing and publishing happen in the calling thread; C-MOVE and verification, which take long,
run as work in an executor, one piece a study at a time. Peers that are away make a study wait, never fail.
"""

from __future__ import annotations

from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ddwd.config.routing import HOLD
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock, stamp
from ddwd.core.errors import (
    DdwdError,
    HeldElsewhereError,
    NewerStateError,
    PeerDownError,
    PeerRefusedError,
    StateError,
    StorageFullError,
)
from ddwd.core.model import OrthancId
from ddwd.extractor.blame import Blame
from ddwd.extractor.change_feed import ChangeFeed
from ddwd.extractor.decision import Decision, Observation, Stage, decide, retry_delay, waiting_for_a_rule
from ddwd.extractor.operator_commands import Wishes
from ddwd.extractor.quarantine import Subject
from ddwd.extractor.steps.retrieve import next_block, reason_of
from ddwd.extractor.study import OpenStudy, ids_of, uncompared
from ddwd.extractor.study_events import Chronicle
from ddwd.extractor.sweep import Sweep
from ddwd.extractor.work_queue import Candidates
from ddwd.store.custody import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ddwd.config.loader import Config
    from ddwd.core.model import Study
    from ddwd.extractor.conflicts import Conflicts
    from ddwd.extractor.disk_guard import Guard
    from ddwd.extractor.orphans import Leftovers
    from ddwd.extractor.quarantine import Quarantine
    from ddwd.extractor.router import Router
    from ddwd.extractor.steps.forward import Forwarder
    from ddwd.extractor.steps.notify import Finished
    from ddwd.extractor.steps.publish import Publisher
    from ddwd.extractor.steps.retrieve import Retriever
    from ddwd.orthanc.client import OrthancPort
    from ddwd.retention.scheduler import Keeper
    from ddwd.store.claims import Claims
    from ddwd.store.custody import CustodyPort
    from ddwd.store.ledger import LedgerPort
    from ddwd.store.operator_requests import Requests
    from ddwd.store.output_tree import OutputTree

    _Sets = Mapping[OrthancId, frozenset[OrthancId]]

_CHECKS_A_TURN = 40
"""Candidates compared in one turn, about 4 ms each: the watchdog is answered in between."""
_CHECK_SECONDS = 0.1
"""And no longer than this while studies are in flight, which must not wait for all the others that moved."""
_LOOK_SECONDS = 0.3
"""A study in flight is compared this often."""
_QUICK_SECONDS = 0.1
"""One that grew is compared again this soon, or after eight times what comparing it costs: the last image is to be seen at once."""
_LOOK_SHARE = 8.0
_HELD_SECONDS = 30.0
"""And one that no rule takes this often."""
_CURSOR_SECONDS = 5.0
_RECENT = 20
_AT_ONCE = 6
"""Studies that an extractor which is not alone brings to the disk at once; the next one may as well be another's."""


@dataclass
class Ports:
    """Everything the cycle acts on."""

    gateway: OrthancPort
    storage: OrthancPort
    router: Router
    forwarder: Forwarder
    retriever: Retriever
    publisher: Publisher
    output: OutputTree
    quarantine: Quarantine
    requests: Requests
    conflicts: Conflicts
    leftovers: Leftovers
    finished: Finished
    keeper: Keeper
    guard: Guard
    ledger: LedgerPort
    custody: CustodyPort
    claims: Claims
    audit: Audit
    clock: Clock
    executor: Executor
    sweeper: Executor
    alive: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Published:
    """One study that was just made visible; `seconds` from its newest image seen on either Orthanc to publication."""

    study: OrthancId
    study_uid: str
    aet: str
    route: str
    instances: int
    added: int
    bytes: int
    revision: int
    published_at: str
    seconds: float


@dataclass
class CycleReport:
    """What one turn did; `more` tells that there is more to do at once, or `Cycle.next_due` will do."""

    published: list[Published] = field(default_factory=list)
    opened: int = 0
    retrieved: int = 0
    bytes: int = 0
    forwarded: int = 0
    more: bool = False


class Cycle:
    """Holds the open studies between turns."""

    def __init__(self, config: Config, ports: Ports) -> None:
        self._config = config
        self._ports = ports
        self._feeds = self._new_feeds()
        nodes = (ports.gateway, ports.storage)
        self._candidates = Candidates(
            Sweep(nodes, self._suspects, self._finished_last, ports.sweeper, ports.clock)
        )
        self._chronicle = Chronicle(ports.audit)
        self._wishes = Wishes(ports, self._candidates, self._reopened, self._dropped)
        self._cursor_at = 0.0
        self._stops = False
        self._forwarded_at = float("-inf")
        self.peers = {"gateway": "ok", "storage": "ok"} | (
            {"ledger": "ok"} if ports.claims.are_shared else {}
        )
        self.open: dict[OrthancId, OpenStudy] = {}
        self.recent: list[Published] = []
        for study in ports.ledger.state.open:
            self._open(study)

    def run(self) -> CycleReport:
        """Take one turn. Only damage to our own state is raised (StateError); everything else is waited out."""
        report = CycleReport()
        self._ports.guard.look()
        if not self._meets_the_others():
            return report
        self._wishes.take()
        self._collect_conflicts()
        for feed in self._feeds:
            self._look(feed, report)
        self._check_candidates(report)
        for study in sorted(self.open.values(), key=lambda one: -one.priority):
            self._ports.alive()
            self._advance(study, report)
        if self._both_answer:
            self._ports.keeper.step(self.open.keys())
        self._commit()
        return report

    def drain(self) -> None:
        """Before a stop: take in the work that is finished and make everything known durable; what was cut off is no failure."""
        self._stops = True
        for study in self.open.values():
            if study.work is not None and study.work.done():
                self._collect(study, CycleReport())
        self._commit(force=True)

    @property
    def is_paused(self) -> bool:
        """Whether the operator has paused the retrieving."""
        return self._ports.ledger.state.paused

    def swept(self) -> dict[str, Any]:
        """How far the sweep over all studies is: compared in this round, and when a whole one ended last (over restarts)."""
        sweep = self._candidates.sweep
        return {
            "compared": sweep.compared,
            "began_at": sweep.began_at,
            "ended_at": self._ports.ledger.state.swept,
        }

    def retention(self) -> dict[str, Any]:
        """The last round of retention, and what the one at work has done so far; nothing where nothing may ever be removed."""
        return self._ports.keeper.state()

    def opened_at(self, study: OrthancId) -> str:
        """Stamp of when the study was opened, over restarts."""
        return self._ports.ledger.state.open.get(study, "")

    def next_due(self) -> float:
        """Seconds until some open study wants to be looked at again, or the sweep to go on."""
        now = self._ports.clock.monotonic()
        due = [study.not_before - now for study in self.open.values() if study.work is None]
        due.append(self._ports.claims.wait())
        if self._both_answer:
            due += [self._candidates.sweep.wait(), self._ports.keeper.wait()]
        return max(0.0, min([self._config.poll_interval, *due]))

    # --- sharing ----------------------------------------------------------------------------------------------

    def _meets_the_others(self) -> bool:
        """Whether the shared ledger answers, if there is one: without it nobody may work. What others left is taken over."""
        claims = self._ports.claims
        if not claims.are_shared:
            return True
        try:
            if claims.look():
                self._feeds = self._new_feeds()
            left = claims.left()
            for study in left.free:
                self._candidates.again(study)
            for study in left.asked:
                self._wishes.retry(study)
            for study in left.begun:
                if self._has_room:
                    self._reopened(study)
        except HeldElsewhereError:
            pass  # another one was faster
        except PeerDownError as error:
            self._wait_for_the_ledger(str(error))
            return False
        self._peer("ledger", "ok")
        return True

    def _wait_for_the_ledger(self, why: str) -> None:
        self._peer("ledger", why)
        for study in self.open.values():
            study.stage, study.reason = Stage.WAITING, why

    def _new_feeds(self) -> list[ChangeFeed]:
        ports, cursors = self._ports, self._ports.ledger.state.cursors
        return [
            ChangeFeed(node, cursors.get(node.name, 0), ports.clock)
            for node in (ports.gateway, ports.storage)
        ]

    @property
    def _has_room(self) -> bool:
        """Whether one more study may be taken up; alone, always. What this machine may not fetch is left to the others."""
        if not self._ports.claims.are_shared:
            return True
        if self.is_paused or not self._ports.guard.may_retrieve:
            return False
        return sum(one.work is not None or one.listing is None for one in self.open.values()) < _AT_ONCE

    def _lose(self, study: OpenStudy) -> None:
        """The claim ended with the connection: the study is compared again, and taken up again if nobody else has."""
        self._ports.ledger.append("lost", study=study.study_id)
        del self.open[study.study_id]
        self._candidates.again(study.study_id)

    def _leave(self, study: OpenStudy) -> None:
        """For another extractor; nobody else takes it while all are paused."""
        self._ports.claims.leave(study.study_id)
        self._ports.ledger.append("lost", study=study.study_id)
        del self.open[study.study_id]

    # --- seeing -----------------------------------------------------------------------------------------------

    def _look(self, feed: ChangeFeed, report: CycleReport) -> None:
        try:
            touched = feed.look()
        except (PeerDownError, PeerRefusedError) as error:
            self._peer(feed.node.name, str(error))
            return
        self._peer(feed.node.name, "ok")
        self._candidates.moved(touched.studies)
        report.more = report.more or touched.more
        if touched.grew:
            for study in self.open.values():
                study.not_before = min(study.not_before, study.look_again_at)

    def _peer(self, name: str, state: str) -> None:
        if (self.peers[name] == "ok") != (state == "ok"):
            event, words = (Event.PEER_UP, "answers again") if state == "ok" else (Event.PEER_DOWN, state)
            self._ports.audit.record(event, f"{name}: {words}", peer=name)
            self._candidates.after_a_fault()
        self.peers[name] = state

    @property
    def _both_answer(self) -> bool:
        return set(self.peers.values()) == {"ok"}

    def _check_candidates(self, report: CycleReport) -> None:
        """Compare a bounded number of candidates."""
        if self._both_answer:
            self._go_on_with_the_sweep()
        began = self._ports.clock.monotonic()
        for _ in range(_CHECKS_A_TURN):
            study = self._candidates.next() if self._has_room else None
            if study is None:
                return
            self._ports.alive()
            try:
                if study not in self.open and self._needs_work(study):
                    self._reopened(study)
                    report.opened += 1
            except HeldElsewhereError:
                continue  # the claims tell when it is free
            except (PeerDownError, PeerRefusedError):
                self._candidates.again(study)
                return
            if self.open and self._ports.clock.monotonic() - began >= _CHECK_SECONDS:
                break
        report.more = report.more or bool(self._candidates)

    def _go_on_with_the_sweep(self) -> None:
        if self._candidates.is_time_for_leftovers(self._ports.clock.monotonic()):
            self._sweep_leftovers()
        suspects, ended = self._candidates.sweep.step()
        for study in suspects:
            self._candidates.again(study)
        if ended:
            self._ports.ledger.append("swept")

    def _sweep_leftovers(self) -> None:
        uids = {study.listing.study_uid for study in self.open.values() if study.listing is not None}
        try:
            for study in self._ports.leftovers.sweep(self.open.keys(), uids):
                with suppress(HeldElsewhereError):  # at the next sweep
                    self._reopened(study)
        except (DdwdError, OSError):
            return  # a peer is away or the disk is full: at the next sweep

    def _needs_work(self, study: OrthancId) -> bool:
        record = self._read_record(study)
        return record is None or self._differs(study, record, self._listed([study]))

    def _suspects(self, studies: Sequence[OrthancId]) -> list[OrthancId]:
        """Those of many that look as if they needed work, for the sweep, in its thread; `_needs_work` compares them again."""
        self._ports.alive()
        listed = self._listed(studies)
        return [study for study in studies if self._is_suspect(study, listed)]

    def _is_suspect(self, study: OrthancId, listed: Iterable[_Sets]) -> bool:
        self._ports.alive()
        try:
            record = self._ports.custody.read(study)
        except StateError:
            return True
        return record is None or self._differs(study, record, listed)

    def _listed(self, studies: Sequence[OrthancId]) -> tuple[_Sets, _Sets]:
        """What gateway and storage have of these studies."""
        return self._ports.gateway.instances(studies), self._ports.storage.instances(studies)

    def _differs(self, study: OrthancId, record: Record, listed: Iterable[_Sets]) -> bool:
        """Whether an Orthanc lists what the record does not account for, or storage lacks what the gateway has."""
        known = record.images.keys() | record.set_aside.keys() | frozenset(record.passed)
        gateway, storage = (sets.get(study, frozenset()) for sets in listed)
        stays = frozenset() if self._ports.router.forwards(record.route) else frozenset(record.passed)
        return (
            not (gateway | storage) <= known
            or not gateway - record.set_aside.keys() - stays <= storage
            or bool(uncompared(record.images, gateway))
        )

    def _finished_last(self) -> list[OrthancId]:
        return list(reversed(self._ports.ledger.state.closed))

    def _read_record(self, study: OrthancId) -> Record | None:
        try:
            return self._ports.custody.read(study)
        except NewerStateError:
            raise  # an older version has no business here
        except StateError as error:
            # the files are still there: the study is opened, verified against storage and recorded anew
            self._ports.audit.record(Event.STATE_REBUILT, str(error))
            return None

    def _open(self, study: OrthancId) -> None:
        now = self._ports.clock.monotonic()
        tries = self._config.retrieve.tries
        one = OpenStudy(study, self._read_record(study), now, now, Blame(tries), Blame(tries))
        one.opened, one.route = now, self._ports.router.at_first()
        self.open[study] = one

    def _collect_conflicts(self) -> None:
        """What the doors of the Orthancs kept aside goes to quarantine, unless it only is encoded otherwise."""
        try:
            if self._ports.conflicts.waiting():
                self._ports.conflicts.collect()
        except (DdwdError, OSError):
            return  # a peer is away or the disk is full: it lies there durably, and waits for the next turn

    def _reopened(self, study: OrthancId) -> OpenStudy:
        """The study in flight; one that was not is opened, and the ledger told so. Raises HeldElsewhereError and PeerDownError."""
        if study not in self.open:
            self._ports.claims.take(study)
            self._ports.ledger.append("opened", study=study)
            self._open(study)
        return self.open[study]

    def _dropped(self, study: OrthancId) -> None:
        """Leave a study as it is; nothing happens to one that is not in flight."""
        if study in self.open:
            self._close(self.open[study])

    # --- acting -----------------------------------------------------------------------------------------------

    def _advance(self, study: OpenStudy, report: CycleReport) -> None:
        if self._ports.keeper.holds(study.study_id):
            return
        if study.work is not None:
            if not study.work.done():
                return
            self._collect(study, report)
        if not self._ports.claims.holds(study.study_id):
            self._lose(study)
            return
        if self._ports.clock.monotonic() < study.not_before:
            return
        began = self._ports.clock.monotonic()
        try:
            seen = self._observe(study)
            now = self._ports.clock.monotonic()
            study.look_again_at = now + max(_QUICK_SECONDS, _LOOK_SHARE * (now - began))
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
            self._give_up(study)
            return None
        if study.behind & ids_of(storage):
            self._forwarded_at = now
        study.see(gateway, storage, now, stamp(self._ports.clock.utc()))
        if study.route is None and gateway_known:
            study.route = self._ports.router.decide(study, now)
        study.place()
        self._ask_sender(study, gateway)
        return study.observation(gateway, storage, now, gateway_known=gateway_known)

    def _ask_sender(self, study: OpenStudy, gateway: Study | None) -> None:
        """Who sent it: asked once, and the way on does not depend on it."""
        if study.journey.sender_asked or not gateway:
            return
        newest = gateway.ids - (study.record.images.keys() if study.record else frozenset())
        for one in sorted(newest)[:1]:
            try:
                study.journey.aet = self._ports.gateway.sender(one)
                study.journey.sender_asked = True
            except (PeerDownError, PeerRefusedError):
                return

    def _give_up(self, study: OpenStudy) -> None:
        """Both Orthancs were told to forget the study: what came of it before it was whole is kept in quarantine."""
        if study.listing is not None and study.is_changed:
            reason = "the study was deleted on both Orthancs before it was published"
            files = self._ports.leftovers.vanished(study.listing, reason)
            self._chronicle.vanished(study, reason, files)
        self._close(study)

    def _ask_gateway(self, study: OrthancId) -> tuple[Study | None, bool]:
        try:
            return self._ports.gateway.study(study), True
        except (PeerDownError, PeerRefusedError) as error:
            self._peer("gateway", str(error))
            return None, False

    def _act(self, study: OpenStudy, seen: Observation, report: CycleReport) -> None:
        guard = self._ports.guard
        decision = self._decide(study, seen)
        study.stage, study.reason = decision.stage, decision.reason
        self._chronicle.observed(study, seen, decision)
        study.not_before = self._next_look(study)
        if decision.forward and guard.may_forward:
            report.forwarded += self._forward(study, decision)
        if decision.retrieve and guard.may_retrieve and not self.is_paused:
            self._retrieve(study, decision)
        elif decision.publish:
            self._publish(study, report)
        elif decision.forward or decision.retrieve:
            study.reason = guard.reason or study.reason
            if decision.retrieve and self.is_paused:
                study.reason = "retrieving is paused by the operator; see: ddwd resume"
                if self._ports.claims.are_shared:
                    self._leave(study)

    def _decide(self, study: OpenStudy, seen: Observation) -> Decision:
        route, config = study.route, self._config
        if route is None or route is HOLD:
            return waiting_for_a_rule(held=route is HOLD)
        return decide(
            seen,
            stable_age=config.stable_age,
            grace=config.forward.grace,
            may_forward=route.forward,
            may_extract=route.extract,
        )

    def _next_look(self, study: OpenStudy) -> float:
        """In a while, and at the very moment at which the study may have become whole."""
        now = self._ports.clock.monotonic()
        if study.stage is Stage.HELD:
            return now + _HELD_SECONDS
        soon = now + _LOOK_SECONDS
        quiet_at = study.grew_at + self._config.stable_age
        return min(soon, max(now, quiet_at)) if study.stage is Stage.ARRIVING else soon

    def _forward(self, study: OpenStudy, decision: Decision) -> int:
        now = self._ports.clock.monotonic()
        last, study.moved_at = study.moved_at, now
        sent = self._ports.forwarder.send(decision.forward, study.priority)
        if sent and study.listing:
            self._chronicle.forwarding(study, sent, self._ports.forwarder.last_error)
        if sent and self._forwarded_at >= last:  # others passed meanwhile: these are at fault
            for instance in study.forward_blame.count(decision.forward):
                self._set_aside(study, instance, "storage does not take it", study.forward_blame)
        return sent

    def _retrieve(self, study: OpenStudy, decision: Decision) -> None:
        if study.listing is None:
            return
        self._chronicle.retrieving(study)
        block = next_block(study.listing, decision.retrieve, self._config.retrieve.batch)
        study.work = self._ports.executor.submit(
            self._ports.retriever.fetch, study.listing, block, self._ports.alive, study.control
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
        study.journey.note("disk", study.held.keys(), stamp(self._ports.clock.utc()))
        report.retrieved += len(fetched.kept)
        report.bytes += sum(kept.size for kept in fetched.kept)
        if not fetched.failed:
            study.failures = 0
            return
        self._postpone(study, next(iter(fetched.failed.values())))
        if self._ports.guard.may_retrieve:
            for instance in study.retrieve_blame.count(fetched.blamed):
                self._set_aside(study, instance, fetched.failed[instance], study.retrieve_blame)

    def _set_aside(self, study: OpenStudy, instance: OrthancId, reason: str, blame: Blame) -> None:
        """Give up on one image, keeping its bytes where an Orthanc still can read them; its study goes on without it."""
        content, sop_uid = self._bytes_of(instance)
        subject = Subject(
            kind="undeliverable",
            study_uid=study.listing.study_uid if study.listing else "",
            reason=reason,
            study=study.study_id,
            instance=instance,
            sop_uid=sop_uid,
            tries=blame.tries(instance),
        )
        self._ports.quarantine.keep(content, subject)
        study.set_aside[instance] = reason
        study.not_before = 0.0

    def _bytes_of(self, instance: OrthancId) -> tuple[bytes | None, str]:
        """The image as either Orthanc has it, and its SOPInstanceUID; None where its bytes cannot be read."""
        content, sop_uid = None, ""
        for node in (self._ports.storage, self._ports.gateway):
            try:
                sop_uid = sop_uid or node.sop_uids([instance]).get(instance, "")
                content = content or node.file(instance)
            except DdwdError:
                continue
        return content, sop_uid

    def _postpone(self, study: OpenStudy, reason: str) -> None:
        study.failures += 1
        study.stage, study.reason = Stage.WAITING, reason
        now = self._ports.clock.monotonic()
        study.not_before, study.look_again_at = now + retry_delay(study.failures), now + _LOOK_SECONDS
        if study.failures == 1 and not self._stops:
            self._chronicle.failed(study, reason)

    def _publish(self, study: OpenStudy, report: CycleReport) -> None:
        """Make the study visible, then prove it by its custody record, then forget it: in this order."""
        if study.listing is None:
            return
        listing = study.listing
        self._ports.claims.make_sure(study.study_id)
        self._leave_out(study, self._ports.publisher.publish(listing))
        record = self._record(study, listing)
        if record is not None:
            before = study.record.images if study.record else {}
            added = [kept for one, kept in record.images.items() if one not in before]
            if added:
                self._chronicle.verified(study, added)
            self._ports.custody.write(record)
            if record.history[-1]["added"] or study.restored or (record.revision == 1 and not record.passed):
                self._announce(study, record, report)
            study.record, study.restored = record, 0
        others = any(
            one is not study and one.listing is not None and one.listing.study_uid == listing.study_uid
            for one in self.open.values()
        )
        if study.record is not None:
            self._ports.finished.tell(study.record)
        self._ports.retriever.clear_spool(listing, study.held, others=others)
        self._close(study)

    @staticmethod
    def _leave_out(study: OpenStudy, taken: list[str]) -> None:
        """Images whose names already had other content on disk are not the published ones: they wait in quarantine."""
        for instance, kept in list(study.held.items()):
            if kept.file not in taken:
                continue
            if study.record is not None and instance in study.record.images:
                study.held[instance] = replace(study.record.images[instance], at_gateway=True)
            else:
                del study.held[instance]
                study.set_aside[instance] = "other content is published under its name"

    def _record(self, study: OpenStudy, listing: Study) -> Record | None:
        """The new revision of the study's record, or None where it says all already."""
        before = study.record.images if study.record else {}
        added = len(study.held.keys() - before.keys())
        # what retention removed, and no Orthanc has to give back, is not forgotten
        removed = {one: kept for one, kept in before.items() if kept.removed and one not in study.set_aside}
        if not study.is_changed:
            return None
        now = stamp(self._ports.clock.utc())
        revision = study.record.revision + 1 if study.record else 1
        history = list(study.record.history) if study.record else []
        history.append(
            {
                "revision": revision,
                "at": now,
                "added": added,
                "restored": study.restored,
                "aet": study.journey.aet,
                "hops": study.journey.hops,
            }
        )
        return Record(
            study=study.study_id,
            study_uid=listing.study_uid,
            accession=listing.accession,
            folder=study.record.folder if study.record else listing.folder,
            revision=revision,
            published_at=now,
            images=dict(sorted((removed | study.held).items())),
            set_aside=dict(sorted(study.set_aside.items())),
            history=history,
            route=study.route.name if study.route else "",
            retired=dict(study.record.retired) if study.record else {},
            passed=sorted(study.all_passed),
        )

    def _announce(self, study: OpenStudy, record: Record, report: CycleReport) -> None:
        seconds = round(self._ports.clock.monotonic() - study.grew_at, 3)
        one = Published(
            study=record.study,
            study_uid=record.study_uid,
            aet=study.journey.aet,
            route=record.route,
            instances=len(record.images),
            added=record.history[-1]["added"],
            bytes=sum(kept.size for kept in record.images.values()),
            revision=record.revision,
            published_at=record.published_at,
            seconds=seconds,
        )
        report.published.append(one)
        self.recent = [one, *self.recent][:_RECENT]
        self._chronicle.published(study, record, seconds)

    def _close(self, study: OpenStudy) -> None:
        self._ports.ledger.append("closed", study=study.study_id)
        del self.open[study.study_id]
        self._ports.claims.drop(study.study_id)

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
        except (StorageFullError, PeerDownError):
            return  # kept in memory and written when there is room again; a restart would only compare again
