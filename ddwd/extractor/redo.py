"""Doing a study over: retry it from the beginning, release an image from quarantine, forget a self test's study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.config.routing import OWN
from ddwd.core.model import SELF_TEST_PATIENT, OrthancId, safe_component

if TYPE_CHECKING:
    from ddwd.extractor.quarantine import Entry, Quarantine
    from ddwd.extractor.sharing import Sharing
    from ddwd.extractor.work_queue import WorkQueue
    from ddwd.store.custody import Custody, Record
    from ddwd.store.output_tree import OutputTree


class Redo:
    """Each method takes the study up and schedules it; raises HeldElsewhereError if another extractor has it, DdwdError and OSError."""

    def __init__(
        self,
        sharing: Sharing,
        queue: WorkQueue,
        custody: Custody,
        quarantine: Quarantine,
        output: OutputTree,
    ) -> None:
        self._sharing = sharing
        self._queue = queue
        self._custody = custody
        self._quarantine = quarantine
        self._output = output

    def retry(self, study_id: OrthancId) -> None:
        """Begin a study anew: forget every failure, try images in quarantine again, retrieve files that are missing on disk again.

        Images that retention removed are retrieved too, and kept for as long as a new study.
        """
        study = self._sharing.claim(study_id)
        study.begin_anew()
        for entry in self._quarantine.entries():
            if entry.subject.study == study_id and entry.subject.kind == "undeliverable":
                self._try_again(entry)
        if study.record is not None:
            present = self._output.present(study.record)
            removed = (
                one for one, kept in study.record.images.items() if kept.removed and one not in present
            )
            missing = [*self._output.missing(study.record), *removed]
            for one in missing:
                study.verified.pop(one, None)
            study.restored += len(missing)
        self._schedule(study_id)

    def release(self, item: str) -> None:
        """Release an entry from quarantine; an image that was given up is tried again."""
        for entry in self._quarantine.entries():
            if entry.id == item and entry.subject.kind == "undeliverable":
                self._try_again(entry)
            elif entry.id == item:
                self._quarantine.release(entry)

    def forget(self, study: OrthancId) -> None:
        """Remove a self test's study from disk, after both Orthancs deleted it; another study is never touched."""
        record = self._custody.read(study)
        if record is None or not _is_self_test(record):
            return
        state = self._sharing.claim(study)  # no other extractor works at it then
        self._output.remove(record)
        self._custody.remove(study)
        self._sharing.done(state)

    def _try_again(self, entry: Entry) -> None:
        subject = entry.subject
        study = self._sharing.claim(OrthancId(subject.study))
        study.begin_anew()
        study.set_aside.pop(OrthancId(subject.instance), None)
        if study.record is not None and study.record.set_aside != study.set_aside:
            # a release must outlive a restart: the image leaves the record at once
            study.record.set_aside = dict(study.set_aside)
            self._custody.write(study.record)
        self._quarantine.release(entry)
        self._schedule(study.study_id)

    def _schedule(self, study: OrthancId) -> None:
        """Have it reconciled now; a worker that is busy with it schedules it at its end."""
        if not self._sharing.open[study].is_working:
            self._queue.schedule(study, priority=self._sharing.open[study].priority)


def _is_self_test(record: Record) -> bool:
    """Whether the record is a self test's: by its route, or without routes by its patient, whose name begins the path then."""
    if record.route:
        return record.route == OWN.name
    return record.folder.partition("/")[0] == safe_component(SELF_TEST_PATIENT)
