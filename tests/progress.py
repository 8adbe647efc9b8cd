"""A pytest plugin (`-p tests.progress`): writes what starts and what ends to the file that DDWD_PROGRESS names, for tests/tiers.py.

One JSON object a line: `{"total": 1935}`, `{"begun": ID}`, `{"failed": ID, "text": WHY}`, `{"ended": ID, "outcome": "passed", "seconds": 0.1}`. With pytest-xdist
the controlling process alone writes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE = "DDWD_PROGRESS"


class Writer:
    """The one writer of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: dict[str, float] = {}
        self._outcome: dict[str, str] = {}

    def _write(self, **line: object) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """The number of tests, where no other process runs them."""
        if session.items:
            self._write(total=len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """The same from a worker of pytest-xdist; each has collected all."""
        self._write(total=len(ids))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._seconds[nodeid], self._outcome[nodeid] = 0.0, "passed"
        self._write(begun=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One of its three parts has ended; the worst outcome counts."""
        self._seconds[report.nodeid] += report.duration
        if report.outcome != "passed":
            self._outcome[report.nodeid] = report.outcome
            self._write(failed=report.nodeid, text=report.longreprtext)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test has ended."""
        outcome, seconds = self._outcome.pop(nodeid), self._seconds.pop(nodeid)
        self._write(ended=nodeid, outcome=outcome, seconds=round(seconds, 2))


def pytest_configure(config: pytest.Config) -> None:
    """Begin to write, but not in a worker."""
    name = os.environ.get(VARIABLE)
    if name and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Writer(Path(name)), "ddwd-progress")
