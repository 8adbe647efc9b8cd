"""The watchdog's ledger: who owes a sign of life, and until when."""

from __future__ import annotations

import threading

import pytest

from ddwd.core import watchdog
from ddwd.core.watchdog import ALLOWANCE_SECONDS, Watchdog
from ddwd.daemon.loop import Loop, TickResult
from tests.unit.fakes import FakeClock

WATCHDOG_SECONDS = 30.0


def in_thread(name: str, work: object) -> None:
    assert callable(work)
    thread = threading.Thread(target=work, name=name)
    thread.start()
    thread.join()


def test_silence_that_no_one_declared_is_shorter_than_the_watchdog() -> None:
    assert ALLOWANCE_SECONDS < WATCHDOG_SECONDS


def test_a_silent_thread_is_stuck_after_its_allowance_and_named() -> None:
    clock = FakeClock()
    progress = Watchdog(clock)
    in_thread("worker-1", progress.alive)
    clock.advance(ALLOWANCE_SECONDS)
    assert progress.stuck() == []
    clock.advance(0.1)
    assert progress.stuck() == ["worker-1"]


def test_a_declared_wait_is_not_silence_and_ends_with_the_next_sign() -> None:
    clock = FakeClock()
    progress = Watchdog(clock)
    progress.alive(3600.0)
    clock.advance(3600.0)
    assert progress.stuck() == []
    progress.alive()
    clock.advance(ALLOWANCE_SECONDS + 1)
    assert progress.stuck() == [threading.current_thread().name]


def test_an_idle_thread_owes_nothing_and_others_still_do() -> None:
    clock = FakeClock()
    progress = Watchdog(clock)
    in_thread("busy", progress.alive)
    progress.alive()
    progress.idle()
    clock.advance(1000.0)
    assert progress.stuck() == ["busy"]


def test_each_sign_reaches_the_hook_with_its_wait_and_what_the_hook_raises_ends_the_work() -> None:
    waits: list[float] = []
    watchdog.alive(5.0)
    watchdog.install(waits.append)
    watchdog.alive()
    watchdog.alive(60.0)
    assert waits == [0.0, 60.0]

    def stop(_wait: float) -> None:
        raise RuntimeError

    watchdog.install(stop)
    with pytest.raises(RuntimeError):
        watchdog.alive()
    watchdog.install()
    watchdog.alive()


def test_deferrable_work_is_that_of_one_thread_and_ends_with_its_block() -> None:
    elsewhere: list[bool] = []
    assert not watchdog.is_deferrable()
    with watchdog.deferrable():
        with watchdog.deferrable():
            assert watchdog.is_deferrable()
        assert watchdog.is_deferrable()
        in_thread("other", lambda: elsewhere.append(watchdog.is_deferrable()))
    assert elsewhere == [False]
    assert not watchdog.is_deferrable()
    with pytest.raises(RuntimeError), watchdog.deferrable():
        raise RuntimeError
    assert not watchdog.is_deferrable()


def test_a_stuck_worker_silences_the_loop() -> None:
    clock = FakeClock()
    progress = Watchdog(clock)
    said: list[str] = []
    turns = iter([0.0, ALLOWANCE_SECONDS + 1.0])

    def turn() -> TickResult:
        clock.advance(next(turns))
        loop.stop() if said and "WATCHDOG=1" in said[-1] else None
        return TickResult("working", healthy=not progress.stuck(), wait=0.0)

    loop = Loop(turn, 5.0, said.append)
    in_thread("worker", progress.alive)
    loop.run()
    assert said == ["READY=1", "STATUS=working\nWATCHDOG=1", "STATUS=working", "STOPPING=1"]
