"""The route of a study. Lua decides it at the first image; if Lua did not, it is decided here, by the same table."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddwd.config.routing import EVERYTHING, HOLD, OWN, choose, table
from ddwd.core.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ddwd.config.routing import Route
    from ddwd.extractor.peers import Peers
    from ddwd.extractor.study import StudyState
    from ddwd.orthanc.port import OrthancPort


@dataclass
class Router:
    """Picks the route of each study. Without `routes` in the settings every study is forwarded and extracted."""

    routes: Mapping[str, Route]
    table: Sequence[Mapping[str, Any]]
    peers: Peers
    grace: float

    @classmethod
    def of(cls, routes: Sequence[Route], rendered: Path, peers: Peers, grace: float) -> Router:
        """Return the router of these settings; the gateway's Lua, which may decide for `grace` seconds, reads `rendered` too.

        Without that file the table is made from the settings. Raises ValueError if it is damaged.
        """
        entries: Sequence[Mapping[str, Any]] = table(routes)
        with suppress(FileNotFoundError):
            entries = json.loads(rendered.read_bytes())
        by_name = {route.name: route for route in (OWN, *routes)} if routes else {}
        return cls(by_name, entries, peers, grace)

    def at_first(self) -> Route | None:
        """Return the route of a study that was just opened; None if it has to be decided first."""
        return None if self.routes else EVERYTHING

    def forwards(self, name: str) -> bool:
        """Return whether the route of that name forwards; a route that is no longer in the settings does not."""
        return name in self.routes and self.routes[name].forward

    def decide(self, study: StudyState, now: float) -> Route | None:
        """Return the study's route, HOLD if none takes it, None while Lua may still decide. Raises PeerDownError, PeerRefusedError."""
        if study.record is not None and (route := self.routes.get(study.record.route)):
            return route
        node = self.peers.gateway if study.on_gateway else self.peers.storage
        noted = node.route(study.study_id)
        if route := self.routes.get(noted or ""):
            return route
        if noted is None and study.on_gateway and now - study.opened < self.grace:
            return None
        return self._choose(study, node, noted)

    def _choose(self, study: StudyState, node: OrthancPort, noted: str | None) -> Route | None:
        try:
            chosen = choose(self.table, node.first_image(study.study_id))
        except NotFoundError:
            return None
        route = self.routes.get(chosen or "", HOLD)
        if noted != route.name:
            node.set_route(study.study_id, route.name)
        return route
