"""Whose time is over at a place: a pass over all that is there, a few hundred studies at a time, the oldest first. Reads only.

The Orthancs' own lists say what they have, the custody records what was published; of a record only the first lines are read.
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
    from ddwd.store.custody import CustodyPort

_PIECE = 200
MOST = 2000
"""Studies taken by one pass; what is left is for the next."""


class Survey:
    """One pass; `go_on` until it says that it is done, then `found` has the studies, oldest first.

    Those for which `is_past` holds were looked at before.
    """

    def __init__(
        self,
        terms: Terms,
        nodes: tuple[OrthancPort, OrthancPort],
        custody: CustodyPort,
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
        """Look at some more; whether there are others. Raises PeerDownError, PeerRefusedError and OSError."""
        piece = list(islice(self._studies, _PIECE))
        self._due += [(at, study) for study in piece if (at := self._over_since(study)) is not None]
        if len(self._due) > 2 * MOST:
            self._cut()
        return len(piece) == _PIECE

    @property
    def found(self) -> list[OrthancId]:
        """The oldest of those whose time is over, by when they were published."""
        self._cut()
        return [study for _, study in self._due]

    def _cut(self) -> None:
        self._due.sort()
        self.is_whole = self.is_whole and len(self._due) <= MOST
        del self._due[MOST:]

    def _over_since(self, study: OrthancId) -> str | None:
        """When it was published, where its time is over; one whose record does not tell is looked at first of all."""
        if self._is_past(study):
            return None
        peek = self._custody.peek(study)
        if peek is None:
            return "" if self._custody.has(study) else None
        if self._terms.place == "output" and peek.retired and not (self._paths.output / peek.folder).exists():
            return None
        return peek.published_at if self._terms.is_over(peek.published_at, peek.route) else None
