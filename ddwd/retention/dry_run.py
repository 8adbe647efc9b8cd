"""Find what a round of retention would remove now, with every check of a real round: `ddwd retention --dry-run`. Removes no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.retention.candidates import Shortage, Survey
from ddwd.retention.eligibility import Examiner, owed
from ddwd.retention.rules import Terms
from ddwd.store.status_files import EXTRACTOR, ExtractorStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.config.schema import Config
    from ddwd.core.disk_space import Space
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort
    from ddwd.retention.eligibility import Eligibility
    from ddwd.store.custody import CustodyPort


class DryRun:
    """One pass over all places, as a round makes it."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        nodes: tuple[OrthancPort, OrthancPort],
        custody: CustodyPort,
        now: datetime,
        measure: Callable[[Path], Space],
    ) -> None:
        self._config, self._paths, self._nodes, self._custody = config, paths, nodes, custody
        self._now, self._shortage = now, Shortage(config, paths, measure)
        self._routes = {route.name: route for route in config.routes}
        self._leaving: set[OrthancId] = set()
        self._examiner = Examiner(nodes, paths, custody, owed(paths), leaving=self._leaving)

    def findings(self, expect: Callable[[int], None], advance: Callable[[], None]) -> Iterator[Eligibility]:
        """Yield what would be removed and what would be kept, place by place, the oldest first.

        Calls `expect` with the number of studies that it is about to examine, and `advance` after each. Raises PeerDownError and
        PeerRefusedError.
        """
        status = EXTRACTOR.read_or_none(self._paths.heartbeat("extractor")) or ExtractorStatus()
        for place in self._config.retention.places(self._config.routes):
            examined = {row.study for row in status.in_flight}
            for for_room in (False, True):
                terms = Terms(place, self._config.retention, self._routes, self._now, for_room)
                yield from self._examine(terms, examined, expect, advance)

    def _examine(
        self,
        terms: Terms,
        examined: set[OrthancId],
        expect: Callable[[int], None],
        advance: Callable[[], None],
    ) -> Iterator[Eligibility]:
        place, for_room, is_whole = terms.place, terms.for_room, False
        while not is_whole and (not for_room or self._shortage.at(place)):
            survey = Survey(terms, self._nodes, self._custody, self._paths, examined)
            while survey.go_on():
                pass
            is_whole = survey.is_whole
            expect(len(survey.found))
            for study in survey.found:
                if for_room and not self._shortage.at(place):
                    return
                examined.add(study)
                if finding := self._examiner.look(study, terms):
                    self._shortage.frees(place, finding.bytes)
                    if place == "gateway" and finding.images:
                        self._leaving.add(study)
                    yield finding
                advance()
