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

_KEPT_OUTPUT = 64 * 1024
_GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""
_SLICE_SECONDS = 0.5
_PASSED_ON = ("PATH", "LANG", "TZ")


class HookFailedError(Exception):
    """Why a hook did not succeed, without a word about a patient."""


class HookStoppedError(Exception):
    """ddwd-hooks is to stop: the hook was ended, and runs again after the next start."""


@dataclass(frozen=True, slots=True)
class Hook:
    """What a rule has done when a study is finished: one of both; `timeout` in seconds."""

    run: Path | None
    webhook: str | None
    timeout: float

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Hook:
        """From the rendered table. Raises KeyError, TypeError and ValueError."""
        run, webhook = entry["Run"], entry["Webhook"]
        return cls(Path(run) if run else None, webhook, float(entry["Timeout"]))


def run_hook(hook: Hook, notice: Notice, output: Path, stopping: threading.Event) -> None:
    """Run the hook; return once it has succeeded. Raises HookFailedError, HookStoppedError."""
    if hook.run is not None:
        _run(hook.run, hook.timeout, notice, output, stopping)
    elif hook.webhook is not None:
        _post(hook.webhook, hook.timeout, notice)


def environment(notice: Notice) -> dict[str, str]:
    """Return the environment of an executable."""
    kept = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    return kept | {
        f"DDWD_{key.upper()}": str(value) for key, value in asdict(notice).items() if key != "custody"
    }


def _run(executable: Path, timeout: float, notice: Notice, output: Path, stopping: threading.Event) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb+") as said:
        try:
            child = subprocess.Popen(
                [executable],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=environment(notice),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise HookFailedError(f"{executable} cannot be run ({error.strerror})") from error
        try:
            status = _waited(child, timeout, json.dumps(asdict(notice)).encode(), stopping)
        finally:
            _end(child)
            _cut(output)
    if status is None:
        raise HookFailedError(f"{executable} did not end within {timeout:g} s")
    if status:
        raise HookFailedError(f"{executable} ended with {_meant(status)}; what it said: {output}")


def _waited(
    child: subprocess.Popen[bytes], timeout: float, told: bytes, stopping: threading.Event
) -> int | None:
    """The exit status; None where it took too long. Raises HookStoppedError."""
    left = timeout
    pending: bytes | None = told
    while True:
        try:
            child.communicate(pending, timeout=min(_SLICE_SECONDS, left))
        except subprocess.TimeoutExpired:
            pending = None  # communicate goes on with what it was given first
            left -= _SLICE_SECONDS
            if stopping.is_set():
                raise HookStoppedError from None
            if left <= 0:
                return None
        else:
            return child.returncode


def _end(child: subprocess.Popen[bytes]) -> None:
    """End it, and whatever it has started."""
    for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        if child.returncode is not None:
            return
        with suppress(subprocess.TimeoutExpired):
            child.wait(patience)


def _cut(output: Path) -> None:
    """Keep the end of its output; without output no file is written."""
    size = output.stat().st_size
    if not size:
        output.unlink()
    elif size > _KEPT_OUTPUT:
        with output.open("rb") as file:
            file.seek(-_KEPT_OUTPUT, os.SEEK_END)
            kept = file.read()
        output.write_bytes(kept)


def _meant(status: int) -> str:
    return f"exit status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"


def _post(url: str, timeout: float, notice: Notice) -> None:
    """POST it. The URL may hold a secret, and is named by its host alone."""
    host = urlsplit(url).hostname
    try:
        answer = requests.post(url, json=asdict(notice), timeout=(10.0, timeout), allow_redirects=False)
    except requests.RequestException as error:
        raise HookFailedError(f"the webhook at {host} does not answer ({type(error).__name__})") from error
    if not answer.ok or answer.is_redirect:
        raise HookFailedError(f"the webhook at {host} answered HTTP {answer.status_code}")
