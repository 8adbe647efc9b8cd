"""Several extractors on one PostgreSQL database and one OUTPUT_DIR: each study once, whoever of them dies. The Orthancs are fakes."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.config.retention import Retention
from ddwd.config.schema import Config, Scp
from ddwd.core.audit import Event
from ddwd.extractor.decision import Stage
from ddwd.store.backends import Stores, custody_of, shared_stores
from ddwd.store.operator_requests import Request
from ddwd.store.postgres import PostgresSession
from tests.unit.fakes import Image, image, power_cut
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ddwd.core.model import OrthancId, Study
    from tests.integration.postgresql import PostgresServer


class Extractor(Portal):
    """One of several; `kill` ends its session, as the end of its process or of its host does."""

    def __init__(
        self,
        folder: Path,
        name: str,
        server: PostgresServer,
        ledger: str,
        beside: Portal | None,
        data_dir: Path | None = None,
    ) -> None:
        self._server, self._url = server, server.url(ledger)
        data_dir = data_dir or folder / name
        config = Config(output_dir=folder / "received_dicom", data_dir=data_dir, run_dir=data_dir / "run")
        shared = replace(config.ledger, shared=self._url)
        super().__init__(folder, config=replace(config, scp=Scp(aet=name), ledger=shared), beside=beside)

    def stores(self) -> Stores:
        """See Portal."""
        self.database = PostgresSession(self._url, name=self.config.scp.aet)
        return shared_stores(self.database, self.config.scp.aet, self.clock, 1, self.paths.custody)

    def kill(self) -> None:
        """It takes no more turns."""
        self.database.close()
        self._server.wait_ended(f"ddwd {self.config.scp.aet}")

    @property
    def told(self) -> list[Event]:
        """Every event of its audit."""
        return [event for event, _fields in self.events]


@pytest.fixture
def pair(tmp_path: Path, server: PostgresServer, ledger: str) -> Iterator[tuple[Extractor, Extractor]]:
    """Two extractors of the same Orthancs."""
    first = Extractor(tmp_path, "SCP_A", server, ledger, None)
    second = Extractor(tmp_path, "SCP_B", server, ledger, first)
    yield first, second
    first.kill()
    second.kill()


def _together(pair: tuple[Extractor, Extractor], seconds: float) -> None:
    """Both take turns."""
    for _ in range(int(seconds * 2)):
        for one in pair:
            one.loop.run()
        pair[0].clock.advance(0.5)


def _studies(count: int) -> list[Image]:
    return [image(study=n, number=number) for n in range(1, count + 1) for number in range(1, 4)]


def _published(pair: tuple[Extractor, Extractor]) -> int:
    return sum(event is Event.PUBLISHED for one in pair for event in one.told)


def _held_up(one: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on it fetches for ever."""
    monkeypatch.setattr(one.extractor.loop.reconciler.steps.retrieve, "executor", _Never())


class _Never(Executor):
    """Begins what it is given, and never ends."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        work: Future[Any] = Future()
        work.set_running_or_notify_cancel()
        return work


def test_each_study_is_published_once(pair: tuple[Extractor, Extractor]) -> None:
    images = _studies(20)
    pair[0].deliver(*images)
    _together(pair, 30)
    assert pair[0].published() == names(*images)
    assert _published(pair) == 20
    assert [one.leftovers() for one in pair] == [[], []]
    moved = [len(one.mover.moved) for one in pair]
    assert all(moved), "one did all the work"


def test_a_study_in_work_is_taken_over_from_one_that_dies(
    pair: tuple[Extractor, Extractor], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    images = _studies(3)
    _held_up(here, monkeypatch)
    here.deliver(*images)
    here.loop.run()
    assert len(here.open) == 3
    there.run(20)
    assert there.published() == {}, "they are the other's"
    here.kill()
    assert there.loop.next_due() <= 2.0, "an extractor that has nothing to do looks for what others left"
    there.run(10)
    assert there.published() == names(*images)
    assert there.told.count(Event.PUBLISHED) == 3


def test_images_that_came_while_another_had_the_study_are_not_forgotten(
    pair: tuple[Extractor, Extractor], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    first, late = image(number=1), image(number=2)
    here.deliver(first)
    here.run(10)
    _held_up(here, monkeypatch)
    here.deliver(late)
    here.storage.settle(late.study_id)
    here.loop.run()
    assert here.open.keys() == {late.study_id}
    there.run(5)
    here.kill()
    there.run(10)
    assert there.published() == names(first, late)
    assert there.told.count(Event.LATE_IMAGE) == 1


def test_one_that_lost_its_connection_publishes_nothing_more(
    pair: tuple[Extractor, Extractor], server: PostgresServer, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    images = _studies(1)
    here.deliver(*images)
    here.loop.run()  # fetched, and not stable yet
    assert here.leftovers() and not here.published()
    here.clock.advance(10)
    ask = here.storage.study

    def cut(study: OrthancId) -> Study | None:
        server.sql(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'ddwd SCP_A'",
            ledger,
        )
        return ask(study)

    monkeypatch.setattr(here.storage, "study", cut)
    here.loop.run()
    monkeypatch.undo()
    assert here.published() == {}
    there.run(10)
    assert there.published() == names(*images)
    here.run(700)  # and what it had fetched goes away by itself
    assert here.leftovers() == []
    assert _published(pair) == 1
    assert Event.CONFLICT not in here.told + there.told


def test_files_that_a_dead_one_had_published_without_a_record_are_taken_as_they_are(
    pair: tuple[Extractor, Extractor], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    images = _studies(1)
    here.deliver(*images)
    here.loop.run()
    here.clock.advance(10)

    def dies(_record: object) -> None:
        here.kill()
        raise KeyboardInterrupt

    monkeypatch.setattr(here.extractor.loop.reconciler.steps.publish.custody, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        here.loop.run()
    assert here.published() == names(*images)
    assert custody_of(here.config).read(images[0].study_id) is None
    before = {path: path.stat().st_ino for path in here.paths.output.rglob("*.dcm")}
    there.run(10)
    assert there.published() == names(*images)
    assert {path: path.stat().st_ino for path in here.paths.output.rglob("*.dcm")} == before
    record = custody_of(there.config).read(images[0].study_id)
    assert record is not None
    assert (record.revision, len(record.images)) == (1, 3)


@pytest.mark.parametrize("seed", range(6))
def test_whoever_dies_whenever_each_study_is_published_once(
    pair: tuple[Extractor, Extractor], seed: int
) -> None:
    chance = Random(seed)  # noqa: S311 - the order of mishaps
    images = _studies(8)
    for one in [*chance.sample(images, len(images)), *[None] * 60]:
        if one is not None:
            pair[0].deliver(one)
            pair[0].storage.settle(one.study_id)
        _mishap(chance.choice(pair), chance)
        for extractor in chance.sample(pair, chance.randrange(3)):
            extractor.loop.run()
        pair[0].clock.advance(0.5)
    for extractor in pair:
        extractor.mover.lies = False
    _together(pair, 80)
    assert pair[0].published() == names(*images)
    told = [fields["DDWD_STUDY"] for one in pair for event, fields in one.events if event is Event.PUBLISHED]
    assert sorted(told) == sorted({one.study_id for one in images})
    assert [entry for one in pair for entry in one.quarantine.entries()] == []
    assert pair[0].database.rows("select * from open_study") == []


@pytest.mark.parametrize("together", [False, True])
def test_one_study_uid_under_two_patients_is_asked_about_whoever_publishes_and_not_again_elsewhere(
    pair: tuple[Extractor, Extractor], together: bool
) -> None:
    here, there = pair
    mine, theirs = (
        [image(number=number, patient=patient) for number in (1, 2, 3)] for patient in ("PAT1", "PAT2")
    )
    here.deliver(*mine[:2])
    if together:
        here.deliver(*theirs[:2])
        _together(pair, 20)
    else:
        here.run(15)
        here.deliver(*theirs[:2])
        there.run(15)
    assert here.published() == names(*mine[:2], *theirs[:2])
    asked = [entry for one in pair for entry in one.quarantine.entries()]
    assert {entry.subject.kind for entry in asked} == {"two-patients"}
    assert together or [entry.subject.study for entry in there.quarantine.entries()] == [theirs[0].study_id]
    for one in pair:
        for entry in one.quarantine.entries():
            one.requests.submit(Request("release", item=entry.id))
        one.run(2)
    for late, one in ((mine[2], there), (theirs[2], here)):
        here.deliver(late)
        here.storage.settle(late.study_id)
        one.run(15)
    assert here.published() == names(*mine, *theirs)
    assert [entry for one in pair for entry in one.quarantine.entries()] == []


def _mishap(victim: Extractor, chance: Random) -> None:
    """Mostly nothing; or it dies between two turns or in one, loses its connection, or is sent nothing for a while."""
    match chance.randrange(10):
        case 0:
            power_cut(chance.randrange(30), victim.loop.run)
            victim.kill()
            victim.start()
        case 1:
            victim.database.close()
        case 2:
            victim.mover.lies = not victim.mover.lies


def test_while_postgresql_is_away_studies_wait_and_the_status_says_so(
    pair: tuple[Extractor, Extractor], server: PostgresServer
) -> None:
    here, _ = pair
    images = _studies(2)
    here.deliver(*images)
    here.loop.run()
    server.stop()
    try:
        here.run(20)
        assert here.published() == {}
        assert "does not answer" in here.peer_states()["ledger"]
        assert {study.stage for study in here.open.values()} == {Stage.WAITING}
    finally:
        server.start()
    here.run(20)
    assert here.peer_states()["ledger"] == "ok"
    assert here.published() == names(*images)
    assert here.told.count(Event.PEER_DOWN) == here.told.count(Event.PEER_UP) == 1
    assert here.told.count(Event.PUBLISHED) == 2


def test_an_extractor_that_starts_while_postgresql_is_away_begins_once_it_is_there(
    pair: tuple[Extractor, Extractor], server: PostgresServer
) -> None:
    here, _ = pair
    here.deliver(*_studies(1))
    here.kill()
    server.stop()
    try:
        here.start()
        here.run(5)
    finally:
        server.start()
    here.run(10)
    assert here.published() == names(*_studies(1))


def test_an_archive_of_before_is_taken_over_and_nothing_is_fetched_again(
    tmp_path: Path, server: PostgresServer, ledger: str
) -> None:
    alone = Portal(tmp_path)
    images = _studies(5)
    alone.deliver(*images)
    alone.run(20)
    records = {one: alone.custody.read(one) for one in alone.custody.studies()}
    alone.custody.path(images[0].study_id).write_bytes(b"{")  # a damaged one is proved anew
    here = Extractor(tmp_path, "SCP_A", server, ledger, alone, data_dir=tmp_path)
    there = Extractor(tmp_path, "SCP_B", server, ledger, alone)
    try:
        _together((here, there), 20)
        found = {one: custody_of(there.config).read(one) for one in records}
        assert {one: record for one, record in found.items() if one != images[0].study_id} == {
            one: record for one, record in records.items() if one != images[0].study_id
        }
        damaged = found[images[0].study_id]
        assert damaged is not None
        assert len(damaged.images) == 3
        assert here.mover.moved + there.mover.moved == []
        assert not here.paths.custody.exists()
        assert here.published() == names(*images)
    finally:
        here.kill()
        there.kill()


def test_what_a_paused_one_has_begun_the_other_finishes(pair: tuple[Extractor, Extractor]) -> None:
    here, there = pair
    images = _studies(2)
    here.mover.scp_up = False
    here.deliver(*images)
    here.run(5)
    assert len(here.open) == 2
    here.requests.submit(Request("pause"))
    _together(pair, 40)
    assert there.published() == names(*images)
    assert there.told.count(Event.PUBLISHED) == 2
    here.deliver(image(study=9))
    here.run(10)
    assert here.open == {}, "it takes nothing up"
    there.kill()
    here.mover.scp_up = True
    here.requests.submit(Request("resume"))
    here.run(20)
    assert here.published() == names(*images, image(study=9))


def test_one_that_starts_again_goes_on_from_where_it_was(pair: tuple[Extractor, Extractor]) -> None:
    here, _ = pair
    here.deliver(*_studies(2))
    here.run(20)
    here.kill()
    here.start()
    here.run(20)
    assert here.told.count(Event.PUBLISHED) == 2
    assert here.extractor.sources.swept().ended_at


def test_a_retry_asked_of_one_reaches_the_other_that_has_the_study(pair: tuple[Extractor, Extractor]) -> None:
    here, there = pair
    one = image()
    here.deliver(one)
    here.mover.scp_up = False
    here.run(60)
    (stuck,) = here.open.values()
    assert stuck.failures > 3
    request = there.requests.submit(Request("retry", one.study_id))
    there.run(1)
    assert request.exists()
    here.clock.advance(2)
    here.loop.run()
    assert stuck.failures <= 1
    here.mover.scp_up = True
    _together(pair, 40)
    assert here.published() == names(one)
    assert not request.exists()


def test_a_retry_asked_of_one_is_done_once_the_other_is_done_with_the_study(
    pair: tuple[Extractor, Extractor], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    images = _studies(2)
    here.deliver(*images)
    here.run(10)
    _held_up(here, monkeypatch)
    late = image(study=1, number=9)
    here.deliver(late)
    here.storage.settle(late.study_id)
    here.loop.run()
    assert here.open.keys() == {late.study_id}
    for gone in here.paths.output.rglob("*.dcm"):
        gone.unlink()
    requests = [there.requests.submit(Request("retry", images[n].study_id)) for n in (0, -1)]
    there.run(10)
    assert requests[0].exists(), "the other has it"
    assert not requests[1].exists(), "nobody has it"
    here.kill()
    there.run(10)
    assert not requests[0].exists()
    assert there.published() == names(*images, late)


def test_what_may_go_is_removed_by_one_of_them_at_a_time(pair: tuple[Extractor, Extractor]) -> None:
    for one in pair:
        one.kill()
        one.config = replace(one.config, retention=Retention(gateway_days=0, output_days=0))
        one.start()
    images = _studies(4)
    pair[0].deliver(*images)
    _together(pair, 30)
    assert pair[0].published() == names(*images)
    for one in pair:
        one.requests.submit(Request("retention"))
    _together(pair, 30)
    assert (pair[0].gateway.images, pair[0].published()) == ({}, {})
    assert len(pair[0].storage.images) == len(images)
    assert sum(one.told.count(Event.RETIRED) for one in pair) == 8, "each study once, in each of two places"
    assert [one.open for one in pair] == [{}, {}]
    pair[0].requests.submit(Request("retry", images[0].study_id))
    _together(pair, 20)
    assert pair[0].published() == names(*images[:3])
