"""The sweep's promises: every study is compared again and again, in a bounded share of the time, what was finished last first."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.core.errors import PeerDownError
from ddwd.extractor.sweep import Sweep
from ddwd.store.operator_requests import Request
from tests.unit.fakes import FakeClock, FakeOrthanc, Image, InlineExecutor, image
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ddwd.core.model import OrthancId

COMPARISON_SECONDS = 0.002
ROUND_SECONDS = 300.0


@dataclass
class Archive:
    """So many studies on both Orthancs, each compared in 2 ms; keeps the order and the time of the comparisons."""

    studies: int
    clock: FakeClock = field(default_factory=FakeClock)
    compared: list[OrthancId] = field(default_factory=list)
    wrong: set[OrthancId] = field(default_factory=set)
    recent: list[OrthancId] = field(default_factory=list)
    recorded: list[OrthancId] = field(default_factory=list)
    busy: float = 0.0
    rounds: int = 0
    suspects: list[OrthancId] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.images = [
            Image("PAT1", f"1.2.{number}", f"1.2.{number}.1", f"1.2.{number}.1.1", b"")
            for number in range(1, self.studies + 1)
        ]
        self.gateway = FakeOrthanc("gateway", self.clock)
        self.storage = FakeOrthanc("storage", self.clock)
        for node in (self.gateway, self.storage):
            node.store(*self.images)
        self.sweep = Sweep(
            (self.gateway, self.storage),
            self._suspects,
            lambda: self.recent,
            InlineExecutor(),
            self.clock,
            lambda: iter(self.recorded),
        )

    @property
    def ids(self) -> list[OrthancId]:
        return sorted(one.study_id for one in self.images)

    def _suspects(self, studies: Sequence[OrthancId]) -> list[OrthancId]:
        self.compared += studies
        self.clock.advance(COMPARISON_SECONDS * len(studies))
        self.busy += COMPARISON_SECONDS * len(studies)
        return [study for study in studies if study in self.wrong]

    def run(self, seconds: float) -> None:
        """As the loop does: it waits as long as the sweep wants, and at most 5 s."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            suspects, ended = self.sweep.step()
            self.suspects += suspects
            self.rounds += ended
            self.clock.advance(min(5.0, self.sweep.wait() + 0.001))


def test_a_small_archive_is_compared_within_a_second_of_the_start_and_again_every_five_minutes() -> None:
    archive = Archive(300)
    archive.run(1.5)
    assert archive.compared == archive.ids
    archive.run(ROUND_SECONDS)
    assert archive.compared == archive.ids * 2


def test_a_study_on_both_orthancs_is_compared_once_in_a_round_and_one_on_either_too() -> None:
    archive = Archive(5)
    here, there = image(101), image(102)
    archive.gateway.store(here)
    archive.storage.store(there)
    archive.run(1)
    assert archive.compared == sorted([*archive.ids, here.study_id, there.study_id])


def test_a_large_archive_takes_a_twentieth_of_the_time_and_is_gone_through_all_the_same() -> None:
    archive = Archive(5000)
    archive.run(20)  # the haste of the start is over
    before, began = archive.busy, archive.clock.now
    archive.run(100)
    assert (archive.busy - before) / (archive.clock.now - began) == pytest.approx(1 / 20, rel=0.1)
    archive.run(100)
    assert set(archive.compared) == set(archive.ids)
    assert archive.rounds == 1


def test_what_was_finished_last_is_compared_first_after_a_start_and_after_a_fault() -> None:
    archive = Archive(3000)
    archive.recent = [archive.ids[2000], archive.ids[1000]]
    archive.sweep.hasten()
    archive.run(0.1)
    assert archive.compared[:2] == archive.recent
    done = len(archive.compared)
    archive.recent = [archive.ids[1500]]
    archive.sweep.hasten()
    archive.run(0.5)
    assert archive.ids[1500] in archive.compared[done : done + 101]


def test_faults_without_end_do_not_keep_the_round_from_its_end() -> None:
    archive = Archive(5000)
    for _ in range(20):
        archive.sweep.hasten()
        archive.run(1)
    assert set(archive.compared) == set(archive.ids)


def test_what_was_compared_before_a_fault_is_compared_after_it_at_once() -> None:
    archive = Archive(500)
    archive.run(0.3)
    assert 0 < len(archive.compared) < 500
    archive.sweep.hasten()
    done = len(archive.compared)
    archive.run(10)
    assert set(archive.compared[done:]) == set(archive.ids)


def test_the_operator_has_everything_compared_without_a_rest() -> None:
    archive = Archive(5000)
    archive.run(30)
    done = len(archive.compared)
    archive.sweep.everything()
    archive.run(21)
    assert archive.compared[done:][-5000:] == archive.ids


def test_what_looks_wrong_is_a_suspect_and_the_others_are_compared() -> None:
    archive = Archive(250)
    archive.wrong = {archive.ids[3], archive.ids[240]}
    archive.run(2)
    assert set(archive.suspects) == archive.wrong
    assert archive.compared == archive.ids


def test_an_orthanc_that_goes_away_while_it_lists_hides_no_study() -> None:
    archive = Archive(700)
    archive.run(0.3)
    archive.storage.down = True
    archive.run(20)
    archive.storage.down = False
    archive.run(20)
    assert set(archive.compared) == set(archive.ids)


class _Later(InlineExecutor):
    """Work that ends when told, as a thread's does."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append(lambda: future.set_result(fn(*args, **kwargs)))
        return future


def test_only_one_piece_is_worked_at_and_its_end_brings_the_next() -> None:
    archive, later = Archive(300), _Later()
    sweep = Sweep((archive.gateway, archive.storage), lambda studies: studies, list, later, archive.clock)
    sweep.step()
    sweep.step()
    assert (len(later.waiting), sweep.wait()) == (1, float("inf"))
    later.waiting.pop()()
    assert sweep.wait() == 0.0
    suspects, _ = sweep.step()
    assert list(suspects) == archive.ids[:100]


# --- in the cycle -----------------------------------------------------------------------------------------------------


def test_what_no_orthanc_told_of_is_found_by_the_sweep(tmp_path: Path) -> None:
    portal = Portal(tmp_path)
    first, late = image(number=1), image(number=2)
    portal.deliver(first)
    portal.run(10)
    portal.storage.images[late.orthanc_id] = late  # and no row in /changes
    portal.run(ROUND_SECONDS + 20)
    assert portal.published() == names(first, late)


def test_a_whole_round_is_told_of_and_remembered_over_a_restart(tmp_path: Path) -> None:
    portal = Portal(tmp_path)
    portal.deliver(image())
    portal.run(20)
    ended = portal.extractor.sources.swept().ended_at
    portal.start()
    assert portal.extractor.sources.swept().ended_at == ended > ""
    portal.run(2)
    assert portal.extractor.sources.swept().compared == 1


def test_a_turn_does_not_wait_for_the_sweep_and_the_loop_goes_on_when_it_wants(tmp_path: Path) -> None:
    portal = Portal(tmp_path)
    portal.deliver(image())
    portal.run(20)
    portal.requests.submit(Request("reconcile"))
    portal.loop.run()
    assert portal.loop.next_due() == 0.0
    portal.storage.down = True
    portal.run(2)
    assert portal.loop.next_due() > 0.0


def test_an_orthanc_that_fails_while_it_is_compared_leaves_the_study_to_the_cycle() -> None:
    archive = Archive(1)

    def fails(_studies: Sequence[OrthancId]) -> list[OrthancId]:
        raise PeerDownError("storage does not answer")

    sweep = Sweep((archive.gateway, archive.storage), fails, list, InlineExecutor(), archive.clock)
    sweep.step()
    assert list(sweep.step()[0]) == archive.ids
