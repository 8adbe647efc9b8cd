"""Entry point of ddwd-inbox: send complete items of the drop folder to the gateway."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ddwd.config.loader import load
from ddwd.config.schema import Config
from ddwd.core import watchdog
from ddwd.core.audit import Audit
from ddwd.core.clock import SystemClock
from ddwd.core.errors import StateError
from ddwd.core.model import INBOX_AET
from ddwd.daemon.loop import Loop, TickResult, enter
from ddwd.dicom import nodes, store_scu
from ddwd.dicom.store_scu import Answer, Outgoing
from ddwd.inbox.processor import InboxProcessor, Stopped
from ddwd.inbox.scanner import InboxScanner, OpenFileTracker

log = logging.getLogger("ddwd.inbox")

_INTERVAL = 2.0
_SILENCE = 300.0  # seconds that the gateway may take over one image (store_scu)


class Inbox:
    """The processor of the drop folder and its loop. Raises OSError or DdwdError if the folder cannot be used."""

    def __init__(self, config: Config) -> None:
        self._config = config
        clock = SystemClock()
        self.loop = Loop(self._turn, _INTERVAL, breath=0.5)
        watchdog.install(self._alive)
        self._open_files = OpenFileTracker(config.inbox.folder, clock, self.loop.wake)
        self._scanner = InboxScanner(
            config.inbox.folder, config.inbox.settle, clock, self._open_files.writing
        )
        self._processor = InboxProcessor(
            config.inbox.folder, self._scanner, self._send, clock, Audit(), config.disk.reserve
        )
        self._processor.begin()
        self._logged = ""

    def _turn(self) -> TickResult:
        try:
            state = self._processor.turn()
            self._logged = ""
        except Stopped:
            return TickResult("stopping in the middle of an item, which stays")
        except OSError as error:
            state = f"the drop folder cannot be used: {error.strerror}"
            if state != self._logged:
                log.warning("%s", state)
            self._logged = state
        self._open_files.watch(folder for item in self._scanner.items for folder in item.folders)
        return TickResult(state)

    def _alive(self, wait: float) -> None:
        """The hook of core.watchdog. Raises Stopped."""
        if self.loop.stopping.is_set():
            raise Stopped
        self.loop.alive(max(wait, _SILENCE))

    def _send(self, outgoing: Sequence[Outgoing], answered: Callable[[Answer], None]) -> None:
        store_scu.send(nodes.gateway(self._config, INBOX_AET), outgoing, answered)


def main() -> int:
    """Run until stopped; return the exit status."""
    return enter("ddwd-inbox", _run, wanted=lambda: load().inbox.enabled)


def _run() -> None:
    config = load()
    folder = config.inbox.folder
    try:
        inbox = Inbox(config)
    except OSError as error:
        hint = f"install -d -o ddwd-inbox -g ddwd -m 2770 {folder}; see inbox.folder in ddwd.yaml"
        raise StateError(f"the drop folder {folder} cannot be used ({error.strerror}): {hint}") from error
    inbox.loop.serve()
