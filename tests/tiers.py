"""`python -m tests.tiers test|certify`: what the two tiers consist of, run side by side, with progress and one table at the end.

Called by `make test` and `make certify`. Each step is a target of the Makefile and can be run alone. The steps of one lane
follow each other, the lanes run at the same time. What a step prints goes to build/tests/STEP.log; the log of one that fails is shown.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.progress import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

REPO = Path(__file__).resolve().parents[1]
LOGS = REPO / "build" / "tests"
PROMISES = (
    "test_upgrade", "test_senders", "test_recovery", "test_backup", "test_sight", "test_doctor", "test_retention",
    "test_tls", "test_audit", "test_door", "test_install", "test_delivery",
)  # fmt: skip
"""The modules of tests/appliance that `make test` runs, the longest first; `make certify` runs the others."""
LONGEST = (
    "test_hostile", "test_readme", "test_monitor", "test_destinations", "test_watchdog", "test_several", "test_ports",
    "test_local_users", "test_faults", "test_lifecycle", "test_confinement", "test_roles", "test_oracle",
)  # fmt: skip
"""Of the others, what takes long and so begins first."""
TIERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "test": (("lint", "unit COVERAGE=1", "integration COVERAGE=1", "coverage"), ("machines",)),
    "certify": (
        ("unit-deep", "docs", "audit", "fuzz"),
        ("machines-certify",),
        ("newcomers",),
        ("traffic", "bench QUICK=1"),
    ),
}
"""Tier -> lanes -> make targets. The last lane of certify needs the machine for itself, and waits until it is alone."""
ALONE = "traffic"
MAKE = ("make", "--no-print-directory", "--old-file=deb", "--old-file=venv", "--old-file=node")
"""The tools and the package were made before the first step, and stay as they are while steps use them."""
_EVERY_SECONDS = 20.0
_TAIL = 400
_SLOWEST = 10


@dataclass(slots=True)
class Step:
    """One make target at work, and what its tests have reported so far."""

    target: str
    began: float = 0.0
    seconds: float = 0.0
    status: int | None = None
    total: int = 0
    running: dict[str, float] = field(default_factory=dict)
    ended: list[tuple[float, str, str]] = field(default_factory=list)
    news: deque[str] = field(default_factory=deque)
    _read: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _looking: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """The target without its variables."""
        return self.target.split()[0]

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return LOGS / f"{self.name}.log"

    @property
    def _progress(self) -> Path:
        return LOGS / f"{self.name}.jsonl"

    @property
    def failed(self) -> list[str]:
        """The tests that did not pass."""
        return [test for _, outcome, test in self.ended if outcome != "passed"]

    def run(self) -> None:
        """Run it to its end."""
        for old in (self.log, self._progress):
            old.unlink(missing_ok=True)
        own = {VARIABLE: str(self._progress), "PYTEST_ADDOPTS": "-p tests.progress"}
        self.began = time.monotonic()
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [*MAKE, *self.target.split()],
                cwd=REPO, env=os.environ | own, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
            status = self._process.wait()
        self.look()
        self.seconds = time.monotonic() - self.began
        self.status = status

    def end(self) -> None:
        """End it before its time, with all that it started."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)

    def look(self) -> None:
        """Read what its tests have reported since the last look."""
        if not self._progress.exists():
            return
        # the thread that runs the step looks once more at its end
        with self._looking, self._progress.open(encoding="utf-8") as file:
            file.seek(self._read)
            while (line := file.readline()).endswith("\n"):
                self._read = file.tell()
                self.take(json.loads(line))

    def take(self, line: dict[str, Any]) -> None:
        """One line of what tests.progress writes."""
        if "total" in line:
            self.total = line["total"]
        elif "begun" in line:
            self.running[line["begun"]] = time.monotonic()
        elif "failed" in line:
            self.news.append(f"FAILED {line['failed']}\n{line['text']}")
        else:
            self.running.pop(line["ended"], None)
            self.ended.append((line["seconds"], line["outcome"], line["ended"]))

    def state(self, now: float) -> str:
        """How far it is, since when, and which test has been running the longest."""
        text = f"{self.name} {now - self.began:.0f} s"
        if self.total:
            text += f" {len(self.ended)}/{self.total}"
        if self.failed:
            text += f" {len(self.failed)} FAILED"
        if self.running:
            oldest = min(self.running, key=self.running.__getitem__)
            text += f" ({oldest.rpartition('/')[2]} {now - self.running[oldest]:.0f} s)"
        return text


class Run:
    """One tier at work."""

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.lanes = [[Step(target) for target in lane] for lane in TIERS[tier]]
        self.steps = [step for lane in self.lanes for step in lane]
        self.began = time.monotonic()
        self._lock = threading.Lock()
        self._ended = False

    def go(self) -> int:
        """Run all lanes, those that need the machine for themselves last; 0 if every step passed."""
        LOGS.mkdir(parents=True, exist_ok=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        together = [lane for lane in self.lanes if lane[0].name != ALONE]
        for group in (together, [lane for lane in self.lanes if lane not in together]):
            threads = [threading.Thread(target=self._run_lane, args=(lane,)) for lane in group]
            for one in threads:
                one.start()
            try:
                self._report_until_ended(threads)
            except KeyboardInterrupt:
                self._ended = True
                for step in self.steps:
                    step.end()
                return 130
        self._table()
        return int(any(step.status for step in self.steps))

    def _run_lane(self, lane: Sequence[Step]) -> None:
        for step in lane:
            if self._ended:
                return
            step.run()
            self._tell_news(step)
            self._say(f"{step.name}: {'passed' if step.status == 0 else 'FAILED'} in {step.seconds:.0f} s")
            if step.status:
                lines = step.log.read_text(encoding="utf-8", errors="replace").splitlines()
                self._say("\n".join(lines[-_TAIL:]))

    def _report_until_ended(self, threads: Sequence[threading.Thread]) -> None:
        due = time.monotonic() + _EVERY_SECONDS
        while any(one.is_alive() for one in threads):
            threads[0].join(0.5) if threads[0].is_alive() else time.sleep(0.5)
            if time.monotonic() < due:
                continue
            due = time.monotonic() + _EVERY_SECONDS
            at_work = [step for step in self.steps if step.began and step.status is None]
            for step in at_work:
                step.look()
                self._tell_news(step)
            now = time.monotonic()
            self._say(" · ".join(step.state(now) for step in at_work))

    def _tell_news(self, step: Step) -> None:
        """Show each failure once."""
        with suppress(IndexError):
            while True:
                self._say(step.news.popleft())

    def _say(self, text: str) -> None:
        with self._lock:
            print(f"[{self.tier} +{time.monotonic() - self.began:.0f} s] {text}", flush=True)  # noqa: T201 - for people

    def _table(self) -> None:
        """Step, tests, time, outcome; the slowest tests; what failed; and the line that CI counts."""
        rows = [(step.name, str(len(step.ended) or ""), f"{step.seconds:.0f} s",
                 "passed" if step.status == 0 else "FAILED") for step in self.steps]  # fmt: skip
        print(f"\n{'step':18} {'tests':>6} {'time':>8}  outcome")  # noqa: T201
        for name, tests, seconds, outcome in rows:
            print(f"{name:18} {tests:>6} {seconds:>8}  {outcome}")  # noqa: T201
        ended = [one for step in self.steps for one in step.ended]
        print(f"\nthe {_SLOWEST} slowest tests")  # noqa: T201
        for took, _, test in sorted(ended, reverse=True)[:_SLOWEST]:
            print(f"{took:7.1f} s  {test}")  # noqa: T201
        failed = [test for step in self.steps for test in step.failed]
        for test in failed:
            print(f"FAILED {test}")  # noqa: T201
        print(f"\nmake {self.tier}: {time.monotonic() - self.began:.0f} s")  # noqa: T201
        print(f"{len(ended) - len(failed)} passed, {len(failed)} failed", flush=True)  # noqa: T201


def is_certify(module: str, name: str) -> bool:
    """Whether an appliance test is left to `make certify`."""
    if module == "test_faults":
        return "six_rounds" in name
    return module not in PROMISES and not is_alone(module)


def is_alone(module: str) -> bool:
    """Whether an appliance test says something only if nothing else is at work: `make traffic`."""
    return module == "test_normal_traffic"


def rank(module: str) -> int:
    """Where a module of machine tests stands in the order of the run: the longest first."""
    order = (*LONGEST, *PROMISES)
    return order.index(module) if module in order else len(order)


if __name__ == "__main__":
    sys.exit(Run(sys.argv[1]).go())
