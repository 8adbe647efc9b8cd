"""Find what a round of retention would remove now, with every check of a real round: `ddwd retention --dry-run`. Removes no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core import disk_space
from ddwd.retention.candidates import Survey
from ddwd.retention.disk_pressure import Shortage
from ddwd.retention.eligibility import Examiner, owed
from ddwd.retention.rules import Terms
from ddwd.store.status_files import EXTRACTOR, ExtractorStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.config.retention import Place
    from ddwd.config.schema import Config
    from ddwd.core.disk_space import Space
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort
    from ddwd.retention.eligibility import Eligibility
    from ddwd.store.custody import Custody


class DryRun:
    """One pass over all places, as a round makes it."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        nodes: tuple[OrthancPort, OrthancPort],
        custody: Custody,
        now: datetime,
        measure: Callable[[Path], Space] = disk_space.space_of,
    ) -> None:
        self._config, self._paths, self._nodes, self._custody = config, paths, nodes, custody
        self._now, self._shortage = now, Shortage(config, paths, measure)
        self._leaving: set[OrthancId] = set()
        self._examiner = Examiner(nodes, paths, custody, owed(paths), leaving=self._leaving)

    def findings(
        self, due: Callable[[int], None] = lambda _count: None, seen: Callable[[], None] = lambda: None
    ) -> Iterator[Eligibility]:
        """Yield what would be removed and what would be kept, place by place, the oldest first.

        Calls `due` with the number of studies that it is about to examine, and `seen` after each. Raises PeerDownError and
        PeerRefusedError.
        """
        in_flight = self._in_flight()
        for place in self._config.retention.places(self._config.routes):
            looked_at = set(in_flight)
            for for_room in (False, True):
                yield from self._of(place, looked_at, due, seen, for_room=for_room)

    def _of(
        self,
        place: Place,
        looked_at: set[OrthancId],
        due: Callable[[int], None],
        seen: Callable[[], None],
        *,
        for_room: bool,
    ) -> Iterator[Eligibility]:
        routes, is_whole = {one.name: one for one in self._config.routes}, False
        terms = Terms(place, self._config.retention, routes, self._now, for_room)
        while not is_whole and (not for_room or self._shortage.at(place)):
            survey = Survey(terms, self._nodes, self._custody, self._paths, looked_at.__contains__)
            while survey.go_on():
                pass
            is_whole = survey.is_whole
            due(len(survey.found))
            for study in survey.found:
                if for_room and not self._shortage.at(place):
                    return
                looked_at.add(study)
                if finding := self._examiner.look(study, terms):
                    self._shortage.frees(place, finding.bytes)
                    if place == "gateway" and finding.images:
                        self._leaving.add(study)
                    yield finding
                seen()

    def _in_flight(self) -> frozenset[OrthancId]:
        status = EXTRACTOR.read_or_none(self._paths.heartbeat("extractor")) or ExtractorStatus()
        return frozenset(row.study for row in status.in_flight)
