"""What is known of one study in flight; lives in memory only, and is made anew from the record and both Orthancs after a restart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ddwd.config.routing import EVERYTHING, PRIORITIES
from ddwd.extractor.decision import Observation, Stage
from ddwd.extractor.journey import Journey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

    from ddwd.config.routing import Route
    from ddwd.core.model import OrthancId, Study
    from ddwd.extractor.blame import Blame
    from ddwd.extractor.steps.retrieve import Fetched
    from ddwd.store.custody import Kept, Record


@dataclass
class OpenStudy:
    """A study in flight: what was seen of it, and what is on disk and proved. Times are monotonic seconds."""

    study_id: OrthancId
    record: Record | None
    grew_at: float
    moved_at: float
    forward_blame: Blame
    retrieve_blame: Blame
    listing: Study | None = None
    known: frozenset[OrthancId] = frozenset()
    behind: frozenset[OrthancId] = frozenset()
    on_gateway: frozenset[OrthancId] = frozenset()
    on_storage: frozenset[OrthancId] = frozenset()
    journey: Journey = field(default_factory=lambda: Journey(()))
    held: dict[OrthancId, Kept] = field(default_factory=dict)
    set_aside: dict[OrthancId, str] = field(default_factory=dict)
    restored: int = 0
    opened: float = 0.0
    route: Route | None = EVERYTHING
    """The rule that took it; None until that is decided."""
    asked: bool = False
    """Whether the operator wants it looked at from the beginning, by the rules as they are now."""
    failures: int = 0
    not_before: float = 0.0
    look_again_at: float = 0.0
    work: Future[Fetched] | None = None
    stage: Stage = Stage.ARRIVING
    reason: str = ""

    def __post_init__(self) -> None:
        """Begin with what the record proves."""
        if self.record is not None:
            self.held.update(self.record.images)
            self.set_aside.update(self.record.set_aside)
            self.journey = Journey(self.record.images)

    def see(self, gateway: Study | None, storage: Study | None, now: float, at: str) -> None:
        """Take in what both Orthancs list at this moment (`at` in UTC); None where one does not hold the study."""
        # storage's listing is what a C-MOVE is asked from; the gateway's serves until storage has one
        self.listing = storage or gateway or self.listing
        listed = ids_of(gateway) | ids_of(storage)
        if not listed <= self.known:
            self.known |= listed
            self.grew_at = now
        if (behind := ids_of(gateway) - ids_of(storage) - self.set_aside.keys()) != self.behind:
            self.behind, self.moved_at = behind, now
        self.journey.note("gateway", ids_of(gateway), at)
        self.journey.note("storage", ids_of(storage), at)
        self.on_gateway, self.on_storage = ids_of(gateway), ids_of(storage)

    def observation(
        self, gateway: Study | None, storage: Study | None, now: float, *, gateway_known: bool
    ) -> Observation:
        """The sets that decide; what is set aside counts as dealt with."""
        return Observation(
            gateway=gateway.ids if gateway else None,
            gateway_known=gateway_known,
            storage=ids_of(storage),
            held=frozenset(self.held) - uncompared(self.held, ids_of(gateway)),
            set_aside=frozenset(self.set_aside) | self.settled,
            quiet=now - self.grew_at,
            unmoved=now - self.moved_at,
        )

    @property
    def passed(self) -> frozenset[OrthancId]:
        """What the rule leaves where it is: all images, where it has none extracted."""
        if self.route is None or self.route.extract:
            return frozenset()
        return self.on_gateway | self.on_storage

    @property
    def priority(self) -> int:
        """What its rule says; a higher one goes first."""
        return PRIORITIES[self.route.priority] if self.route else 0

    @property
    def all_passed(self) -> frozenset[OrthancId]:
        """What its rule leaves, or an earlier one has left, and is not on disk all the same."""
        before = frozenset(self.record.passed) if self.record else frozenset()
        return (before | self.passed) - self.held.keys()

    @property
    def settled(self) -> frozenset[OrthancId]:
        """What an earlier rule has left where it is: other rules do not touch it, unless the operator asks for it."""
        if self.record is None or self.asked or self.route is None:
            return frozenset()
        is_same = self.route.name == self.record.route and self.route.forward
        return frozenset() if is_same else frozenset(self.record.passed)

    def place(self) -> None:
        """Have the listing say where the study stands on disk, or will stand by its rule."""
        if self.listing is not None and self.route is not None:
            placed = self.record.folder if self.record else ""
            self.listing = replace(self.listing, layout=self.route.layout, placed=placed)

    @property
    def control(self) -> str:
        """SOPInstanceUID of an image that came before, or nothing."""
        return next((kept.sop_uid for kept in self.held.values()), "")

    @property
    def is_changed(self) -> bool:
        """Whether the record does not say yet what is so now."""
        if self.record is None:
            return True
        return bool(
            self.restored
            or self.held != self.record.images
            or self.set_aside != self.record.set_aside
            or self.all_passed != frozenset(self.record.passed)
        )

    def begin_anew(self) -> None:
        """Forget all failures and waits: the operator asked for it."""
        self.failures, self.not_before = 0, 0.0
        self.asked = True
        if self.route is not EVERYTHING:
            self.route = None
        self.forward_blame.clear()
        self.retrieve_blame.clear()


def uncompared(held: Mapping[OrthancId, Kept], gateway: frozenset[OrthancId]) -> frozenset[OrthancId]:
    """Images that came to the gateway after they were proved against storage alone: they are to be proved again."""
    return frozenset(one for one in gateway if one in held and not held[one].at_gateway)


def ids_of(study: Study | None) -> frozenset[OrthancId]:
    """The instances of a listing; none where there is no listing."""
    return study.ids if study else frozenset()
