"""The main loop of the daemons: what it tells systemd, and when it ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ddwd.daemon.loop import Loop, TickResult

TURNS = 3


class Watched:
    """A loop with WatchdogSec=30 whose words are kept; `cycle` ends it after three turns."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, healthy: bool = True, watchdog: str = "30000000"
    ) -> None:
        monkeypatch.setenv("WATCHDOG_USEC", watchdog)
        self.said: list[str] = []
        self.turns = 0
        self._healthy = healthy
        self.loop = Loop(self._cycle, 60.0, self.said.append)

    def _cycle(self) -> TickResult:
        self.turns += 1
        if self.turns == TURNS:
            self.loop.stop()
        return TickResult("words", healthy=self._healthy, wait=0.0)


def test_each_healthy_turn_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.loop.run()
    assert watched.said == ["READY=1", *["STATUS=words\nWATCHDOG=1"] * TURNS, "STOPPING=1"]


def test_an_unhealthy_turn_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, healthy=False)
    watched.loop.run()
    assert not any("WATCHDOG" in words for words in watched.said)


def test_a_long_turn_signs_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    for _ in range(1000):
        watched.loop.alive()
    assert watched.said == ["WATCHDOG=1"]


def test_a_wait_longer_than_the_watchdog_stretches_it_until_the_next_sign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(monkeypatch)
    watched.loop.alive(60.0)
    watched.loop.alive()
    watched.loop.alive()
    assert watched.said == ["WATCHDOG_USEC=90000000\nWATCHDOG=1", "WATCHDOG_USEC=30000000\nWATCHDOG=1"]


def test_a_short_wait_leaves_the_watchdog_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.loop.alive(23.0)
    assert watched.said == ["WATCHDOG=1"]


def test_without_a_watchdog_nothing_is_stretched(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, watchdog="")
    watched.loop.alive(600.0)
    assert watched.said == ["WATCHDOG=1"]


@pytest.mark.parametrize(("watchdog", "waited"), [("30000000", 10.0), ("", 3600.0)])
def test_a_long_interval_does_not_starve_the_watchdog(
    monkeypatch: pytest.MonkeyPatch, watchdog: str, waited: float
) -> None:
    assert Watched(monkeypatch, watchdog=watchdog).loop._idle(3600.0) == waited


def test_stop_ends_the_loop_after_the_turn_at_hand_and_is_seen_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.loop.stop()
    assert watched.loop.stopping.is_set()
    watched.loop.run()
    assert watched.said == ["READY=1", "STOPPING=1"]


def test_sigabrt_prints_where_every_thread_is() -> None:
    program = """
import os, signal, threading, time
from ddwd.daemon.loop import TickResult, Loop
def hang_here():
    time.sleep(60)
threading.Thread(target=hang_here, daemon=True).start()
Loop(lambda: TickResult(""), 1.0, print).listen()
os.kill(os.getpid(), signal.SIGABRT)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == -signal.SIGABRT
    assert "hang_here" in done.stderr
    assert "most recent call first" in done.stderr


def test_what_rings_in_between_is_served_by_one_cycle_after_a_breath(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    waited: list[float | None] = []
    turns: list[int] = []

    def cycle() -> TickResult:
        turns.append(len(waited))
        if len(turns) == TURNS:
            loop.stop()
        loop.wake()
        loop.wake()
        return TickResult("")

    def breathe(seconds: float | None) -> bool:
        waited.append(seconds)
        return loop.stopping.is_set()

    loop = Loop(cycle, 60.0, lambda _text: None, breath=0.5)
    monkeypatch.setattr(loop.stopping, "wait", breathe)
    loop.run()
    assert turns == [0, 1, 2]
    assert waited == [0.5, 0.5, 0.5]
