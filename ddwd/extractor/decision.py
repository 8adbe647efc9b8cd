"""What a study needs next, decided from instance sets alone. Pure.

A stage is derived from the sets, never stepped from one to the next: a remembered step can be wrong after a crash, a comparison
cannot. Called again after any interruption, `decide` leads to the same end (tests/unit/test_custody_machine.py).
Durations are seconds of the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from ddwd.config.routing import HOLD

if TYPE_CHECKING:
    from ddwd.config.routing import Route
    from ddwd.core.model import OrthancId


class Stage(StrEnum):
    """The stages of a study, in the order of the flow."""

    ARRIVING = "arriving"
    FORWARDING = "forwarding"
    RETRIEVING = "retrieving"
    READY = "ready"
    PUBLISHED = "published"
    RETRYING = "retrying"
    """A step failed once, and is tried again a second later."""
    WAITING = "waiting"
    """A step failed, and is tried again after a pause."""
    HELD = "held"


class Blocker(StrEnum):
    """Why the images of a study are not moved although the peers answer."""

    NONE = ""
    PAUSE = "pause"
    """The operator has paused retrieving."""
    DISK = "disk"
    """A volume is short of room."""
    REFUSED = "refused"
    """Storage takes the images neither by STOW-RS nor by REST."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of one study at one moment; `gateway` is empty if the gateway does not answer.

    `quiet` is the seconds since the newest instance was seen anywhere, `unmoved` those since the set of instances to forward changed.
    """

    gateway: frozenset[OrthancId]
    gateway_answers: bool
    storage: frozenset[OrthancId]
    verified: frozenset[OrthancId]
    set_aside: frozenset[OrthancId]
    quiet: float
    unmoved: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now. With empty sets and without `publish`: wait."""

    stage: Stage
    reason: str
    forward: frozenset[OrthancId] = frozenset()
    retrieve: frozenset[OrthancId] = frozenset()
    publish: bool = False


class Rule(NamedTuple):
    """One row of the decision table; a condition that is None does not matter."""

    gateway_answers: bool | None
    is_quiet: bool | None
    """Whether no image was seen for `stable_age` seconds."""
    to_forward: bool | None
    """Whether the gateway has images that storage is missing."""
    to_retrieve: bool | None
    """Whether storage has images that the disk is missing."""
    stage: Stage
    reason: str

    def applies(self, facts: tuple[bool, bool, bool, bool]) -> bool:
        """Return whether each condition of the row holds."""
        return all(condition in {None, fact} for condition, fact in zip(self[:4], facts, strict=True))


# our own clock decides what is quiet, not Orthanc's IsStable: that is true at once after a restart, and up to a second late otherwise
TABLE = (
    Rule(False, None, None, None, Stage.WAITING, "the gateway does not answer: whether the study is complete is unknown"),
    Rule(True, False, None, None, Stage.ARRIVING, "images are still arriving"),
    Rule(True, True, True, None, Stage.FORWARDING, "{forward} images are not on storage yet"),
    Rule(True, True, False, True, Stage.RETRIEVING, "{retrieve} images are not on disk yet"),
    Rule(True, True, False, False, Stage.READY, "gateway, storage and disk agree"),
)  # fmt: skip
"""The first row that applies gives the stage. Printed in docs/architecture.md; a test holds both together."""


def decide(seen: Observation, route: Route | None, *, stable_age: float, grace: float) -> Decision:
    """Compare gateway, storage and disk; return which instances to forward, which to retrieve, and whether to publish.

    `route` is None while it is not decided, HOLD if no route takes the study. A route may exclude forwarding or extraction: the study
    is complete without that hop then. Images are retrieved in every stage, and forwarded once the set of images to forward has not
    changed for `grace` seconds.
    """
    if route is None:
        return Decision(Stage.ARRIVING, "its route is not decided yet")
    if route is HOLD:
        return Decision(Stage.HELD, "no route takes it: ddwd routes")
    none: frozenset[OrthancId] = frozenset()
    behind = seen.gateway - seen.storage - seen.set_aside if route.forward else none
    retrieve = seen.storage - seen.verified - seen.set_aside if route.extract else none
    forward: frozenset[OrthancId] = behind if seen.unmoved >= grace else frozenset()
    stage, reason = _stage(seen, len(behind), len(retrieve), stable_age)
    publish = stage is Stage.READY and bool(seen.verified or seen.set_aside or not route.extract)
    return Decision(stage, reason, forward, retrieve, publish)


def _stage(seen: Observation, behind: int, retrieve: int, stable_age: float) -> tuple[Stage, str]:
    facts = (seen.gateway_answers, seen.quiet >= stable_age, behind > 0, retrieve > 0)
    rule = next(rule for rule in TABLE if rule.applies(facts))
    return rule.stage, rule.reason.format(forward=behind, retrieve=retrieve)
