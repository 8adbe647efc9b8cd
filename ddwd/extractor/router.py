"""The route of a study. Lua decides at its first image; what Lua did not decide is decided here, by the same table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ddwd.config.routing import EVERYTHING, HOLD, OWN, choose, table
from ddwd.core.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ddwd.config.routing import Route
    from ddwd.extractor.study import StudyState
    from ddwd.orthanc.port import OrthancPort


def read_table(path: Path, routes: Sequence[Route]) -> list[Mapping[str, Any]]:
    """Return the routing table that the gateway's Lua reads too; made from the settings if none is rendered. Raises ValueError."""
    try:
        found: list[Mapping[str, Any]] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return list(table(routes))
    return found


class Router:
    """Picks the route of each study. Without routes in the settings every study is forwarded and extracted."""

    def __init__(
        self,
        routes: Sequence[Route],
        rules: Sequence[Mapping[str, Any]],
        gateway: OrthancPort,
        storage: OrthancPort,
        grace: float,
    ) -> None:
        self._routes = {one.name: one for one in (OWN, *routes)} if routes else {}
        self._rules = rules
        self._gateway = gateway
        self._storage = storage
        self._grace = grace

    def at_first(self) -> Route | None:
        """Return the route of a study that was just opened; None if it has to be decided first."""
        return None if self._routes else EVERYTHING

    def forwards(self, name: str) -> bool:
        """Return whether the route of that name forwards; a route that is no longer in the settings does not."""
        return name in self._routes and self._routes[name].forward

    def decide(self, study: StudyState, now: float) -> Route | None:
        """Return the study's route, HOLD if none takes it, None while Lua may still decide. Raises PeerDownError, PeerRefusedError."""
        if study.record is not None and (route := self._routes.get(study.record.route)):
            return route
        node = self._gateway if study.on_gateway else self._storage
        kept = node.route(study.study_id)
        if route := self._routes.get(kept or ""):
            return route
        if kept is None and study.on_gateway and now - study.opened < self._grace:
            return None
        return self._judged(study, node, kept)

    def _judged(self, study: StudyState, node: OrthancPort, kept: str | None) -> Route | None:
        try:
            chosen = choose(self._rules, node.first_image(study.study_id))
        except NotFoundError:
            return None
        route = self._routes.get(chosen or "", HOLD)
        if kept != route.name:
            node.set_route(study.study_id, route.name)
        return route
