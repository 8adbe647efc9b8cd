"""Whether a study needs work: what both Orthancs list, compared with its custody record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core import watchdog
from ddwd.core.audit import Audit, Event
from ddwd.core.errors import NewerStateError, StateError
from ddwd.extractor.study import uncompared

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ddwd.core.model import OrthancId
    from ddwd.extractor.peers import Peers
    from ddwd.extractor.router import Router
    from ddwd.store.custody import Custody, Record

    _Sets = Mapping[OrthancId, frozenset[OrthancId]]


class Comparison:
    """Compares studies that are not in flight. `suspects` may run in another thread."""

    def __init__(self, peers: Peers, custody: Custody, router: Router, audit: Audit) -> None:
        self._peers = peers
        self._custody = custody
        self._router = router
        self._audit = audit

    def read_record(self, study: OrthancId) -> Record | None:
        """Return the study's custody record, or None; a damaged one is reported and counts as missing. Raises NewerStateError."""
        try:
            return self._custody.read(study)
        except NewerStateError:
            raise  # an older version must not write here
        except StateError as error:
            # the files are still there: the study is opened, verified against storage and recorded anew
            self._audit.record(Event.STATE_REBUILT, str(error))
            return None

    def needs_work(self, study: OrthancId) -> bool:
        """Return whether the study has to be taken up. Raises PeerDownError, PeerRefusedError and NewerStateError."""
        record = self.read_record(study)
        return record is None or self._differs(study, record, self._listed([study]))

    def suspects(self, studies: Sequence[OrthancId]) -> list[OrthancId]:
        """Return those of many that look as if they needed work; `needs_work` decides. Raises PeerDownError and PeerRefusedError."""
        watchdog.alive()
        listed = self._listed(studies)
        return [study for study in studies if self._is_suspect(study, listed)]

    def _is_suspect(self, study: OrthancId, listed: Iterable[_Sets]) -> bool:
        watchdog.alive()
        try:
            record = self._custody.read(study)
        except StateError:
            return True
        return record is None or self._differs(study, record, listed)

    def _listed(self, studies: Sequence[OrthancId]) -> tuple[_Sets, _Sets]:
        gateway, storage = self._peers.nodes
        return gateway.instances(studies), storage.instances(studies)

    def _differs(self, study: OrthancId, record: Record, listed: Iterable[_Sets]) -> bool:
        """Whether an Orthanc lists images that the record does not account for, or storage is missing images of the gateway."""
        known = record.images.keys() | record.set_aside.keys() | frozenset(record.passed)
        gateway, storage = (sets.get(study, frozenset()) for sets in listed)
        stays = frozenset() if self._router.forwards(record.route) else frozenset(record.passed)
        return (
            not (gateway | storage) <= known
            or not gateway - record.set_aside.keys() - stays <= storage
            or bool(uncompared(record.images, gateway))
        )
