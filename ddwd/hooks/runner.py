"""Run one hook once: an executable with the notice on standard input, or an HTTP POST of the notice.

An executable gets environment and standard input, but no arguments: the path of a study may contain a PatientID, and every user sees
arguments. Its output is kept beside the queue, never in the log, because it may name a patient.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddwd.store.hook_queue import Notice

_MOST_OUTPUT = 64 * 1024
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
    try:
        answer = requests.post(url, json=asdict(notice), timeout=(10.0, timeout), allow_redirects=False)
    except requests.RequestException as error:
        raise HookFailedError(f"the webhook at {host} does not answer ({type(error).__name__})") from error
    if not answer.ok or answer.is_redirect:
        raise HookFailedError(f"the webhook at {host} answered HTTP {answer.status_code}")
