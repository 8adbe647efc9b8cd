"""How long each place keeps a study: the section `retention` of ddwd.yaml, and what a route says otherwise. Pure.

A place is the gateway, storage, or the output. What else must be so before anything is removed stands in pipeline/retention/rules.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from ddwd.config.parsers import FOREVER, Share

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ddwd.config.routing import Route

Place = Literal["gateway", "storage", "output"]
PLACES: tuple[Place, ...] = get_args(Place)
"""In the order in which they let go of a study: storage only once the gateway has, or it would be sent there again."""


@dataclass(frozen=True, slots=True)
class Retention:
    """After how many days each place may lose a study, and below how much free room its oldest go; None: never.

    For want of room nothing younger than `least_days` goes. `remove_last_copy`: an image of which no other copy is left here, too.
    """

    gateway_days: float | None = None
    storage_days: float | None = None
    output_days: float | None = None
    gateway_free: Share | None = None
    storage_free: Share | None = None
    output_free: Share | None = None
    least_days: float = 1.0
    remove_last_copy: bool = False

    def days(self, place: Place, route: Route | None = None) -> float:
        """Days that the place keeps a study of that route; infinite: for ever."""
        own = _days_of(route, place) if route is not None else None
        general = {"gateway": self.gateway_days, "storage": self.storage_days, "output": self.output_days}
        return next((days for days in (own, general[place]) if days is not None), FOREVER)

    def least(self, place: Place, route: Route | None = None) -> float:
        """Days after which a study of that route may go for want of room; infinite where the route says: for ever."""
        own = _days_of(route, place) if route is not None else None
        return FOREVER if own == FOREVER or self.free(place) is None else self.least_days

    def free(self, place: Place) -> Share | None:
        """The room below which the oldest go."""
        return {"gateway": self.gateway_free, "storage": self.storage_free, "output": self.output_free}[place]

    def places(self, routes: Sequence[Route]) -> list[Place]:
        """Those that anything may be removed from."""
        ways = (None, *routes)
        return [place for place in PLACES if any(self._may_lose(place, route) for route in ways)]

    def _may_lose(self, place: Place, route: Route | None) -> bool:
        return min(self.days(place, route), self.least(place, route)) < FOREVER

    def contradictions(self, routes: Sequence[Route]) -> Iterator[tuple[str, str, str]]:
        """Key, what is wrong, what to write instead, for what could never be done or would lose the last copy unasked."""
        for route in (None, *routes):
            of = f" of route {route.name}" if route else ""
            if self._may_lose("storage", route) and not self._may_lose("gateway", route):
                what = f"storage{of} may only go after the gateway's copy, which is kept for ever"
                yield self._key(route, "storage"), what, "set gateway_days too, no longer than storage_days"
            elif self.days("storage", route) < self.days("gateway", route):
                what = f"storage{of} would be kept for fewer days than the gateway's copy, which goes first"
                yield self._key(route, "storage"), what, "set storage_days to no less than gateway_days"
            if self.remove_last_copy:
                continue
            if self._may_lose("storage", route) and self._may_lose("output", route):
                what = f"storage and output{of} both have an end, and one of them has the last copy"
                yield self._key(route, "output"), what, "keep one for ever, or set remove_last_copy: true"

    def _key(self, route: Route | None, place: Place) -> str:
        """The key that is to blame."""
        if route is not None and _days_of(route, place) is not None:
            return "routes"
        by_days = self.days(place) < FOREVER
        return f"retention.{place}_{'days' if by_days else 'free'}"


def _days_of(route: Route, place: Place) -> float | None:
    return {"gateway": route.keep_gateway, "storage": route.keep_storage, "output": route.keep_output}[place]
