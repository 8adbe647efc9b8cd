"""Pure: what a study needs next, decided from instance sets alone, and when to try again.

A stage is derived from the sets, never stepped from one to the next: a remembered step can be wrong after a crash, a
comparison cannot. `decide` is entered again from any interrupted moment and gives the same end
(tests/unit/test_custody_machine.py).
Durations are seconds of the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddwd.core.model import OrthancId


class Stage(StrEnum):
    """Where a study stands; the order is the order of the flow."""

    ARRIVING = "arriving"
    FORWARDING = "forwarding"
    RETRIEVING = "retrieving"
    READY = "ready"
    PUBLISHED = "published"
    WAITING = "waiting"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of one study at one moment.

    `gateway` is None where the gateway answered that it does not hold the study, and `gateway_known` is False where it
    did not answer. `quiet` and `unmoved` are seconds since the newest instance was seen anywhere, and since the set of
    instances that wait to be forwarded last shrank or grew.
    """

    gateway: frozenset[OrthancId] | None
    gateway_known: bool
    storage: frozenset[OrthancId]
    held: frozenset[OrthancId]
    set_aside: frozenset[OrthancId]
    quiet: float
    unmoved: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now; empty sets and `publish=False` mean: wait."""

    stage: Stage
    forward: frozenset[OrthancId]
    retrieve: frozenset[OrthancId]
    publish: bool
    reason: str


def decide(
    seen: Observation, *, stable_age: float, grace: float, may_forward: bool = True, may_extract: bool = True
) -> Decision:
    """Compare gateway, storage and disk; say which instances to send on, which to fetch, and whether all is there.

    A rule may keep a study from being forwarded, or from being extracted: then it is whole without that hop.
    """
    none: frozenset[OrthancId] = frozenset()
    behind = (seen.gateway or none) - seen.storage - seen.set_aside if may_forward else none
    retrieve = seen.storage - seen.held - seen.set_aside if may_extract else none
    forward: frozenset[OrthancId] = behind if seen.unmoved >= grace else frozenset()
    stage, reason = _stage(seen, behind, retrieve, stable_age)
    publish = stage is Stage.READY and bool(seen.held or seen.set_aside or not may_extract)
    return Decision(stage, forward, retrieve, publish, reason)


def _stage(
    seen: Observation,
    behind: frozenset[OrthancId],
    retrieve: frozenset[OrthancId],
    stable_age: float,
) -> tuple[Stage, str]:
    if not seen.gateway_known:
        return Stage.WAITING, "the gateway does not answer, so nobody can say whether the study is whole"
    # our own clock, not Orthanc's IsStable: that is true at once after a restart, and up to a second late otherwise
    if seen.quiet < stable_age:
        return Stage.ARRIVING, "images are still arriving"
    if behind:
        return Stage.FORWARDING, f"{len(behind)} images are not on storage yet"
    if retrieve:
        return Stage.RETRIEVING, f"{len(retrieve)} images are not on disk yet"
    return Stage.READY, "gateway, storage and disk agree"


def waiting_for_a_rule(*, held: bool) -> Decision:
    """What is done with a study that no rule has taken, or not yet: nothing."""
    stage = Stage.HELD if held else Stage.ARRIVING
    reason = "no rule of routes takes it: ddwd routes" if held else "which rule takes it is not decided yet"
    return Decision(stage, frozenset(), frozenset(), publish=False, reason=reason)
