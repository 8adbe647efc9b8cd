"""Compare every study of both Orthancs, and every published one, with its custody record, in rounds: no study depends on a change that was missed.

The comparison runs in a thread of its own, a hundred studies at a time, and only reports which studies look as if they need work; the
loop compares these itself. A round over any archive therefore makes no turn longer. Without a fault it takes a twentieth of one
processor at most: a few hundred studies within seconds, 100,000 in about an hour and a half. After a start or a fault the studies
finished last are compared first, and two thousand without rests; at the operator's request, all of them.
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
    from ddwd.orthanc.port import OrthancPort

_ROUND_SECONDS = 300.0
"""The shortest time between the starts of two rounds."""
_PIECE = 100
"""Studies compared in one piece of work: about 0.25 s."""
_REST = 19.0
"""The rest after a piece of work, in multiples of the time it took; 1 while it is urgent."""
_URGENT = 2000
"""Studies compared without that rest after a start or a fault: a small archive completely, twice."""
_PAGE = 500
_FAILED_SECONDS = 5.0
"""The wait after an Orthanc did not list its studies."""


@dataclass
class _Listing:
    """The studies of one Orthanc, or those with a record, page by page. If there is no answer, the same page is queried again."""

    page: Callable[[int, int], Sequence[OrthancId]]
    since: int = 0
    ahead: deque[OrthancId] = field(default_factory=deque)
    is_whole: bool = False

    def head(self) -> OrthancId | None:
        """Return the next study, or None at the end."""
        if not self.ahead and not self.is_whole:
            page = self.page(self.since, _PAGE)
            self.since += len(page)
            self.ahead.extend(page)
            self.is_whole = len(page) < _PAGE
        return self.ahead[0] if self.ahead else None


@dataclass(frozen=True, slots=True)
class _Piece:
    """The result of one piece of work. `listed`: part of a round; `ended`: the last of it; `failed`: an Orthanc did not list its studies."""

    suspects: tuple[OrthancId, ...]
    compared: int
    seconds: float
    listed: bool = False
    ended: bool = False
    failed: bool = False


@dataclass
class Sweep:
    """Call `step` in each turn.

    `suspects` compares studies and returns those that look wrong, in another thread; `recent` returns those finished last, newest first.
    `recorded` yields every study that has a custody record: one that is gone from both Orthancs is in neither of their lists.
    """

    nodes: Sequence[OrthancPort]
    suspects: Callable[[Sequence[OrthancId]], Sequence[OrthancId]]
    recent: Callable[[], Iterable[OrthancId]]
    executor: Executor
    clock: Clock
    recorded: Callable[[], Iterable[OrthancId]] = tuple
    compared: int = 0
    began_at: str = ""
    _listings: Sequence[_Listing] = ()
    _work: Future[_Piece] | None = None
    _first: list[OrthancId] = field(default_factory=list)
    _is_under_way: bool = False
    _anew: bool = False
    _once_more: bool = False
    _urgent: float = 0.0
    _due: float = float("-inf")
    _next_round: float = float("-inf")

    def __post_init__(self) -> None:
        """Begin at once, as after a fault."""
        self.hasten()

    def hasten(self) -> None:
        """After a start or a fault: compare the studies finished last at once, then a whole round."""
        self._urgent = max(self._urgent, _URGENT)
        self._first = list(self.recent())
        self._once_more = self._is_under_way
        self._due = self._next_round = float("-inf")

    def everything(self) -> None:
        """At the operator's request: a round from the beginning, without rests."""
        self.hasten()
        self._urgent = float("inf")
        self._anew, self._once_more = True, False

    def wait(self) -> float:
        """Return the seconds until the next piece is due; infinity while one runs, whose end wakes the loop."""
        if self._work is not None:
            return 0.0 if self._work.done() else float("inf")
        due = self._due if self._first or self._is_under_way else max(self._due, self._next_round)
        return max(0.0, due - self.clock.monotonic())

    def step(self) -> tuple[tuple[OrthancId, ...], bool]:
        """Collect the last piece and start the next if it is due; return the suspects, and whether a round ended.

        Call it only while both Orthancs answer.
        """
        suspects, ended = self._collect()
        if self._work is None and not self.wait():
            self._work = self.executor.submit(self._piece())
        return suspects, ended

    def _piece(self) -> Callable[[], _Piece]:
        """Return the next piece of work."""
        if self._first:
            studies, self._first = self._first[:_PIECE], self._first[_PIECE:]
            return partial(self._compare, studies)
        if self._anew or not self._is_under_way:
            self._listings = [*(_Listing(node.study_page) for node in self.nodes), self._recorded()]
            self._is_under_way, self._anew = True, False
            self._next_round = self.clock.monotonic() + _ROUND_SECONDS
            self.compared, self.began_at = 0, stamp(self.clock.utc())
        return self._compare_listed

    def compare_soon(self, studies: Sequence[OrthancId]) -> None:
        """Compare these studies before the others, as soon as no other piece of work runs."""
        self._first[:0] = [study for study in studies if study not in self._first]

    def _recorded(self) -> _Listing:
        studies = iter(self.recorded())
        return _Listing(lambda _since, limit: list(islice(studies, limit)))

    def _collect(self) -> tuple[tuple[OrthancId, ...], bool]:
        if self._work is None or not self._work.done():
            return (), False
        piece, self._work = self._work.result(), None
        self._urgent -= piece.compared
        rest = piece.seconds if self._urgent > 0 else _REST * piece.seconds
        self._due = self.clock.monotonic() + (_FAILED_SECONDS if piece.failed else rest)
        if piece.listed:
            self.compared += piece.compared
        ended = piece.ended and not self._anew
        if ended:
            self._end()
        return piece.suspects, ended

    def _end(self) -> None:
        self._is_under_way = False
        self._urgent = 0.0 if self._urgent == float("inf") else self._urgent
        if self._once_more:  # studies compared before the fault are compared after it too
            self._once_more, self._next_round = False, float("-inf")

    # --- in another thread --------------------------------------------------------------------------------------------

    def _listed(self) -> Iterator[OrthancId]:
        """Yield the following studies, each once if the lists are sorted, as PostgreSQL's are. Raises PeerDownError, PeerRefusedError.

        A study deleted meanwhile may hide one other from this round.
        """
        while heads := [head for listing in self._listings if (head := listing.head()) is not None]:
            study = min(heads)
            for listing in self._listings:
                if listing.ahead and listing.ahead[0] == study:
                    listing.ahead.popleft()
            yield study

    def _compare_listed(self) -> _Piece:
        studies: list[OrthancId] = []
        began, failed = self.clock.monotonic(), False
        try:
            for study in islice(self._listed(), _PIECE):
                studies.append(study)  # noqa: PERF402 - those before a failure are kept
        except (PeerDownError, PeerRefusedError):
            failed = True
        piece = self._compare(studies)
        seconds = self.clock.monotonic() - began
        ended = not failed and len(studies) < _PIECE
        return replace(piece, seconds=seconds, listed=True, ended=ended, failed=failed)

    def _compare(self, studies: Sequence[OrthancId]) -> _Piece:
        began = self.clock.monotonic()
        try:
            suspects = self.suspects(studies)
        except (PeerDownError, PeerRefusedError):
            suspects = studies  # the loop compares them itself, one by one, as soon as it can
        return _Piece(tuple(suspects), len(studies), self.clock.monotonic() - began)
