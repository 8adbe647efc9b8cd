"""Compare every study of both Orthancs with its custody record, in rounds: no study depends on a change that was missed.

The comparison runs in a thread of its own, a hundred studies at a time, and only reports which studies look as if they need work; the
loop compares these itself. A round over any archive therefore makes no turn longer. While all is well it takes a twentieth of one
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
"""The shortest time between the beginnings of two rounds."""
_PIECE = 100
"""Studies compared in one piece of work: about 0.25 s."""
_REST = 19.0
"""The rest after a piece of work, in multiples of the time it took; 1 while it is urgent."""
_URGENT = 2000
"""Studies compared without that rest after a start or a fault: a small archive completely, twice."""
_PAGE = 500
_FAILED_SECONDS = 5.0
"""The wait after an Orthanc did not list its studies."""


class _Listing:
    """The studies of both Orthancs, page by page; each once if the lists are sorted, as PostgreSQL's are.

    A study deleted meanwhile may hide one other from this round. An Orthanc that does not answer is asked again from the same place.
    """

    def __init__(self, nodes: Sequence[OrthancPort]) -> None:
        self._lists = [_List(node) for node in nodes]

    def begin(self) -> None:
        """Begin from the first study."""
        self._lists = [_List(one.node) for one in self._lists]

    def __iter__(self) -> Iterator[OrthancId]:
        """Yield the following studies. Raises PeerDownError and PeerRefusedError."""
        while heads := [head for one in self._lists if (head := one.head()) is not None]:
            study = min(heads)
            for one in self._lists:
                one.skip(study)
            yield study


@dataclass
class _List:
    """The studies of one Orthanc."""

    node: OrthancPort
    since: int = 0
    ahead: deque[OrthancId] = field(default_factory=deque)
    is_whole: bool = False

    def head(self) -> OrthancId | None:
        """Return the next study, or None at the end."""
        if not self.ahead and not self.is_whole:
            page = self.node.study_page(self.since, _PAGE)
            self.since += len(page)
            self.ahead.extend(page)
            self.is_whole = len(page) < _PAGE
        return self.ahead[0] if self.ahead else None

    def skip(self, study: OrthancId) -> None:
        """Drop this study if it is the next."""
        if self.ahead and self.ahead[0] == study:
            self.ahead.popleft()


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one piece of work found. `listed`: part of a round; `ended`: the last of it; `failed`: an Orthanc did not list its studies."""

    suspects: tuple[OrthancId, ...]
    compared: int
    seconds: float
    listed: bool = False
    ended: bool = False
    failed: bool = False


class Sweep:
    """Call `step` in each turn.

    `suspects` compares studies and returns those that look wrong, in another thread; `recent` returns those finished last, newest first.
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
        """After a start or a fault: compare the studies finished last at once, then a whole round."""
        self._urgent = max(self._urgent, _URGENT)
        self._first = list(self._recent())
        self._once_more = self._under_way
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
        due = self._due if self._first or self._under_way else max(self._due, self._next_round)
        return max(0.0, due - self._clock.monotonic())

    def step(self) -> tuple[tuple[OrthancId, ...], bool]:
        """Collect the last piece and start the next if it is due; return the suspects, and whether a round ended.

        Call it only while both Orthancs answer.
        """
        suspects, ended = self._collect()
        if self._work is None and not self.wait():
            self._work = self._executor.submit(self._piece())
        return suspects, ended

    def _piece(self) -> Callable[[], _Piece]:
        """Return the next piece of work."""
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
        if self._once_more:  # studies compared before the fault are compared after it too
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
            suspects = studies  # the loop compares them itself, one by one, as soon as it can
        return _Piece(tuple(suspects), len(studies), self._clock.monotonic() - began)
