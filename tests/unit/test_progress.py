"""The watchdog's ledger: who owes a sign of life, and until when."""

from __future__ import annotations

import threading

from ddwd.core.watchdog import ALLOWANCE_SECONDS, Watchdog
from ddwd.daemon.loop import Beat, Loop
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


def test_a_stuck_worker_silences_the_loop() -> None:
    clock = FakeClock()
    progress = Watchdog(clock)
    said: list[str] = []
    turns = iter([0.0, ALLOWANCE_SECONDS + 1.0])

    def turn() -> Beat:
        clock.advance(next(turns))
        loop.stop() if said and "WATCHDOG=1" in said[-1] else None
        return Beat("working", healthy=not progress.stuck(), wait=0.0)

    loop = Loop(turn, 5.0, said.append)
    in_thread("worker", progress.alive)
    loop.run()
    assert said == ["READY=1", "STATUS=working\nWATCHDOG=1", "STATUS=working", "STOPPING=1"]
