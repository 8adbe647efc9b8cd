"""Which studies are compared next: first those that moved on an Orthanc, then, at each sweep, all of them. Part of the cycle.

A sweep over everything begins at the start, after every fault and every few minutes; studies are taken from it a few a turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.errors import PeerDownError, PeerRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ddwd.model import OrthancId
    from ddwd.orthanc_api import OrthancPort

_SWEEP_SECONDS = 300.0


class Candidates:
    """A queue of studies to compare; `next` empties it."""

    def __init__(self, nodes: tuple[OrthancPort, ...]) -> None:
        self._nodes = nodes
        self._moved: dict[OrthancId, None] = {}
        self._sweep: Iterator[OrthancId] | None = None
        self._next_sweep = 0.0

    def __bool__(self) -> bool:
        """Whether studies that moved still wait to be compared."""
        return bool(self._moved)

    def moved(self, studies: Iterable[OrthancId]) -> None:
        """These moved just now: they come first."""
        self._moved = dict.fromkeys(studies) | self._moved

    def again(self, study: OrthancId) -> None:
        """It could not be compared now."""
        self._moved[study] = None

    def look_at(self, study: OrthancId | None) -> None:
        """Compare this study soon, or all of them."""
        if study is not None:
            self._moved[study] = None
        else:
            self._sweep, self._next_sweep = None, 0.0

    def after_a_fault(self) -> None:
        """Everything is compared as soon as both Orthancs answer."""
        self._next_sweep = 0.0

    def begin_sweep(self, now: float) -> bool:
        """Begin one where it is time; whether it was."""
        if self._sweep is not None or now < self._next_sweep:
            return False
        self._sweep = self._all_studies()
        self._next_sweep = now + _SWEEP_SECONDS
        return True

    def next(self) -> OrthancId | None:
        """The next study to compare, or None."""
        if self._moved:
            study = next(iter(self._moved))
            del self._moved[study]
            return study
        if self._sweep is None:
            return None
        try:
            return next(self._sweep)
        except StopIteration:
            self._sweep = None
        except (PeerDownError, PeerRefusedError):
            self.look_at(None)
        return None

    def _all_studies(self) -> Iterator[OrthancId]:
        for node in self._nodes:
            yield from node.study_ids()
