"""Find the studies whose retention time at a place is over, the oldest first, and whether the place is short of space. Reads only.

An Orthanc's own list names the studies it has; the custody records name those that were published. Only the first lines of a
record are read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.config.retention import Place
    from ddwd.config.schema import Config
    from ddwd.core.disk_space import Space
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort
    from ddwd.retention.rules import Terms
    from ddwd.store.custody import Custody

_BATCH = 200
MAX_STUDIES = 2000
"""Studies that one pass finds at most; the next pass finds the rest."""


@dataclass
class Survey:
    """One pass over a place, without the studies in `examined`: call `go_on` until it returns False; then `found` has the studies."""

    terms: Terms
    nodes: tuple[OrthancPort, OrthancPort]
    custody: Custody
    paths: Paths
    examined: Collection[OrthancId] = frozenset()
    is_whole: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        gateway, storage = self.nodes
        listing = {"gateway": gateway.study_ids, "storage": storage.study_ids, "output": self.custody.studies}
        self._studies: Iterator[OrthancId] = listing[self.terms.place]()
        self._due: list[tuple[str, OrthancId]] = []

    def go_on(self) -> bool:
        """Check the next batch of studies; return whether more follow. Raises PeerDownError, PeerRefusedError and OSError."""
        batch = list(islice(self._studies, _BATCH))
        self._due += [(at, study) for study in batch if (at := self._published_at(study)) is not None]
        if len(self._due) > 2 * MAX_STUDIES:
            self._cut()
        return len(batch) == _BATCH

    @property
    def found(self) -> list[OrthancId]:
        """Studies whose time is over, the earliest published first; at most MAX_STUDIES."""
        self._cut()
        return [study for _, study in self._due]

    def _cut(self) -> None:
        self._due.sort()
        self.is_whole = self.is_whole and len(self._due) <= MAX_STUDIES
        del self._due[MAX_STUDIES:]

    def _published_at(self, study: OrthancId) -> str | None:
        """Return the stamp at which a study whose time is over was published, else None; empty, which sorts first, for a damaged record."""
        if study in self.examined:
            return None
        peek = self.custody.peek(study)
        if peek is None:
            return "" if self.custody.has(study) else None
        if self.terms.place == "output" and peek.retired and not (self.paths.output / peek.folder).exists():
            return None
        return peek.published_at if self.terms.is_over(peek.published_at, peek.route) else None


@dataclass
class Shortage:
    """Free space of each place against its limit; a dry run adds what it would free by `frees`, per device."""

    config: Config
    paths: Paths
    measure: Callable[[Path], Space]
    freed: Counter[int] = field(default_factory=Counter, init=False)

    def at(self, place: Place) -> bool:
        """Return whether the place is short of space; False for an Orthanc on another machine or a volume that cannot be measured."""
        share, space = self.config.retention.free(place), self._space(place)
        if share is None or space is None:
            return False
        return space.free + self.freed[space.device] < share.of(space.total)

    def frees(self, place: Place, size: int) -> None:
        """Count `size` bytes of the place as free, without removing a file."""
        if (space := self._space(place)) is not None:
            self.freed[space.device] += size

    def _space(self, place: Place) -> Space | None:
        if place != "output" and not self.config.has(place):
            return None
        try:
            return self.measure(self.paths.of_place(place))
        except OSError:
            return None
