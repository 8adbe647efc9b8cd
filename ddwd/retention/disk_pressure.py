"""Whether a place is short of room, as `retention` in ddwd.yaml has it. Looks at volumes of this machine only."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddwd.config.loader import Config
    from ddwd.config.paths import Paths
    from ddwd.config.retention import Place
    from ddwd.core.disk_space import Space


class Shortage:
    """Measures when it is asked; with `frees`, as it would be once so much more were gone."""

    def __init__(self, config: Config, paths: Paths, measure: Callable[[Path], Space]) -> None:
        self._config = config
        self._paths = paths
        self._measure = measure
        self._freed: Counter[int] = Counter()

    def at(self, place: Place) -> bool:
        """Whether its oldest have to go. Never of an Orthanc that runs elsewhere, nor where nothing can be measured."""
        share, space = self._config.retention.free(place), self._space(place)
        if share is None or space is None:
            return False
        return space.free + self._freed[space.device] < share.of(space.total)

    def frees(self, place: Place, size: int) -> None:
        """So many bytes would be gone from there."""
        if (space := self._space(place)) is not None:
            self._freed[space.device] += size

    def _space(self, place: Place) -> Space | None:
        if place != "output" and not self._config.has(place):
            return None
        try:
            return self._measure(self._paths.of_place(place))
        except OSError:
            return None
