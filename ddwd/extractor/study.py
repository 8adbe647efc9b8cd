"""State of one study in flight. Memory only: rebuilt from the custody record and both Orthancs after a restart.

Times are seconds of the monotonic clock unless a name ends in `_at` and holds a UTC stamp.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from ddwd.config.routing import EVERYTHING, PRIORITIES
from ddwd.extractor.decision import Blocker, Observation, Stage

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from concurrent.futures import Future

    from ddwd.config.routing import Route
    from ddwd.core.audit import Event
    from ddwd.core.errors import Failure
    from ddwd.core.model import OrthancId, Study
    from ddwd.store.custody import InstanceRecord, Record

Hop = Literal["gateway", "storage", "disk"]


@dataclass
class HopTimeline:
    """First and last moment at which images not published before were seen at each hop, and which events were reported.

    Moments are UTC stamps of the extractor's clock, not of the Orthancs'.
    """

    published: frozenset[OrthancId] = frozenset()
    hops: dict[Hop, list[str]] = field(default_factory=dict)
    aet: str = ""
    has_sender: bool = False
    newest_at: str = ""
    _seen: dict[Hop, frozenset[OrthancId]] = field(default_factory=dict)
    _reported: dict[Event, int] = field(default_factory=dict)

    def note(self, hop: Hop, images: Collection[OrthancId], at: str) -> None:
        """Record that these images are at the hop now."""
        seen = self._seen.get(hop, self.published)
        fresh = frozenset(images) - seen
        if not fresh:
            return
        self._seen[hop] = seen | fresh
        self.hops.setdefault(hop, [at, at])[1] = at
        if hop != "disk":
            self.newest_at = at

    def count(self, hop: Hop) -> int:
        """Return how many images were seen at the hop that were not published before."""
        return len(self._seen.get(hop, self.published)) - len(self.published)

    def has_reported(self, event: Event) -> bool:
        """Return whether the event was reported for images that were not published before."""
        return event in self._reported

    def unreported(self, event: Event, count: int) -> int:
        """Return how many more there are than when the event was last reported, and count them as reported."""
        more = count - self._reported.get(event, 0)
        if more > 0:
            self._reported[event] = count
        return max(0, more)


@dataclass
class Retrieved:
    """The result of one piece of retrieval work: images verified and staged, and why others failed.

    `blamed` are those of the failed that did not arrive although the path was proved open.
    """

    verified: list[InstanceRecord] = field(default_factory=list)
    failed: dict[OrthancId, Failure] = field(default_factory=dict)
    blamed: set[OrthancId] = field(default_factory=set)


@dataclass
class Copied:
    """The result of one piece of copying from the gateway to storage by REST: images that storage took, and why others failed.

    `blamed` are those of the failed that storage itself refused.
    """

    taken: set[OrthancId] = field(default_factory=set)
    failed: dict[OrthancId, Failure] = field(default_factory=dict)
    blamed: set[OrthancId] = field(default_factory=set)


@dataclass
class StudyState:
    """The images of one study: seen on the Orthancs, verified on disk, set aside."""

    study_id: OrthancId
    record: Record | None
    grew_at: float
    """When its newest image was seen."""
    moved_at: float
    """When the set of images that wait to be forwarded last changed, or the extractor last sent them."""
    tried_at: float = 0.0
    """The same before the latest try: what fails is counted if other images have passed since."""
    forward_attempts: Counter[OrthancId] = field(default_factory=Counter)
    """Failed attempts for each image: storage refused it, or others passed the same hop meanwhile; see SetAside."""
    retrieve_attempts: Counter[OrthancId] = field(default_factory=Counter)
    listing: Study | None = None
    known: frozenset[OrthancId] = frozenset()
    behind: frozenset[OrthancId] = frozenset()
    on_gateway: frozenset[OrthancId] = frozenset()
    on_storage: frozenset[OrthancId] = frozenset()
    timeline: HopTimeline = field(default_factory=HopTimeline)
    verified: dict[OrthancId, InstanceRecord] = field(default_factory=dict)
    """Verified images, staged or published."""
    set_aside: dict[OrthancId, str] = field(default_factory=dict)
    """Images in quarantine, with the reason."""
    restored: int = 0
    is_unstated: bool = False
    """Whether the last change of its record may have no audit event: an extractor stopped meanwhile, or the operator retries it."""
    opened: float = 0.0
    route: Route | None = EVERYTHING
    """None until the route is decided."""
    is_retried: bool = False
    """Whether the operator retries it: its route is decided anew, by the routes as they are now."""
    failures: int = 0
    resends: int = 0
    """How many times in a row the extractor has sent the same images to storage."""
    stow_jobs: dict[OrthancId, str] = field(default_factory=dict)
    """The STOW-RS job by which the extractor sent each image last."""
    refusal: Failure | None = None
    """Why storage did not take the images that wait to be forwarded, although they were sent by REST too."""
    may_be_copied: bool = False
    """Whether images may have got to storage by REST: by this extractor, or before it was started."""
    work: Future[Retrieved] | Future[Copied] | None = None
    stage: Stage = Stage.ARRIVING
    reason: str = ""
    status: str = ""
    """Status code of a peer that the reason is about."""
    blocker: Blocker = Blocker.NONE

    def __post_init__(self) -> None:
        """Begin with what the record proves."""
        if self.record is not None:
            self.verified.update(self.record.images)
            self.set_aside.update(self.record.set_aside)
            self.timeline = HopTimeline(frozenset(self.record.images))

    def report(self, stage: Stage, why: Failure, blocker: Blocker = Blocker.NONE) -> None:
        """Set the stage of the study and why, for the status file."""
        self.stage, self.blocker = stage, blocker
        self.reason, self.status = why

    @property
    def is_working(self) -> bool:
        """Whether a worker is retrieving images of it."""
        return self.work is not None and not self.work.done()

    def see(self, gateway: Study | None, storage: Study | None, now: float, at: str) -> None:
        """Note what both Orthancs list at this moment (`at` in UTC); None where an Orthanc does not hold the study."""
        # a C-MOVE uses storage's listing; the gateway's serves until storage has one
        self.listing = storage or gateway or self.listing
        self.on_gateway, self.on_storage = ids_of(gateway), ids_of(storage)
        listed = self.on_gateway | self.on_storage
        if not listed <= self.known:
            self.known |= listed
            self.grew_at = now
        if (behind := self.on_gateway - self.on_storage - self.set_aside.keys()) != self.behind:
            self.behind, self.moved_at, self.resends, self.refusal = behind, now, 0, None
        self.timeline.note("gateway", self.on_gateway, at)
        self.timeline.note("storage", self.on_storage, at)

    def see_gateway(self, gateway: Study, now: float, at: str) -> None:
        """Note what the gateway lists at this moment (`at` in UTC), while storage is not known to have or not to have the study."""
        self.listing = self.listing or gateway
        self.on_gateway = ids_of(gateway)
        if not self.on_gateway <= self.known:
            self.known |= self.on_gateway
            self.grew_at = now
        self.timeline.note("gateway", self.on_gateway, at)

    def observation(self, now: float, *, gateway_answers: bool) -> Observation:
        """Return the instance sets that decide; images in quarantine count as dealt with."""
        return Observation(
            gateway=self.on_gateway,
            gateway_answers=gateway_answers,
            storage=self.on_storage,
            verified=frozenset(self.verified) - uncompared(self.verified, self.on_gateway),
            set_aside=frozenset(self.set_aside) | self.settled,
            quiet=now - self.grew_at,
            unmoved=now - self.moved_at,
        )

    @property
    def priority(self) -> int:
        """Priority of its route; higher goes first."""
        return PRIORITIES[self.route.priority] if self.route else 0

    @property
    def passed(self) -> frozenset[OrthancId]:
        """Images that this or an earlier route leaves where they are, all of them if it does not extract, and that are not on disk."""
        passed = frozenset(self.record.passed) if self.record else frozenset()
        if self.route is not None and not self.route.extract:
            passed |= self.on_gateway | self.on_storage
        return passed - self.verified.keys()

    @property
    def settled(self) -> frozenset[OrthancId]:
        """Images that an earlier route left where they were: another route does not take them unless the operator retries."""
        if self.record is None or self.is_retried or self.route is None:
            return frozenset()
        is_same = self.route.name == self.record.route and self.route.forward
        return frozenset() if is_same else frozenset(self.record.passed)

    def place(self, *, is_marked: bool) -> None:
        """Set in the listing the folder below OUTPUT_DIR, by the record or else by the route; `is_marked` is the form of new names."""
        if self.listing is not None and self.route is not None:
            placed = self.record.folder if self.record else ""
            self.listing = replace(self.listing, layout=self.route.layout, placed=placed, is_marked=is_marked)

    @property
    def control(self) -> str:
        """SOPInstanceUID of an image that arrived before; empty if there is none."""
        return next((image.sop_uid for image in self.verified.values()), "")

    @property
    def is_changed(self) -> bool:
        """Whether the record differs from the present state."""
        if self.record is None:
            return True
        return bool(
            self.restored
            or self.verified != self.record.images
            or self.set_aside != self.record.set_aside
            or self.passed != frozenset(self.record.passed)
        )

    def begin_anew(self) -> None:
        """Forget all failures, at the operator's request."""
        self.failures = self.resends = 0
        self.stow_jobs.clear()
        self.refusal = None
        self.is_retried = self.is_unstated = True
        if self.route is not EVERYTHING:
            self.route = None
        self.forward_attempts.clear()
        self.retrieve_attempts.clear()


def uncompared(
    verified: Mapping[OrthancId, InstanceRecord], gateway: frozenset[OrthancId]
) -> frozenset[OrthancId]:
    """Return the images that reached the gateway after they were verified against storage alone: verify them again."""
    return frozenset(one for one in gateway if one in verified and not verified[one].at_gateway)


def ids_of(study: Study | None) -> frozenset[OrthancId]:
    """Return the instances of a listing; empty without a listing."""
    return study.ids if study else frozenset()
