"""What both Orthancs hold of a study at this moment, compared with its custody record or, in flight, with what is on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ddwd.core import watchdog
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock, stamp
from ddwd.core.errors import NewerStateError, PeerDownError, PeerRefusedError, StateError
from ddwd.extractor.study import ids_of, uncompared
from ddwd.store.custody import BY_REST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ddwd.core.model import OrthancId, Study
    from ddwd.extractor.decision import Observation
    from ddwd.extractor.lost_images import LostRegister
    from ddwd.extractor.peers import Peers
    from ddwd.extractor.router import Router
    from ddwd.extractor.study import StudyState
    from ddwd.store.custody import Custody, Record
    from ddwd.store.output_tree import OutputTree

    _Sets = Mapping[OrthancId, frozenset[OrthancId]]


@dataclass
class Observer:
    """Queries the Orthancs, and the router for the study's route. `suspects` may run in another thread.

    `forwarded_at` is when any image last reached the storage.
    """

    peers: Peers
    router: Router
    custody: Custody
    audit: Audit
    clock: Clock
    lost: LostRegister
    output: OutputTree
    forwarded_at: float = float("-inf")

    # --- studies in flight --------------------------------------------------------------------------------------------

    def observe(self, study: StudyState) -> Observation | None:
        """Return the instance sets of the study; None if neither Orthanc has it any more. Raises PeerDownError, PeerRefusedError."""
        now = self.clock.monotonic()
        try:
            storage = self.peers.storage.study(study.study_id)
        except (PeerDownError, PeerRefusedError):
            self._see_gateway(study, now)
            raise
        gateway, gateway_answers = self._on_gateway(study.study_id)
        if storage is None and gateway is None and gateway_answers:
            return None
        if study.behind & ids_of(storage):
            self.forwarded_at = now
        study.see(gateway, storage, now, stamp(self.clock.utc()))
        if study.route is None and gateway_answers:
            study.route = self.router.decide(study, now)
        study.place(is_marked=self.output.is_marked)
        self._find_sender(study)
        return study.observation(now, gateway_answers=gateway_answers)

    def _see_gateway(self, study: StudyState, now: float) -> None:
        """Note what the gateway has while storage does not answer: the views and the trace show it from then on."""
        gateway, _ = self._on_gateway(study.study_id)
        if gateway is not None:
            study.see_gateway(gateway, now, stamp(self.clock.utc()))
            self._find_sender(study)

    def _on_gateway(self, study: OrthancId) -> tuple[Study | None, bool]:
        try:
            return self.peers.gateway.study(study), True
        except (PeerDownError, PeerRefusedError) as error:
            self.peers.is_away("gateway", str(error))
            return None, False

    def _find_sender(self, study: StudyState) -> None:
        """Query the AE title of the sender once; the study does not depend on it."""
        newest = study.on_gateway - (study.record.images.keys() if study.record else frozenset())
        if study.timeline.has_sender or not newest:
            return
        try:
            study.timeline.aet = self.peers.gateway.sender(min(newest))
            study.timeline.has_sender = True
        except (PeerDownError, PeerRefusedError):
            return

    def note_ways(self, study: StudyState) -> None:
        """Note which images got to storage by REST, for their custody record. Raises PeerDownError and PeerRefusedError.

        Storage is asked, and not our memory, which a restart ends; and only if images can have been copied at all.
        """
        recorded = study.record.images if study.record else {}
        copied = self.peers.storage.received(study.study_id) if study.may_be_copied else frozenset()
        for one, image in list(study.verified.items()):
            way = recorded[one].way if one in recorded else BY_REST if one in copied else ""
            study.verified[one] = replace(image, way=way)

    # --- studies that are not in flight -------------------------------------------------------------------------------

    def read_record(self, study: OrthancId) -> Record | None:
        """Return the study's custody record, or None; a damaged one is reported and counts as missing. Raises NewerStateError."""
        try:
            return self.custody.read(study)
        except NewerStateError:
            raise  # an older version must not write here
        except StateError as error:
            # the files are still there: the study is opened, verified against storage and recorded anew
            self.audit.record(Event.STATE_REBUILT, str(error), study=study)
            return None

    def needs_work(self, study: OrthancId) -> bool:
        """Return whether the study has to be taken up. Raises PeerDownError, PeerRefusedError and NewerStateError."""
        record = self.read_record(study)
        return record is None or self._compare(study, record, self._listed([study]))

    def suspects(self, studies: Sequence[OrthancId]) -> list[OrthancId]:
        """Return those of many that look as if they needed work; `needs_work` decides. Raises PeerDownError and PeerRefusedError."""
        watchdog.alive()
        listed = self._listed(studies)
        found = [study for study in studies if self._is_suspect(study, listed)]
        self.lost.commit()
        return found

    def _is_suspect(self, study: OrthancId, listed: tuple[_Sets, _Sets]) -> bool:
        watchdog.alive()
        try:
            record = self.custody.read(study)
        except StateError:
            return True
        if record is None:
            self.lost.forget(study)
            return True
        return self._compare(study, record, listed)

    def _compare(self, study: OrthancId, record: Record, listed: tuple[_Sets, _Sets]) -> bool:
        self.lost.note(record, listed)
        return self._differs(study, record, listed)

    def _listed(self, studies: Sequence[OrthancId]) -> tuple[_Sets, _Sets]:
        gateway, storage = self.peers.nodes
        return gateway.instances(studies), storage.instances(studies)

    def _differs(self, study: OrthancId, record: Record, listed: Iterable[_Sets]) -> bool:
        """Whether an Orthanc lists images that the record does not account for, or storage is missing images of the gateway."""
        recorded = record.images.keys() | record.set_aside.keys() | frozenset(record.passed)
        gateway, storage = (sets.get(study, frozenset()) for sets in listed)
        stays = frozenset() if self.router.forwards(record.route) else frozenset(record.passed)
        return (
            not (gateway | storage) <= recorded
            or not gateway - record.set_aside.keys() - stays <= storage
            or bool(uncompared(record.images, gateway))
        )
