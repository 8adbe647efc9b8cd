"""Entry point of ddwd-hooks: runs the hooks of rules for published studies. Runs as user ddwd-hooks.

It knows no more than it needs: not the settings, which hold passwords, but the table of hooks that ddwd-provision renders from them.
"""

from __future__ import annotations

import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.core.audit import Audit
from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import DdwdError, StateError
from ddwd.daemon import file_watch
from ddwd.daemon.loop import Loop, TickResult
from ddwd.daemon.service_main import FAILED, SKIP
from ddwd.hooks.dispatcher import Hook, HookDispatcher, run_hook
from ddwd.store.hook_queue import HookQueue
from ddwd.store.status_files import HOOKS, HooksStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddwd.store.hook_queue import Notice

log = logging.getLogger("ddwd.hooks")

_INTERVAL = 30.0
_AT_ONCE = 4


class HooksDaemon:
    """The parts, and the loop they run in."""

    def __init__(self, hooks: Mapping[str, Hook], folder: Path, status: Path) -> None:
        self._clock = SystemClock()
        self._status = status
        self._notices = HookQueue(folder)
        self.loop = Loop(self._turn, _INTERVAL, breath=0.1)
        self._output = folder / "output"
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="hook")
        self._dispatcher = HookDispatcher(
            hooks, self._notices, self._tell, self._pool, self._clock, Audit(), self.loop.wake
        )

    def run(self) -> None:
        """Run until stopped; hooks that run then are ended, and run again after the next start."""
        ears = file_watch.listen([self._notices.waiting], self.loop.wake)
        self.loop.listen()
        try:
            self.loop.run()
        finally:
            self._pool.shutdown(cancel_futures=True)
            ears.stop()

    def _tell(self, hook: Hook, notice: Notice) -> None:
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
        HOOKS.write_volatile(self._status, status)
        failed = sum(bool(one.failures) for one in waiting)
        return TickResult(
            f"{self._dispatcher.succeeded} succeeded, {len(waiting)} wait, {failed} failed",
            wait=self._dispatcher.wait(),
        )


def main() -> int:
    """Run until stopped. Arguments: the table, the folder, the status file; `--wanted TABLE` only answers whether there is a hook."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    words = sys.argv[1:]
    asked = words[:1] == ["--wanted"]
    try:
        if asked:
            return 0 if read_table(Path(words[1])) else SKIP
        table, folder, status = map(Path, words)
        HooksDaemon(read_table(table), folder, status).run()
    except DdwdError as error:
        sys.stderr.write(f"ddwd-hooks: {error}\n")
        return FAILED if asked else error.exit_status
    return 0


def read_table(path: Path) -> dict[str, Hook]:
    """Rule -> its hook; none where there is no table. Raises StateError."""
    try:
        return {name: Hook.read(entry) for name, entry in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{path} cannot be used; systemctl restart ddwd-provision writes it anew") from error


if __name__ == "__main__":
    sys.exit(main())
