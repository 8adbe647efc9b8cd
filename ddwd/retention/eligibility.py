"""Decide whether a study may be removed from a place, from both Orthancs, its custody record and its files. Changes no file.

The lists are compared first, which excludes most studies; then every copy that would remain is read and verified. The extractor
runs this in a worker thread, `ddwd retention --dry-run` in the main thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

from ddwd.core import watchdog
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
    from ddwd.orthanc.port import OrthancPort
    from ddwd.retention.rules import Terms
    from ddwd.store.custody import Custody, Record

HOOK_WAITS = "its hook has not succeeded yet: ddwd hooks list"
UNKNOWN_ROUTE = "its route is no longer in ddwd.yaml"
UNREADABLE = "its custody record is damaged: ddwd reconcile STUDY"
REFUSED = "not every check of it could be made"
OUTPUT_UNREADABLE = "its files in the output cannot be read"


def owed(paths: Paths) -> list[Callable[[Record], str]]:
    """Return the preconditions of every place: no hook and no destination still needs the study."""
    notices = HookQueue(paths.hooks)
    return [
        lambda record: HOOK_WAITS if notices.is_waiting(record.study) else "",
        delivery_log.owed(delivery_log.DeliveryLog(paths.deliveries), paths.config.routes),
    ]


@dataclass(frozen=True, slots=True)
class Eligibility:
    """One study at one place: the images that may be removed, each with its bytes (0: not known), or the reason why none may.

    `record` is the custody record that this was decided by; None if it cannot be read.
    """

    study: OrthancId
    place: Place
    record: Record | None
    images: Mapping[OrthancId, int] = field(default_factory=dict)
    reason: str = ""

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID, or empty if it is not known."""
        return self.record.study_uid if self.record else ""

    @property
    def bytes(self) -> int:
        """Bytes of all images that may be removed."""
        return sum(self.images.values())


@dataclass
class Examiner:
    """Examine one study at a time. Reading the files is deferrable work (core.watchdog).

    Each precondition returns why a study must be kept for a destination or a hook, or an empty text. A dry run treats the
    studies in `leaving` as removed from the gateway already.
    """

    nodes: tuple[OrthancPort, OrthancPort]
    paths: Paths
    custody: Custody
    preconditions: Sequence[Callable[[Record], str]]
    leaving: Collection[OrthancId] = ()

    def __post_init__(self) -> None:
        self._gateway, self._storage = self.nodes
        self._checker = RecordChecker(self.custody, self.paths)

    def look(self, study: OrthancId, terms: Terms) -> Eligibility | None:
        """Return what may be removed; None if the time of the study is not over or the place has none of it. Raises PeerDownError."""
        try:
            record = self._checker.record(study)
        except StateError:
            return Eligibility(study, terms.place, None, reason=UNREADABLE)
        if not terms.is_over(record.published_at, record.route):
            return None
        try:
            found = self._removable(record, terms)
        except (NotFoundError, PeerRefusedError, StateError):
            found = REFUSED
        except OSError:
            found = OUTPUT_UNREADABLE
        if not found:
            return None
        if isinstance(found, str):
            return Eligibility(study, terms.place, record, reason=found)
        sizes = {image: record.images[image].size if image in record.images else 0 for image in sorted(found)}
        return Eligibility(study, terms.place, record, sizes)

    def look_again(self, finding: Eligibility, terms: Terms) -> str:
        """Compare the lists again; return why the study may not be removed after all, or an empty text. Raises no DdwdError or OSError."""
        try:
            copies = self._copies(self._checker.record(finding.study))
        except (DdwdError, OSError):
            return REFUSED
        return rules.obstacle(terms.place, copies, last_copy=terms.last_copy)

    def _removable(self, record: Record, terms: Terms) -> frozenset[OrthancId] | str:
        place, last_copy = terms.place, terms.last_copy
        copies = self._copies(record)
        if not copies.at(place):
            return frozenset()
        if reason := self._owed(record, terms) or rules.obstacle(place, copies, last_copy=last_copy):
            return reason
        proved = self._prove(record, rules.to_prove(place, copies))
        return rules.removable(place, copies, proved, last_copy=last_copy)

    def _owed(self, record: Record, terms: Terms) -> str:
        """Return why a destination or a hook still needs the study, or an empty text."""
        if record.route and record.route not in terms.routes:
            return UNKNOWN_ROUTE
        return next((reason for reason_of in self.preconditions if (reason := reason_of(record))), "")

    def _copies(self, record: Record) -> Copies:
        output = present(self.paths.output / record.folder, record)
        gateway = {} if record.study in self.leaving else self._listed(self._gateway, record)
        return Copies(record, gateway, self._listed(self._storage, record), output)

    @staticmethod
    def _listed(node: OrthancPort, record: Record) -> dict[OrthancId, str]:
        """Return the images of the study in that Orthanc, each with the MD5 of its file; empty if the Orthanc gives no MD5."""
        study = node.study(record.study)
        if study is None:
            return {}
        uids = {image: entry.sop_uid for image, entry in record.images.items() if image in study.ids}
        stored = node.stored(study, study.ids, uids)
        return {image: stored[image].md5 if image in stored else "" for image in study.ids}

    def _prove(self, record: Record, required: Proved) -> Proved:
        """Read and verify the files; stop at the first that differs, since then none may be removed."""
        folder = self.paths.output / record.folder

        def on_disk(image: OrthancId) -> bool:
            entry = record.images[image]
            return not difference(folder / entry.file, entry)

        def on_storage(image: OrthancId) -> bool:
            watchdog.alive()
            return self._storage.is_whole(image)

        with watchdog.deferrable():
            output = frozenset(takewhile(on_disk, sorted(required.output)))
            if output != required.output:
                return Proved(output, frozenset())
            return Proved(output, frozenset(takewhile(on_storage, sorted(required.storage))))
