"""Check whether a place is short of free space by `retention` in ddwd.yaml. Measures volumes of this machine only."""

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
    """Free space of each place against its limit; a dry run adds what it would free by `frees`."""

    def __init__(self, config: Config, paths: Paths, measure: Callable[[Path], Space]) -> None:
        self._config = config
        self._paths = paths
        self._measure = measure
        self._freed: Counter[int] = Counter()

    def at(self, place: Place) -> bool:
        """Return whether the place is short of space; False for an Orthanc on another machine or a volume that cannot be measured."""
        share, space = self._config.retention.free(place), self._space(place)
        if share is None or space is None:
            return False
        return space.free + self._freed[space.device] < share.of(space.total)

    def frees(self, place: Place, size: int) -> None:
        """Count `size` bytes of the place as free, without removing a file."""
        if (space := self._space(place)) is not None:
            self._freed[space.device] += size

    def _space(self, place: Place) -> Space | None:
        if place != "output" and not self._config.has(place):
            return None
        try:
            return self._measure(self._paths.of_place(place))
        except OSError:
            return None
