"""The work queue: each study once, the urgent ones first, and nobody pays for what is not due."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from ddwd.config.routing import Route, TagCondition
from ddwd.core.model import OrthancId
from ddwd.extractor.decision import Stage
from ddwd.extractor.work_queue import WorkQueue
from tests.unit.fakes import FakeClock, image
from tests.unit.portal import Portal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddwd.core.model import Study

A, B, C = (OrthancId("-".join([letter * 8] * 5)) for letter in "abc")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(clock: FakeClock) -> WorkQueue:
    return WorkQueue(clock)


def test_a_scheduled_study_is_due_once_and_not_before_its_time(queue: WorkQueue, clock: FakeClock) -> None:
    queue.schedule(A, 2.0)
    assert (queue.due(), queue.next_due()) == ([], 2.0)
    clock.advance(2.0)
    assert queue.next_due() == 0.0
    assert queue.due() == [A]
    assert (queue.due(), queue.next_due()) == ([], float("inf"))


def test_the_last_appointment_counts(queue: WorkQueue, clock: FakeClock) -> None:
    queue.schedule(A)
    queue.schedule(A, 5.0)
    assert (queue.due(), queue.next_due()) == ([], 5.0)
    queue.schedule(A, 1.0)
    clock.advance(1.0)
    assert queue.due() == [A]
    clock.advance(10.0)
    assert queue.due() == []


def test_the_higher_priority_goes_first(queue: WorkQueue, clock: FakeClock) -> None:
    queue.schedule(A, priority=0)
    queue.schedule(B, priority=10)
    queue.schedule(C, priority=-10)
    clock.advance(1.0)
    assert queue.due() == [B, A, C]


def test_a_change_brings_forward_as_far_as_allowed(queue: WorkQueue, clock: FakeClock) -> None:
    queue.schedule(A, 30.0, no_sooner=0.5)
    queue.schedule(B, 0.2, no_sooner=0.5)
    queue.hasten()
    assert queue.next_due() == pytest.approx(0.2)
    clock.advance(0.5)
    assert sorted(queue.due()) == [A, B]


def test_a_study_that_is_forgotten_is_not_due(queue: WorkQueue) -> None:
    queue.schedule(A)
    queue.forget(A)
    assert (queue.due(), queue.next_due()) == ([], float("inf"))


def test_what_moved_is_compared_before_what_is_suspected_and_each_once(queue: WorkQueue) -> None:
    queue.add(A)
    queue.add(B)
    queue.add(A)
    queue.add_moved([C])
    queue.add_moved([B])
    assert [queue.next_added() for _ in range(4)] == [B, C, A, None]
    assert not queue.has_added


def test_a_worker_that_ends_schedules_and_wakes(clock: FakeClock) -> None:
    woken = threading.Event()
    queue = WorkQueue(clock, woken.set)
    queue.schedule(A, 30.0)
    worker = threading.Thread(target=queue.work_ended, args=(A, 0))
    worker.start()
    worker.join()
    assert woken.is_set()
    assert queue.due() == [A]


def test_studies_that_are_not_due_cost_no_call_in_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty studies that no route takes are looked at every 30 s; the turns between ask neither Orthanc about them."""
    portal = Portal(tmp_path)
    portal.rule(Route("none", (TagCondition("PatientID", ("NOBODY",)),)))
    for number in range(1, 61):
        portal.deliver(image(study=number, number=1))
    portal.run(60)
    assert {study.stage for study in portal.open.values()} == {Stage.HELD}
    asked: list[OrthancId] = []
    for node in (portal.gateway, portal.storage):

        def study(one: OrthancId, real: Callable[[OrthancId], Study | None] = node.study) -> Study | None:
            asked.append(one)
            return real(one)

        monkeypatch.setattr(node, "study", study)
    for number in range(30):  # images of another study come all the time
        portal.deliver(image(study=99, number=number + 1))
        portal.run(2)
    asked = [one for one in asked if one != image(study=99, number=1).study_id]
    assert len(portal.open) == 61
    assert len(asked) <= 60 * 2 * 3  # of both Orthancs, every 30 s, in 120 turns
