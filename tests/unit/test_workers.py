"""The extractor's workers: watched while they work, nothing new at a stop, broken off in bounded time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from ddwd.config.schema import Config
from ddwd.core import watchdog
from ddwd.core.clock import SystemClock
from ddwd.core.errors import PeerDownError
from ddwd.core.model import OrthancId, Study
from ddwd.core.watchdog import ALLOWANCE_SECONDS, Watchdog
from ddwd.extractor.steps.cmove import Arrivals, StorageMover
from ddwd.extractor.workers import Shutdown, Workers
from tests.unit.fakes import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STUDY = Study(OrthancId("x"), "1.2.3", "PAT", "", series=())


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Set at the end, so that no test leaves a thread."""
    event = threading.Event()
    yield event
    event.set()


def hang(begun: Callable[[], None], release: threading.Event) -> None:
    """Say that the work has begun, and do not come back until the test says so."""
    begun()
    release.wait(20)


def test_a_worker_that_hangs_is_named_and_one_that_is_done_owes_nothing(release: threading.Event) -> None:
    clock = FakeClock()
    progress = Watchdog(clock)
    woken = threading.Event()
    workers = Workers(progress, woken.set)
    assert workers.submit(lambda: 7).result(5) == 7
    assert woken.wait(5)
    began = threading.Event()
    workers.submit(lambda: hang(began.set, release))
    assert began.wait(5)
    clock.advance(ALLOWANCE_SECONDS + 1)
    (name,) = progress.stuck()
    assert name.startswith("ddwd-retrieve")
    release.set()
    assert workers.finish(5)
    assert progress.stuck() == []


def test_a_stop_begins_nothing_new_and_waits_for_what_runs(release: threading.Event) -> None:
    workers = Workers(Watchdog(FakeClock()), lambda: None)
    began = threading.Semaphore(0)
    running = [workers.submit(lambda: hang(began.release, release)) for _ in range(2)]
    waiting = workers.submit(lambda: pytest.fail("begun after the stop"))
    for _ in running:
        assert began.acquire(timeout=5)
    threading.Timer(0.2, release.set).start()
    assert workers.finish(5)
    assert all(one.done() for one in running)
    assert waiting.cancelled()


def test_a_worker_that_does_not_end_is_left_behind_in_time(release: threading.Event) -> None:
    workers = Workers(Watchdog(FakeClock()), lambda: None)
    began = threading.Event()
    workers.submit(lambda: hang(began.set, release))
    assert began.wait(5)
    start = time.monotonic()
    assert not workers.finish(0.2)
    assert time.monotonic() - start < 2


def test_the_grace_begins_with_the_wish_and_then_all_is_broken_off() -> None:
    clock, asked = FakeClock(), threading.Event()
    shutdown = Shutdown(asked, clock)
    clock.advance(1000)
    shutdown.check()
    assert not shutdown.cut.is_set()
    asked.set()
    shutdown.check()
    clock.advance(4.9)
    shutdown.check()
    assert not shutdown.cut.is_set()
    clock.advance(0.2)
    with pytest.raises(PeerDownError):
        shutdown.check()
    assert shutdown.cut.is_set()


def test_work_that_can_be_deferred_ends_as_soon_as_a_stop_is_asked_for() -> None:
    asked = threading.Event()
    shutdown = Shutdown(asked, FakeClock())
    with watchdog.deferrable():
        shutdown.check()
        asked.set()
        with pytest.raises(PeerDownError):
            shutdown.check()
    shutdown.check()
    assert not shutdown.cut.is_set()


def test_no_move_begins_after_the_wish_to_stop(tmp_path: Path) -> None:
    asked = threading.Event()
    clock = SystemClock()
    mover = StorageMover(Config(), tmp_path, Watchdog(clock), Shutdown(asked, clock))
    asked.set()
    with pytest.raises(PeerDownError, match="the extractor stops"):
        mover.move(STUDY, [], ["1.2.3.4"], lambda: None)


def test_an_object_that_grows_is_progress_and_one_that_does_not_is_none(tmp_path: Path) -> None:
    clock = FakeClock()
    arrivals = Arrivals(tmp_path, clock.monotonic)
    assert arrivals.last() == 0.0
    part = tmp_path / "a.part"
    part.write_bytes(b"1")
    grew = clock.monotonic()
    assert arrivals.last() == grew
    clock.advance(10)
    assert arrivals.last() == grew
    part.write_bytes(b"12")
    assert arrivals.last() == clock.monotonic()
    part.unlink()
    clock.advance(10)
    assert arrivals.last() == clock.monotonic() - 10
    tmp_path.rmdir()
    assert arrivals.last() == clock.monotonic() - 10
