"""Is all of one study where it must be before a place may lose it: asked of both Orthancs, the record and the files. Changes nothing.

What the lists tell comes first, and rules out most; then every copy that is to be left is read and proved. The extractor runs it in a
worker thread, `ddwd retention --dry-run` in its own: both see the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

from ddwd.core.errors import DdwdError, NotFoundError, PeerRefusedError, StateError
from ddwd.retention import rules
from ddwd.retention.rules import Copies, Proved
from ddwd.store import delivery_log
from ddwd.store.custody import present
from ddwd.store.hook_queue import HookQueue
from ddwd.store.record_check import RecordChecker, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ddwd.config.paths import Paths
    from ddwd.config.retention import Place
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.client import OrthancPort
    from ddwd.retention.rules import Terms
    from ddwd.store.custody import CustodyPort, Record

HOOK_WAITS = "its hook has not succeeded yet: ddwd hooks list"
UNKNOWN_ROUTE = "its route is no longer in ddwd.yaml"
UNREADABLE = "its custody record is damaged: ddwd reconcile STUDY"
REFUSED = "not all could be asked that was to be asked about it"
UNLOOKED = "its files in the output cannot be read"


def owed(paths: Paths) -> list[Callable[[Record], str]]:
    """The preconditions of every place: what is still to be done with a study before any copy of it may go."""
    notices = HookQueue(paths.hooks)
    return [
        lambda record: HOOK_WAITS if notices.is_waiting(record.study) else "",
        delivery_log.owed(delivery_log.DeliveryLog(paths.deliveries), paths.config.routes),
    ]


@dataclass(frozen=True, slots=True)
class Finding:
    """One study at one place: its images that may be removed, each with its bytes (0: not known), or the reason why none may.

    `record` is what it was judged by; None where it cannot be read.
    """

    study: OrthancId
    place: Place
    record: Record | None
    images: Mapping[OrthancId, int] = field(default_factory=dict)
    reason: str = ""

    @property
    def study_uid(self) -> str:
        """Its StudyInstanceUID, as far as it is known."""
        return self.record.study_uid if self.record else ""

    @property
    def bytes(self) -> int:
        """Of all its images."""
        return sum(self.images.values())


class Examiner:
    """Looks at one study after the other; calls `alive` as it goes, and lets pass what that raises.

    Each of the preconditions says of a record why the study must be kept for someone else (another destination, a hook), or nothing.
    `leaving` are studies that the gateway is taken to have nothing of any more: what a round would do before.
    """

    def __init__(
        self,
        nodes: tuple[OrthancPort, OrthancPort],
        paths: Paths,
        custody: CustodyPort,
        preconditions: Sequence[Callable[[Record], str]] = (),
        alive: Callable[[], None] = lambda: None,
        leaving: Collection[OrthancId] = (),
    ) -> None:
        self._gateway, self._storage = nodes
        self._paths = paths
        self._leaving = leaving
        self._prover = RecordChecker(custody, paths)
        self._preconditions = preconditions
        self._alive = alive

    def look(self, study: OrthancId, terms: Terms) -> Finding | None:
        """What may be removed; None where its time is not over, or nothing of it is there. Raises PeerDownError."""
        try:
            record = self._prover.record(study)
        except StateError:
            return Finding(study, terms.place, None, reason=UNREADABLE)
        if not terms.is_over(record.published_at, record.route):
            return None
        try:
            found = self._judge(record, terms)
        except (NotFoundError, PeerRefusedError, StateError):
            found = REFUSED
        except OSError:
            found = UNLOOKED
        if not found:
            return None
        if isinstance(found, str):
            return Finding(study, terms.place, record, reason=found)
        sizes = {one: kept.size for one, kept in record.images.items()}
        return Finding(study, terms.place, record, {one: sizes.get(one, 0) for one in sorted(found)})

    def look_again(self, finding: Finding, terms: Terms) -> str:
        """Why it may not go after all, by what the lists tell at this moment. Never raises for a peer or a disk."""
        try:
            copies = self._copies(self._prover.record(finding.study))
        except (DdwdError, OSError):
            return REFUSED
        return rules.obstacle(terms.place, copies, last_copy=terms.last_copy)

    def _judge(self, record: Record, terms: Terms) -> frozenset[OrthancId] | str:
        place, last_copy = terms.place, terms.last_copy
        copies = self._copies(record)
        if not copies.at(place):
            return frozenset()
        if reason := self._owed(record, terms) or rules.obstacle(place, copies, last_copy=last_copy):
            return reason
        wanted = rules.to_prove(place, copies)
        return rules.removable(place, copies, self._prove(record, wanted), last_copy=last_copy)

    def _owed(self, record: Record, terms: Terms) -> str:
        """Why someone else still needs it."""
        if record.route and record.route not in terms.routes:
            return UNKNOWN_ROUTE
        return next((reason for one in self._preconditions if (reason := one(record))), "")

    def _copies(self, record: Record) -> Copies:
        folder = self._paths.output / record.folder
        there = present(folder, record)
        gateway = {} if record.study in self._leaving else self._listed(self._gateway, record)
        return Copies(record, gateway, self._listed(self._storage, record), there)

    @staticmethod
    def _listed(node: OrthancPort, record: Record) -> dict[OrthancId, str]:
        """What the Orthanc has of the study, with the MD5 of each file; an image that it gives none for has an empty one."""
        study = node.study(record.study)
        if study is None:
            return {}
        uids = {one: kept.sop_uid for one, kept in record.images.items() if one in study.ids}
        known = node.stored(study, study.ids, uids)
        return {one: known[one].md5 if one in known else "" for one in study.ids}

    def _prove(self, record: Record, wanted: Proved) -> Proved:
        """Read the files; the first that is not as it should be ends it, since it rules out all."""
        folder = self._paths.output / record.folder

        def on_disk(one: OrthancId) -> bool:
            kept = record.images[one]
            return not difference(folder / kept.file, kept, self._alive)

        def on_storage(one: OrthancId) -> bool:
            self._alive()
            return self._storage.is_whole(one)

        output = frozenset(takewhile(on_disk, sorted(wanted.output)))
        if output != wanted.output:
            return Proved(output, frozenset())
        return Proved(output, frozenset(takewhile(on_storage, sorted(wanted.storage))))
