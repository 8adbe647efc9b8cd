"""Studies to work on: each once, those in flight by due time and priority, the others in the order in which they are compared.

A study in flight is scheduled; it costs nothing until it is due. A study that changed, or that the sweep suspects, is added; it is
compared with its record before it is taken up. Safe to use from several threads.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ddwd.core.clock import Clock
    from ddwd.core.model import OrthancId


@dataclass(frozen=True, slots=True)
class _Appointment:
    """When a study in flight is due, and the earliest moment a change may bring that forward to. Monotonic seconds."""

    due: float
    no_sooner: float
    priority: int


@dataclass
class WorkQueue:
    """The studies that the loop works on, and when. `wake` is called when another thread has scheduled a study."""

    clock: Clock
    wake: Callable[[], None] = lambda: None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _scheduled: dict[OrthancId, _Appointment] = field(default_factory=dict)
    _heap: list[tuple[float, OrthancId]] = field(default_factory=list)
    _added: OrderedDict[OrthancId, None] = field(default_factory=OrderedDict)

    def now(self) -> float:
        """Return the monotonic seconds that appointments are made in."""
        return self.clock.monotonic()

    # --- studies in flight --------------------------------------------------------------------------------------------

    def schedule(
        self, study: OrthancId, after: float = 0.0, *, no_sooner: float = 0.0, priority: int = 0
    ) -> None:
        """Have a study in flight reconciled in `after` seconds; a change brings that forward to `no_sooner` seconds from now."""
        now = self.now()
        with self._lock:
            self._put(study, _Appointment(now + after, now + min(no_sooner, after), priority))

    def work_ended(self, study: OrthancId, priority: int) -> None:
        """Have a study reconciled at once; called by the worker that was busy with it."""
        self.schedule(study, priority=priority)
        self.wake()

    def forget(self, study: OrthancId) -> None:
        """Drop the appointment of a study that is no longer in flight."""
        with self._lock:
            self._scheduled.pop(study, None)

    def hasten(self) -> None:
        """Bring all appointments forward as far as each allows: images arrived, and their studies are not known yet."""
        now = self.now()
        with self._lock:
            for study, one in list(self._scheduled.items()):
                if (sooner := max(now, one.no_sooner)) < one.due:
                    self._put(study, _Appointment(sooner, one.no_sooner, one.priority))

    def due(self) -> list[OrthancId]:
        """Remove and return the studies in flight that are due now, the highest priority first."""
        now = self.now()
        found: list[tuple[int, OrthancId]] = []
        with self._lock:
            while self._heap and self._heap[0][0] <= now:
                due, study = heapq.heappop(self._heap)
                if self._is_current(due, study):
                    found.append((-self._scheduled.pop(study).priority, study))
        found.sort(key=lambda pair: pair[0])
        return [study for _, study in found]

    def next_due(self) -> float:
        """Return the seconds until the next study in flight is due; infinity if none is scheduled."""
        with self._lock:
            while self._heap and not self._is_current(*self._heap[0]):
                heapq.heappop(self._heap)
            if not self._heap:
                return float("inf")
            return max(0.0, self._heap[0][0] - self.now())

    def _put(self, study: OrthancId, one: _Appointment) -> None:
        self._scheduled[study] = one
        heapq.heappush(self._heap, (one.due, study))

    def _is_current(self, due: float, study: OrthancId) -> bool:
        one = self._scheduled.get(study)
        return one is not None and one.due == due

    # --- studies to compare -------------------------------------------------------------------------------------------

    def add(self, study: OrthancId) -> None:
        """Have a study compared, after all others."""
        with self._lock:
            self._added.setdefault(study)

    def add_moved(self, studies: Iterable[OrthancId]) -> None:
        """Have studies that changed just now compared, before all others."""
        with self._lock:
            for study in studies:
                self._added[study] = None
                self._added.move_to_end(study, last=False)

    def next_added(self) -> OrthancId | None:
        """Remove and return the next study to compare, or None."""
        with self._lock:
            return self._added.popitem(last=False)[0] if self._added else None

    @property
    def has_added(self) -> bool:
        """Whether studies wait to be compared."""
        return bool(self._added)
