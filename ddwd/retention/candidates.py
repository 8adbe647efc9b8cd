"""Find the studies whose retention time at a place is over, the oldest first. Reads only.

An Orthanc's own list names the studies it has; the custody records name those that were published. Only the first lines of a
record are read.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ddwd.config.paths import Paths
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort
    from ddwd.retention.rules import Terms
    from ddwd.store.custody import Custody

_BATCH = 200
MAX_STUDIES = 2000
"""Studies that one pass finds at most; the next pass finds the rest."""


class Survey:
    """One pass over a place: call `go_on` until it returns False; then `found` has the studies, the oldest first.

    Studies for which `is_past` returns True are skipped.
    """

    def __init__(
        self,
        terms: Terms,
        nodes: tuple[OrthancPort, OrthancPort],
        custody: Custody,
        paths: Paths,
        is_past: Callable[[OrthancId], bool] = lambda _study: False,
    ) -> None:
        self._terms = terms
        self._custody = custody
        self._paths = paths
        self._is_past = is_past
        gateway, storage = nodes
        listing = {"gateway": gateway.study_ids, "storage": storage.study_ids, "output": custody.studies}
        self._studies: Iterator[OrthancId] = listing[terms.place]()
        self._due: list[tuple[str, OrthancId]] = []
        self.is_whole = True

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
        if self._is_past(study):
            return None
        peek = self._custody.peek(study)
        if peek is None:
            return "" if self._custody.has(study) else None
        if self._terms.place == "output" and peek.retired and not (self._paths.output / peek.folder).exists():
            return None
        return peek.published_at if self._terms.is_over(peek.published_at, peek.route) else None
