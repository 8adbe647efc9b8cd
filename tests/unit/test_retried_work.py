"""Work that depends on another machine: done when it is woken, again after a failure, and not once it is to stop."""

from __future__ import annotations

import threading

from ddwd.monitoring.retried_work import RetriedWork

PATIENCE = 30.0


def test_after_a_failure_it_is_done_again_without_being_woken() -> None:
    outcomes, done = [False, False, True], threading.Event()

    def work() -> bool:
        outcome = outcomes.pop(0)
        if outcome:
            done.set()
        return outcome

    retried = RetriedWork("test", work, first=0.0, longest=0.0)
    retried.start()
    retried.wake()
    assert done.wait(PATIENCE)
    retried.stop()
    assert outcomes == []


def test_a_wait_after_a_failure_ends_at_once_when_it_is_to_stop_and_nothing_is_done_any_more() -> None:
    begun, calls = threading.Event(), []

    def work() -> bool:
        calls.append("one")
        begun.set()
        return False

    retried = RetriedWork("test", work, first=2 * PATIENCE, longest=2 * PATIENCE)
    retried.start()
    retried.wake()
    assert begun.wait(PATIENCE)
    retried.stop()
    retried.join(PATIENCE)
    assert not retried.is_alive()
    assert calls == ["one"]
