"""Schedule the hooks of published studies; a failed hook is retried without end, because only a success removes its notice.

The hook of one study never runs twice at the same time. A slow hook occupies one of a few workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock, stamp
from ddwd.core.retry import Backoff
from ddwd.hooks.runner import HookFailedError, HookStoppedError
from ddwd.store.status_files import WaitingNotice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor, Future

    from ddwd.core.model import OrthancId
    from ddwd.hooks.runner import Hook
    from ddwd.store.hook_queue import HookQueue, Notice

_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS, _FACTOR = 10.0, 3600.0, 4.0
"""After the first failure, after many, and by how much each wait is longer: a run may cost the other system much."""


def _backoff() -> Backoff:
    return Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS, _FACTOR)


@dataclass
class _Attempt:
    """State of a waiting notice; kept in memory only, so that every hook is tried at once after a restart."""

    revision: int
    backoff: Backoff = field(default_factory=_backoff)
    due: float = 0.0
    reason: str = ""
    work: Future[None] | None = None


class HookDispatcher:
    """Runs due hooks, one turn per call of `turn`; `call` runs one hook in the executor, and `wake` is called at its end."""

    def __init__(
        self,
        hooks: Mapping[str, Hook],
        notices: HookQueue,
        call: Callable[[Hook, Notice], None],
        executor: Executor,
        clock: Clock,
        audit: Audit,
        wake: Callable[[], None],
    ) -> None:
        self._hooks = hooks
        self._notices = notices
        self._call = call
        self._executor = executor
        self._clock = clock
        self._audit = audit
        self._wake = wake
        self._attempts: dict[OrthancId, _Attempt] = {}
        self.told = 0

    def turn(self) -> list[WaitingNotice]:
        """Collect finished hooks, start due ones; return the waiting notices for the status file. Raises OSError."""
        waiting = self._notices.newest()
        self._forget(waiting)
        return [self._shown(notice, self._advance(notice)) for notice in waiting if self._waits(notice)]

    def hasten(self) -> None:
        """Make every waiting hook due now, at the request of the operator."""
        for attempt in self._attempts.values():
            attempt.due = 0.0

    def wait(self) -> float | None:
        """Return the seconds until a hook is due; None where none waits."""
        now = self._clock.monotonic()
        due = [one.due - now for one in self._attempts.values() if one.work is None]
        return max(0.0, min(due)) if due else None

    def _forget(self, waiting: list[Notice]) -> None:
        there = {notice.study for notice in waiting}
        self._attempts = {
            study: one for study, one in self._attempts.items() if study in there or one.work is not None
        }

    def _waits(self, notice: Notice) -> bool:
        """Collect the result of its hook; return False once it has succeeded."""
        attempt = self._attempts.setdefault(notice.study, _Attempt(notice.revision))
        if attempt.work is None or not attempt.work.done():
            return True
        work, attempt.work = attempt.work, None
        try:
            work.result()
        except HookStoppedError:
            return True
        except HookFailedError as error:
            self._failed(notice, attempt, str(error))
        else:
            self._succeeded(notice, attempt)
        return attempt.revision < notice.revision or bool(attempt.backoff.failures)

    def _succeeded(self, notice: Notice, attempt: _Attempt) -> None:
        """Remove the notice of the revision that the hook got; a newer one may wait already."""
        self._notices.done(replace(notice, revision=attempt.revision))
        self.told += 1
        attempt.backoff.succeeded()
        attempt.due, attempt.reason = 0.0, ""
        self._tell(Event.HOOK_DONE, f"the hook of rule {notice.route} was told", notice, attempt.revision)

    def _failed(self, notice: Notice, attempt: _Attempt, reason: str) -> None:
        attempt.reason = reason
        attempt.due = self._clock.monotonic() + attempt.backoff.failed()
        said = f"the hook of rule {notice.route} failed, and is tried again: {reason}"
        self._tell(Event.HOOK_FAILED, said, notice, attempt.revision)

    def _advance(self, notice: Notice) -> _Attempt:
        attempt = self._attempts[notice.study]
        if attempt.work is not None:
            return attempt
        hook = self._hooks.get(notice.route)
        if hook is None:
            attempt.reason = f"rule {notice.route} has no hook any more; forget it: ddwd hooks drop"
            attempt.due = self._clock.monotonic() + _LONGEST_RETRY_SECONDS
        elif self._clock.monotonic() >= attempt.due:
            attempt.revision = notice.revision
            attempt.work = self._executor.submit(self._call, hook, notice)
            attempt.work.add_done_callback(lambda _: self._wake())
        return attempt

    def _shown(self, notice: Notice, attempt: _Attempt) -> WaitingNotice:
        return WaitingNotice(
            study=notice.study,
            study_uid=notice.study_uid,
            route=notice.route,
            revision=notice.revision,
            since=notice.published_at,
            running=attempt.work is not None,
            failures=attempt.backoff.failures,
            reason=attempt.reason,
            seconds=round(max(0.0, attempt.due - self._clock.monotonic())),
            at=stamp(self._clock.utc()),
        )

    def _tell(self, event: Event, message: str, notice: Notice, revision: int) -> None:
        self._audit.record(event, message, study_uid=notice.study_uid, study=notice.study, revision=revision)
