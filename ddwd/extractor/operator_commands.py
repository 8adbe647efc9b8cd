"""Commands of the operator: reconcile, retry, release, pause, resume, forget, retention, accept.

Delete a request only after its effect is durable: in the ledger, in a custody record or in the quarantine.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.config.routing import OWN
from ddwd.core.audit import Audit, Event
from ddwd.core.errors import DdwdError, HeldElsewhereError, PeerDownError
from ddwd.core.model import SELF_TEST_PATIENT, OrthancId, safe_component
from ddwd.store.custody import report_change

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.extractor.quarantine import Entry, Quarantine
    from ddwd.extractor.sharing import Sharing
    from ddwd.extractor.sources import Sources
    from ddwd.retention.scheduler import RetentionScheduler
    from ddwd.store.custody import Custody, Record
    from ddwd.store.hook_queue import HookQueue
    from ddwd.store.operator_requests import Request, Requests
    from ddwd.store.output_tree import OutputTree


@dataclass
class OperatorCommands:
    """Executes the requests that `ddwd` commands file."""

    requests: Requests
    retention: RetentionScheduler
    sources: Sources
    sharing: Sharing
    custody: Custody
    quarantine: Quarantine
    output: OutputTree
    hooks: HookQueue
    audit: Audit
    _handed_over: set[Path] = field(default_factory=set)

    def take(self) -> None:
        """Execute what was filed since the last call. Without room on the disk the requests wait."""
        for path, request in self.requests.take():
            try:
                self._execute(request)
                self.sharing.ledger.commit()
            except HeldElsewhereError:
                self._hand_over(path, request)
                continue
            except (DdwdError, OSError):
                return  # no room to write it down: the request waits for the next turn
            self.requests.done(path)
            self._handed_over.discard(path)
            self.audit.record(
                Event.REQUESTED,
                f"the operator asks: {request.kind}",
                study=request.study,
                entry=request.item,
                revision=request.revision or "",
                by=request.by,
            )

    def retry_for_another(self, study: OrthancId) -> None:
        """Retry a study in flight, at the request of another extractor's operator."""
        # the claim was lost meanwhile, or the shared ledger went away: the turn continues, and its next query finds that out
        with suppress(HeldElsewhereError, PeerDownError):
            self._retry(study)

    def _hand_over(self, path: Path, request: Request) -> None:
        """Ask the extractor that holds the study, once; the request waits until that one is done with it."""
        if request.kind == "retry" and path not in self._handed_over:
            self._handed_over.add(path)
            with suppress(PeerDownError):
                self.sharing.claims.request_retry(OrthancId(request.study))

    def _execute(self, request: Request) -> None:
        """Execute one request. Raises HeldElsewhereError if another extractor has the study, DdwdError and OSError."""
        study = OrthancId(request.study)
        match request.kind:
            case "reconcile":
                self.sources.compare(study or None)
            case "retry":
                self._retry(study)
            case "release":
                self._release(request.item)
            case "pause":
                self.sharing.flow.pause(request.by)
            case "resume":
                self.sharing.flow.resume(request.by)
            case "forget":
                self._forget(study)
            case "retention":
                self.retention.ask()
            case "accept":
                self.sources.lost.accept(study or None)
            case "drop-hook":
                self.hooks.drop(study, request.revision)

    def _retry(self, study_id: OrthancId) -> None:
        """Begin a study anew: forget every failure, try images in quarantine again, retrieve files that are missing on disk again.

        Images that retention removed are retrieved too, and kept for as long as a new study.
        """
        study = self.sharing.claim(study_id)
        study.begin_anew()
        for entry in self.quarantine.entries():
            if entry.subject.study == study_id and entry.subject.kind == "undeliverable":
                self._try_again(entry)
        if study.record is not None:
            present = self.output.present(study.record)
            missing = self.output.missing(study.record)
            missing += [
                one for one, image in study.record.images.items() if image.removed and one not in present
            ]
            for instance in missing:
                study.verified.pop(instance, None)
            study.restored += len(missing)
        self._schedule(study_id)

    def _release(self, item: str) -> None:
        """Release an entry from quarantine; an image that was given up is tried again."""
        for entry in self.quarantine.entries():
            if entry.id == item and entry.subject.kind == "undeliverable":
                self._try_again(entry)
            elif entry.id == item:
                self.quarantine.release(entry)

    def _forget(self, study: OrthancId) -> None:
        """Remove a self test's study from disk, after both Orthancs deleted it; another study is never touched."""
        record = self.custody.read(study)
        if record is None or not _is_self_test(record):
            return
        state = self.sharing.claim(study)  # no other extractor works on it then
        self.audit.record(
            Event.RECORD_REMOVED,
            "the self test's study and its custody record are removed",
            study_uid=record.study_uid,
            study=study,
            instances=len(record.images),
        )
        self.output.remove(record)
        self.custody.remove(study)
        self.sharing.done(state)

    def _try_again(self, entry: Entry) -> None:
        study = self.sharing.claim(OrthancId(entry.subject.study))
        study.begin_anew()
        study.set_aside.pop(OrthancId(entry.subject.instance), None)
        if study.record is not None and study.record.set_aside != study.set_aside:
            # a release must outlive a restart: the image leaves the record at once
            study.record.set_aside = dict(study.set_aside)
            digest = self.custody.write(study.record)
            report_change(self.audit, study.record, digest, "an image is released from quarantine")
        self.quarantine.release(entry)
        self._schedule(study.study_id)

    def _schedule(self, study: OrthancId) -> None:
        """Have it reconciled now; a worker that is busy with it schedules it at its end."""
        if not self.sharing.open[study].is_working:
            self.sharing.queue.schedule(study, priority=self.sharing.open[study].priority)


def _is_self_test(record: Record) -> bool:
    """Whether the record is a self test's: by its route, or without routes by its patient, whose name begins the path then."""
    if record.route:
        return record.route == OWN.name
    return record.folder.partition("/")[0] == safe_component(SELF_TEST_PATIENT)
