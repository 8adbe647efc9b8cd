"""The guarantee behind the hints: every study of both Orthancs is compared with its record, round after round. Part of the cycle.

It works beside the main loop, a hundred studies at a time, and only ever says which studies look as if they needed work: the
cycle compares these itself. So a round over any archive makes no turn longer. While nothing is wrong it takes a twentieth of one
processor's time at most: a few hundred studies within seconds, 100,000 in about an hour and a half. After a start or a fault the studies
finished last are compared first, and two thousand without those rests; at the operator's request, all of them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from ddwd.core.clock import stamp
from ddwd.core.errors import PeerDownError, PeerRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor, Future

    from ddwd.core.clock import Clock
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.client import OrthancPort

_ROUND_SECONDS = 300.0
"""A round begins no sooner after the one before."""
_PIECE = 100
"""Studies compared in one piece of work: about 0.25 s."""
_REST = 19.0
"""How many times as long as a piece took nothing is compared; once as long where it is urgent."""
_URGENT = 2000
"""Studies compared without that rest after a start or a fault: a small archive as a whole, twice."""
_PAGE = 500
_FAILED_SECONDS = 5.0
"""Before an Orthanc that would not list its studies is asked for them again."""


class _Listing:
    """The studies of both Orthancs, page by page; each once where the lists are sorted, as PostgreSQL's are.

    A study deleted meanwhile may hide one other from this round; an Orthanc that does not answer loses nothing: it is asked again.
    """

    def __init__(self, nodes: Sequence[OrthancPort]) -> None:
        self._lists = [_List(node) for node in nodes]

    def begin(self) -> None:
        """Go back to the beginning."""
        self._lists = [_List(one.node) for one in self._lists]

    def __iter__(self) -> Iterator[OrthancId]:
        """Go on from where it stands. Raises PeerDownError and PeerRefusedError."""
        while heads := [head for one in self._lists if (head := one.head()) is not None]:
            study = min(heads)
            for one in self._lists:
                one.skip(study)
            yield study


@dataclass
class _List:
    """One Orthanc's studies."""

    node: OrthancPort
    since: int = 0
    ahead: deque[OrthancId] = field(default_factory=deque)
    is_whole: bool = False

    def head(self) -> OrthancId | None:
        """The next study, or None at the end."""
        if not self.ahead and not self.is_whole:
            page = self.node.study_page(self.since, _PAGE)
            self.since += len(page)
            self.ahead.extend(page)
            self.is_whole = len(page) < _PAGE
        return self.ahead[0] if self.ahead else None

    def skip(self, study: OrthancId) -> None:
        """Go past this study where it is the next."""
        if self.ahead and self.ahead[0] == study:
            self.ahead.popleft()


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one piece of work found. `listed`: it was part of a round; `ended`: the last one; `failed`: an Orthanc did not list its
    studies."""

    suspects: tuple[OrthancId, ...]
    compared: int
    seconds: float
    listed: bool = False
    ended: bool = False
    failed: bool = False


class Sweep:
    """Rounds over everything, for as long as `step` is called.

    `suspects` compares some and tells those that look wrong, in another thread; `recent` gives those finished last, newest first.
    """

    def __init__(
        self,
        nodes: Sequence[OrthancPort],
        suspects: Callable[[Sequence[OrthancId]], Sequence[OrthancId]],
        recent: Callable[[], Iterable[OrthancId]],
        executor: Executor,
        clock: Clock,
    ) -> None:
        self._listing = _Listing(nodes)
        self._suspects = suspects
        self._recent = recent
        self._executor = executor
        self._clock = clock
        self._work: Future[_Piece] | None = None
        self._first: list[OrthancId] = []
        self._under_way = False
        self._anew = False
        self._once_more = False
        self._urgent = 0.0
        self._due = self._next_round = float("-inf")
        self.compared = 0
        self.began_at = ""
        self.hasten()

    def hasten(self) -> None:
        """After a start or a fault: look at what was finished last, go on at once, and have a whole round follow."""
        self._urgent = max(self._urgent, _URGENT)
        self._first = list(self._recent())
        self._once_more = self._under_way
        self._due = self._next_round = float("-inf")

    def everything(self) -> None:
        """The operator asks: a round from the beginning, without a rest."""
        self.hasten()
        self._urgent = float("inf")
        self._anew, self._once_more = True, False

    def wait(self) -> float:
        """Seconds until it wants to go on; infinite while a piece is worked at, whose end wakes the loop."""
        if self._work is not None:
            return 0.0 if self._work.done() else float("inf")
        due = self._due if self._first or self._under_way else max(self._due, self._next_round)
        return max(0.0, due - self._clock.monotonic())

    def step(self) -> tuple[tuple[OrthancId, ...], bool]:
        """Take in what was found, and have the next piece worked at where it is time; the suspects, and whether a round ended.

        Only to be called while both Orthancs answer.
        """
        suspects, ended = self._collect()
        if self._work is None and not self.wait():
            self._work = self._executor.submit(self._piece())
        return suspects, ended

    def _piece(self) -> Callable[[], _Piece]:
        """The next piece of work."""
        if self._first:
            studies, self._first = self._first[:_PIECE], self._first[_PIECE:]
            return partial(self._compare, studies)
        if self._anew or not self._under_way:
            self._listing.begin()
            self._under_way, self._anew = True, False
            self._next_round = self._clock.monotonic() + _ROUND_SECONDS
            self.compared, self.began_at = 0, stamp(self._clock.utc())
        return self._compare_listed

    def _collect(self) -> tuple[tuple[OrthancId, ...], bool]:
        if self._work is None or not self._work.done():
            return (), False
        piece, self._work = self._work.result(), None
        self._urgent -= piece.compared
        rest = piece.seconds if self._urgent > 0 else _REST * piece.seconds
        self._due = self._clock.monotonic() + (_FAILED_SECONDS if piece.failed else rest)
        if piece.listed:
            self.compared += piece.compared
        ended = piece.ended and not self._anew
        if ended:
            self._end()
        return piece.suspects, ended

    def _end(self) -> None:
        self._under_way = False
        self._urgent = 0.0 if self._urgent == float("inf") else self._urgent
        if self._once_more:  # what was compared before the fault is compared after it too
            self._once_more, self._next_round = False, float("-inf")

    # --- in another thread --------------------------------------------------------------------------------------------

    def _compare_listed(self) -> _Piece:
        studies: list[OrthancId] = []
        began, failed = self._clock.monotonic(), False
        try:
            for study in islice(self._listing, _PIECE):
                studies.append(study)  # noqa: PERF402 - those before a failure are kept
        except (PeerDownError, PeerRefusedError):
            failed = True
        piece = self._compare(studies)
        seconds = self._clock.monotonic() - began
        ended = not failed and len(studies) < _PIECE
        return replace(piece, seconds=seconds, listed=True, ended=ended, failed=failed)

    def _compare(self, studies: Sequence[OrthancId]) -> _Piece:
        began = self._clock.monotonic()
        try:
            suspects = self._suspects(studies)
        except (PeerDownError, PeerRefusedError):
            suspects = studies  # the cycle compares them itself, one by one, as soon as it can
        return _Piece(tuple(suspects), len(studies), self._clock.monotonic() - began)
