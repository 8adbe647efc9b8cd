"""The operator's wishes, granted: retry, release, reconcile, pause, resume, retention. Part of the cycle, which gives it its own hands.

A request is removed once it can no longer be forgotten: what it changed is in the ledger, in a custody record or in the quarantine.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ddwd.config.routing import OWN
from ddwd.core.audit import Event
from ddwd.core.errors import DdwdError, HeldElsewhereError, PeerDownError
from ddwd.core.model import SELF_TEST_PATIENT, OrthancId, safe_component

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddwd.extractor.loop import Ports
    from ddwd.extractor.quarantine import Entry
    from ddwd.extractor.study import OpenStudy
    from ddwd.extractor.work_queue import Candidates
    from ddwd.store.custody import Record
    from ddwd.store.operator_requests import Request


class Wishes:
    """Takes the requests at each turn; `reopened` gives the study in flight, `dropped` ends it."""

    def __init__(
        self,
        ports: Ports,
        candidates: Candidates,
        reopened: Callable[[OrthancId], OpenStudy],
        dropped: Callable[[OrthancId], None],
    ) -> None:
        self._requests = ports.requests
        self._ledger = ports.ledger
        self._custody = ports.custody
        self._quarantine = ports.quarantine
        self._output = ports.output
        self._keeper = ports.keeper
        self._audit = ports.audit
        self._claims = ports.claims
        self._passed: set[Path] = set()
        self._candidates = candidates
        self._reopened = reopened
        self._dropped = dropped

    def take(self) -> None:
        """Do what the operator asked for."""
        for path, request in self._requests.take():
            try:
                self._grant(request)
                self._ledger.commit()
            except HeldElsewhereError:
                self._pass_on(path, request)
                continue
            except (DdwdError, OSError):
                return  # no room to write it down: the request waits for the next turn
            self._requests.done(path)
            self._passed.discard(path)
            self._audit.record(
                Event.REQUESTED,
                f"the operator asks: {request.kind}",
                study=request.study,
                entry=request.item,
                by=request.by,
            )

    def _pass_on(self, path: Path, request: Request) -> None:
        """Another extractor has the study: it is told, once, and the request waits until it is done with it."""
        if request.kind == "retry" and path not in self._passed:
            self._passed.add(path)
            with suppress(PeerDownError):
                self._claims.ask(OrthancId(request.study))

    def _grant(self, request: Request) -> None:
        match request.kind:
            case "reconcile":
                self._candidates.look_at(OrthancId(request.study) if request.study else None)
            case "retry":
                self.retry(OrthancId(request.study))
            case "release":
                self._release(request.item)
            case "pause":
                self._pause()
            case "resume":
                self._resume()
            case "forget":
                self._forget(OrthancId(request.study))
            case "retention":
                self._keeper.ask()

    def _pause(self) -> None:
        if not self._ledger.state.paused:
            self._ledger.append("paused")
            self._audit.record(Event.PAUSED, "the operator has paused retrieving: studies wait on storage")

    def _resume(self) -> None:
        if self._ledger.state.paused:
            self._ledger.append("resumed")
            self._audit.record(Event.RESUMED, "the operator has resumed retrieving")

    def _forget(self, study: OrthancId) -> None:
        """Remove a self test's study from disk, which the Orthancs were told to forget before; no other study, whoever asks."""
        record = self._custody.read(study)
        if record is None or not _is_own(record):
            return
        self._reopened(study)  # nobody else works at it then
        self._output.remove(record)
        self._custody.remove(study)
        self._dropped(study)

    def retry(self, study_id: OrthancId) -> None:
        """Begin a study anew: every failure forgotten, what is set aside tried again, what is gone from disk fetched again.

        That is so for what retention removed too: its days begin anew.
        """
        study = self._reopened(study_id)
        study.begin_anew()
        for entry in self._quarantine.entries():
            if entry.subject.study == study_id and entry.subject.kind == "undeliverable":
                self._try_again(entry)
        if study.record is not None:
            there = self._output.present(study.record)
            removed = (one for one, kept in study.record.images.items() if kept.removed and one not in there)
            gone = [*self._output.missing(study.record), *removed]
            for one in gone:
                study.held.pop(one, None)
            study.restored += len(gone)

    def _release(self, item: str) -> None:
        for entry in self._quarantine.entries():
            if entry.id == item and entry.subject.kind == "undeliverable":
                self._try_again(entry)
            elif entry.id == item:
                self._quarantine.release(entry)

    def _try_again(self, entry: Entry) -> None:
        """An image that was given up on is owed again."""
        subject = entry.subject
        study = self._reopened(OrthancId(subject.study))
        study.begin_anew()
        study.set_aside.pop(OrthancId(subject.instance), None)
        if study.record is not None and study.record.set_aside != study.set_aside:
            # a release must outlive a restart: what is tried again leaves the record at once
            study.record.set_aside = dict(study.set_aside)
            self._custody.write(study.record)
        self._quarantine.release(entry)


def _is_own(record: Record) -> bool:
    """Whether it is a self test's: by its rule, or where there are none by its patient, which begins the path then."""
    if record.route:
        return record.route == OWN.name
    return record.folder.partition("/")[0] == safe_component(SELF_TEST_PATIENT)
