"""How long each place keeps a study: the section `retention` of ddwd.yaml, and what a route has in its place. Pure.

A place is the gateway, storage or output. The other conditions for a removal are in ddwd/retention/rules.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from ddwd.config import parsers
from ddwd.config.declaration import setting
from ddwd.config.parsers import FOREVER, Share

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ddwd.config.routing import Route

Place = Literal["gateway", "storage", "output"]
PLACES: tuple[Place, ...] = get_args(Place)
"""In the order in which a study is removed: from storage only after the gateway, or the gateway would forward it again."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What may be removed, and when: by default no study is. A study is removed from a place only after all of it was proved downstream once
    more, oldest first, and from storage only once ORTHANC1 no longer has it: docs/retention.md. See before: ddwd retention --dry-run"""

    gateway_days: float | None = setting(None, parsers.days)
    """Days after its publication that ORTHANC1 keeps a study (see docs/retention.md); 0.5 is half a day. Empty: for ever."""
    storage_days: float | None = setting(None, parsers.days)
    """The same for ORTHANC2; no less than gateway_days. Empty: it is the archive."""
    output_days: float | None = setting(None, parsers.days)
    """The same for the files in output_dir, which stay on ORTHANC2. Empty: for ever."""
    gateway_free: Share | None = setting(None, parsers.share)
    """Space below which the oldest studies of ORTHANC1 are removed before their days are over, as 15% or 500 GiB of its volume."""
    storage_free: Share | None = setting(None, parsers.share)
    """The same for the volume of ORTHANC2."""
    output_free: Share | None = setting(None, parsers.share)
    """The same for the volume of output_dir."""
    least_days: float = setting(1.0, parsers.days)
    """Days that every study is kept, however little space is left."""
    remove_last_copy: bool = setting(False, parsers.switch)
    """true: ORTHANC2 and output_dir may both remove a study, so that in the end this portal has no copy. Never for lack of space."""

    def days(self, place: Place, route: Route | None = None) -> float:
        """Return the days that the place keeps a study of that route; infinite: for ever."""
        own = _days_of(route, place) if route is not None else None
        general = {"gateway": self.gateway_days, "storage": self.storage_days, "output": self.output_days}
        return next((days for days in (own, general[place]) if days is not None), FOREVER)

    def least(self, place: Place, route: Route | None = None) -> float:
        """Return the days after which a study of that route may be removed for lack of space; infinite: never."""
        own = _days_of(route, place) if route is not None else None
        return FOREVER if own == FOREVER or self.free(place) is None else self.least_days

    def free(self, place: Place) -> Share | None:
        """Return the free space below which the oldest studies are removed."""
        return {"gateway": self.gateway_free, "storage": self.storage_free, "output": self.output_free}[place]

    def places(self, routes: Sequence[Route]) -> list[Place]:
        """Return the places that a study may be removed from."""
        return [place for place in PLACES if any(self._may_lose(place, route) for route in (None, *routes))]

    def _may_lose(self, place: Place, route: Route | None) -> bool:
        return min(self.days(place, route), self.least(place, route)) < FOREVER

    def contradictions(self, routes: Sequence[Route]) -> Iterator[tuple[str, str, str]]:
        """Return key, reason and what to write instead, for each setting that can never apply, or would remove the last copy."""
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
        """Return the key that the problem is reported for."""
        if route is not None and _days_of(route, place) is not None:
            return "routes"
        by_days = self.days(place) < FOREVER
        return f"retention.{place}_{'days' if by_days else 'free'}"


def _days_of(route: Route, place: Place) -> float | None:
    return {"gateway": route.keep_gateway, "storage": route.keep_storage, "output": route.keep_output}[place]
