"""What both Orthancs hold of one study at this moment, together with what is on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core.clock import Clock, stamp
from ddwd.core.errors import PeerDownError, PeerRefusedError
from ddwd.extractor.study import ids_of

if TYPE_CHECKING:
    from ddwd.core.model import OrthancId, Study
    from ddwd.extractor.decision import Observation
    from ddwd.extractor.peers import Peers
    from ddwd.extractor.router import Router
    from ddwd.extractor.study import StudyState


class Observer:
    """Asks the Orthancs, and the router for the study's route. `forwarded_at` is when any image last reached the storage."""

    def __init__(self, peers: Peers, router: Router, clock: Clock) -> None:
        self._peers = peers
        self._router = router
        self._clock = clock
        self.forwarded_at = float("-inf")

    def observe(self, study: StudyState) -> Observation | None:
        """Return the instance sets of the study; None if neither Orthanc knows it any more. Raises PeerDownError, PeerRefusedError."""
        now = self._clock.monotonic()
        storage = self._peers.storage.study(study.study_id)
        gateway, gateway_known = self._ask_gateway(study.study_id)
        if storage is None and gateway is None and gateway_known:
            return None
        if study.behind & ids_of(storage):
            self.forwarded_at = now
        study.see(gateway, storage, now, stamp(self._clock.utc()))
        if study.route is None and gateway_known:
            study.route = self._router.decide(study, now)
        study.place()
        self._ask_sender(study, gateway)
        return study.observation(gateway, storage, now, gateway_known=gateway_known)

    def _ask_gateway(self, study: OrthancId) -> tuple[Study | None, bool]:
        try:
            return self._peers.gateway.study(study), True
        except (PeerDownError, PeerRefusedError) as error:
            self._peers.is_away("gateway", str(error))
            return None, False

    def _ask_sender(self, study: StudyState, gateway: Study | None) -> None:
        """Ask once for the AE title of the sender; the study does not depend on it."""
        if study.timeline.sender_asked or not gateway:
            return
        newest = gateway.ids - (study.record.images.keys() if study.record else frozenset())
        for one in sorted(newest)[:1]:
            try:
                study.timeline.aet = self._peers.gateway.sender(one)
                study.timeline.sender_asked = True
            except (PeerDownError, PeerRefusedError):
                return
