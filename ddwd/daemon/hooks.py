"""Entry point of ddwd-hooks: run the hooks of routes for published studies. Runs as user ddwd-hooks.

Reads only the table of hooks that ddwd-provision renders, not the settings, which contain passwords.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ddwd.core.audit import Audit
from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import DdwdError, StateError
from ddwd.daemon import file_watch
from ddwd.daemon.loop import Loop, TickResult, enter
from ddwd.hooks.dispatcher import Hook, HookDispatcher, run_hook
from ddwd.store.hook_queue import HookQueue, Notice
from ddwd.store.rejected_files import RejectedFiles
from ddwd.store.status_files import HOOKS, HooksStatus

log = logging.getLogger("ddwd.hooks")

_INTERVAL = 30.0
_AT_ONCE = 4


class HooksDaemon:
    """The dispatcher and its loop."""

    def __init__(self, hooks: Mapping[str, Hook], folder: Path, status: Path) -> None:
        self._clock = SystemClock()
        self._status = status
        self._notices = HookQueue(folder, RejectedFiles("notice"))
        self.loop = Loop(self._turn, _INTERVAL, breath=0.1)
        self._output = folder / "output"
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="hook")
        self._dispatcher = HookDispatcher(
            hooks, self._notices, self._run_hook, self._pool, self._clock, Audit(), self.loop.wake
        )

    def run(self) -> None:
        """Run until stopped; hooks that run at that time are killed, and run again after the next start."""
        try:
            file_watch.serve(self.loop, self._notices.waiting)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _run_hook(self, hook: Hook, notice: Notice) -> None:
        run_hook(hook, notice, self._output / f"{notice.study}.txt", self.loop.stopping)

    def _turn(self) -> TickResult:
        if self._notices.take_retry_request():
            self._dispatcher.hasten()
        try:
            waiting = self._dispatcher.turn()
        except (OSError, DdwdError) as error:
            log.warning("the queue of hooks cannot be used: %s", getattr(error, "strerror", None) or error)
            return TickResult("the queue of hooks cannot be used", wait=5.0)
        status = HooksStatus(stamp(self._clock.utc()), self._dispatcher.succeeded, tuple(waiting))
        HOOKS.write_status(self._status, status)
        failed = sum(bool(one.failures) for one in waiting)
        state = f"{self._dispatcher.succeeded} hooks have succeeded, {len(waiting)} wait, {failed} failed"
        return TickResult(state, wait=self._dispatcher.wait())


def main() -> int:
    """Run until stopped. Arguments: the table, the folder, the status file; `--wanted TABLE` only answers whether there is a hook."""
    return enter("ddwd-hooks", _run, wanted=lambda: bool(_read_table(Path(sys.argv[2]))))


def _run() -> None:
    table, folder, status = map(Path, sys.argv[1:])
    HooksDaemon(_read_table(table), folder, status).run()


def _read_table(path: Path) -> dict[str, Hook]:
    """Return route -> its hook; empty if there is no table. Raises StateError."""
    try:
        return {name: Hook.read(entry) for name, entry in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{path} cannot be used; systemctl restart ddwd-provision writes it anew") from error
