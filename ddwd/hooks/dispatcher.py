"""Schedule the hooks of published studies; a failed hook is retried without end, because only a success removes its notice.

The hook of one study never runs twice at the same time. A slow hook occupies one of a few workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
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

_LONGEST_RETRY_SECONDS = 3600.0
_backoff = partial(Backoff, first=10.0, longest=_LONGEST_RETRY_SECONDS, factor=4.0)
"""The waits grow fast: a run may cost the other system much."""


@dataclass
class _Attempt:
    """State of a waiting notice; kept in memory only, so that every hook is tried at once after a restart."""

    revision: int
    backoff: Backoff = field(default_factory=_backoff)
    due: float = 0.0
    reason: str = ""
    work: Future[None] | None = None


@dataclass
class HookDispatcher:
    """Runs due hooks, one turn per call of `turn`; `call` runs one hook in the executor, and `wake` is called at its end."""

    hooks: Mapping[str, Hook]
    notices: HookQueue
    call: Callable[[Hook, Notice], None]
    executor: Executor
    clock: Clock
    audit: Audit
    wake: Callable[[], None]
    attempts: dict[OrthancId, _Attempt] = field(default_factory=dict, init=False)
    succeeded: int = field(default=0, init=False)
    """Hooks that have succeeded since the start."""

    def turn(self) -> list[WaitingNotice]:
        """Collect finished hooks, start due ones; return the waiting notices for the status file. Raises OSError."""
        waiting = self.notices.newest()
        studies = {notice.study for notice in waiting}
        self.attempts = {
            study: attempt for study, attempt in self.attempts.items() if study in studies or attempt.work
        }
        return [self._status(notice, self._advance(notice)) for notice in waiting if self._waits(notice)]

    def hasten(self) -> None:
        """Make every waiting hook due now, at the request of the operator."""
        for attempt in self.attempts.values():
            attempt.due = 0.0

    def wait(self) -> float | None:
        """Return the seconds until a hook is due; None where none waits."""
        due = [attempt.due for attempt in self.attempts.values() if attempt.work is None]
        return max(0.0, min(due) - self.clock.monotonic()) if due else None

    def _waits(self, notice: Notice) -> bool:
        """Collect the result of its hook; return False once it has succeeded."""
        attempt = self.attempts.setdefault(notice.study, _Attempt(notice.revision))
        if attempt.work is None or not attempt.work.done():
            return True
        work, attempt.work = attempt.work, None
        try:
            work.result()
        except HookStoppedError:
            return True
        except HookFailedError as error:
            attempt.reason = str(error)
            attempt.due = self.clock.monotonic() + attempt.backoff.failed()
            self._record(Event.HOOK_FAILED, f"failed, and is retried: {error}", notice, attempt)
        else:
            # of the revision that the hook got; a newer one may wait already
            self.notices.done(replace(notice, revision=attempt.revision))
            self.succeeded += 1
            attempt.backoff.succeeded()
            attempt.due, attempt.reason = 0.0, ""
            self._record(Event.HOOK_DONE, "has succeeded", notice, attempt)
        return attempt.revision < notice.revision or bool(attempt.backoff.failures)

    def _advance(self, notice: Notice) -> _Attempt:
        attempt = self.attempts[notice.study]
        if attempt.work is not None:
            return attempt
        hook = self.hooks.get(notice.route)
        if hook is None:
            attempt.reason = (
                f"route {notice.route} has no hook any more; to delete the notice: ddwd hooks drop"
            )
            attempt.due = self.clock.monotonic() + _LONGEST_RETRY_SECONDS
        elif self.clock.monotonic() >= attempt.due:
            attempt.revision = notice.revision
            attempt.work = self.executor.submit(self.call, hook, notice)
            attempt.work.add_done_callback(lambda _: self.wake())
        return attempt

    def _status(self, notice: Notice, attempt: _Attempt) -> WaitingNotice:
        return WaitingNotice(
            study=notice.study,
            study_uid=notice.study_uid,
            route=notice.route,
            revision=notice.revision,
            since=notice.published_at,
            running=attempt.work is not None,
            failures=attempt.backoff.failures,
            reason=attempt.reason,
            seconds=round(max(0.0, attempt.due - self.clock.monotonic())),
            at=stamp(self.clock.utc()),
        )

    def _record(self, event: Event, outcome: str, notice: Notice, attempt: _Attempt) -> None:
        self.audit.record(
            event,
            f"the hook of route {notice.route} {outcome}",
            study_uid=notice.study_uid,
            study=notice.study,
            revision=attempt.revision,
        )
