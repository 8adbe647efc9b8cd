"""Run the hooks of published studies: an executable with the notice on standard input, or an HTTP POST of the notice.

A failed hook is retried without end, because only a success removes its notice. The hook of one study never runs twice at the same time;
a slow hook occupies one of a few workers. An executable gets environment and standard input, but no arguments: the path of a study may
contain a PatientID, and every user sees arguments. Its output is kept beside the queue, never in the log, because it may name a patient.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests

from ddwd.core.audit import Audit, Event
from ddwd.core.clock import Clock, stamp
from ddwd.core.retry import Backoff
from ddwd.store.status_files import WaitingNotice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor, Future

    from ddwd.core.model import OrthancId
    from ddwd.store.hook_queue import HookQueue, Notice

_LONGEST_RETRY_SECONDS = 3600.0
_backoff = partial(Backoff, first=10.0, longest=_LONGEST_RETRY_SECONDS, factor=4.0)
"""The waits grow fast: a run may cost the other system much."""
_MOST_OUTPUT = 64 * 1024
_TAKEN = range(200, 300)
"""HTTP statuses of a notice that was accepted; a redirection, which is not followed, is none."""
_GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""
_SLICE_SECONDS = 0.5


class HookFailedError(Exception):
    """Why a hook did not succeed, without a word about a patient."""


class HookStoppedError(Exception):
    """ddwd-hooks is to stop: the hook was ended, and runs again after the next start."""


@dataclass(frozen=True, slots=True)
class Hook:
    """The hook of a route: an executable or a webhook; `timeout` in seconds."""

    run: Path | None
    webhook: str | None
    timeout: float

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Hook:
        """From the rendered table. Raises KeyError, TypeError and ValueError."""
        run = entry["Run"]
        return cls(Path(run) if run else None, entry["Webhook"], float(entry["Timeout"]))


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
        self.attempts = {key: one for key, one in self.attempts.items() if key in studies or one.work}
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
            attempt.reason = f"route {notice.route} has no hook any more; delete the notice: ddwd hooks drop"
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


def run_hook(hook: Hook, notice: Notice, output: Path, stopping: threading.Event) -> None:
    """Run the hook; return once it has succeeded. Raises HookFailedError, HookStoppedError."""
    if hook.run is not None:
        _run(hook.run, hook.timeout, notice, output, stopping)
    elif hook.webhook is not None:
        _post(hook.webhook, hook.timeout, notice)


def environment(notice: Notice) -> dict[str, str]:
    """Return the environment of an executable."""
    inherited = {key: os.environ[key] for key in ("PATH", "LANG", "TZ") if key in os.environ}
    fields = {key: value for key, value in asdict(notice).items() if key != "custody"}
    return inherited | {f"DDWD_{key.upper()}": str(value) for key, value in fields.items()}


def _run(executable: Path, timeout: float, notice: Notice, output: Path, stopping: threading.Event) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as written:
        try:
            child = subprocess.Popen(
                [executable],
                stdin=subprocess.PIPE,
                stdout=written,
                stderr=subprocess.STDOUT,
                env=environment(notice),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise HookFailedError(f"{executable} cannot be run ({error.strerror})") from error
        try:
            status = _wait(child, timeout, json.dumps(asdict(notice)).encode(), stopping)
        finally:
            _end(child)
            _cut(output)
    if status is None:
        raise HookFailedError(f"{executable} did not end within {timeout:g} s")
    if status:
        cause = f"exit status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
        raise HookFailedError(f"{executable} ended with {cause}; its output: {output}")


def _wait(
    child: subprocess.Popen[bytes], timeout: float, content: bytes, stopping: threading.Event
) -> int | None:
    """Return the exit status; None if it took too long. `content` is its standard input. Raises HookStoppedError."""
    left = timeout
    pending: bytes | None = content
    while True:
        try:
            child.communicate(pending, timeout=min(_SLICE_SECONDS, left))
        except subprocess.TimeoutExpired:
            pending = None  # communicate continues with the input of its first call
            left -= _SLICE_SECONDS
            if stopping.is_set():
                raise HookStoppedError from None
            if left <= 0:
                return None
        else:
            return child.returncode


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the executable and all processes that it has started."""
    for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        if child.returncode is not None:
            return
        with suppress(subprocess.TimeoutExpired):
            child.wait(patience)


def _cut(output: Path) -> None:
    """Keep the end of its output; without output keep no file."""
    size = output.stat().st_size
    if not size:
        output.unlink()
    elif size > _MOST_OUTPUT:
        with output.open("rb") as file:
            file.seek(-_MOST_OUTPUT, os.SEEK_END)
            end = file.read()
        output.write_bytes(end)


def _post(url: str, timeout: float, notice: Notice) -> None:
    """POST the notice. The URL may contain a secret: messages name its host only."""
    host = urlsplit(url).hostname
    with requests.Session() as session:
        session.trust_env = False  # neither a proxy nor a login of the environment is the operator's choice
        try:
            answer = session.post(url, json=asdict(notice), timeout=(10.0, timeout), allow_redirects=False)
        except requests.RequestException as error:
            raise HookFailedError(
                f"the webhook at {host} does not answer ({type(error).__name__})"
            ) from error
    if answer.status_code not in _TAKEN:
        raise HookFailedError(f"the webhook at {host} answered HTTP {answer.status_code}")
