"""Which studies are compared next: those that moved on an Orthanc, and those that the sweep over all of them finds. Part of the cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ddwd.core.model import OrthancId
    from ddwd.extractor.sweep import Sweep

_LEFTOVERS_SECONDS = 300.0


class Candidates:
    """A queue of studies to compare; `next` empties it."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._moved: dict[OrthancId, None] = {}
        self._next_leftovers = float("-inf")

    def __bool__(self) -> bool:
        """Whether studies still wait to be compared."""
        return bool(self._moved)

    def moved(self, studies: Iterable[OrthancId]) -> None:
        """These moved just now: they come first."""
        self._moved = dict.fromkeys(studies) | self._moved

    def again(self, study: OrthancId) -> None:
        """It could not be compared now, or is no more than suspected: it comes last."""
        self._moved[study] = None

    def look_at(self, study: OrthancId | None) -> None:
        """Compare this study soon, or all of them."""
        if study is not None:
            self._moved[study] = None
        else:
            self.sweep.everything()
            self._next_leftovers = float("-inf")

    def after_a_fault(self) -> None:
        """Everything is compared as soon as both Orthancs answer."""
        self.sweep.hasten()
        self._next_leftovers = float("-inf")

    def is_time_for_leftovers(self, now: float) -> bool:
        """Whether spool and staging are to be looked through: at the start, after a fault, every few minutes."""
        if now < self._next_leftovers:
            return False
        self._next_leftovers = now + _LEFTOVERS_SECONDS
        return True

    def next(self) -> OrthancId | None:
        """The next study to compare, or None."""
        study = next(iter(self._moved), None)
        if study is not None:
            del self._moved[study]
        return study
