"""Other destinations: every image of a study reaches each of them, whatever fails, and none waits for another."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ddwd.config.routing import Route
from ddwd.core.audit import Audit, Event
from ddwd.core.errors import DdwdError, PeerRefusedError, StorageFullError
from ddwd.core.retry import retry_delay
from ddwd.delivery.destination_queue import (
    FIRST_RETRY_SECONDS,
    LONGEST_RETRY_SECONDS,
    DestinationQueue,
)
from ddwd.delivery.dispatcher import DeliveryDispatcher, Recipients
from ddwd.extractor.change_feed import ChangeFeed
from ddwd.extractor.sweep import Sweep
from ddwd.orthanc.port import Job
from ddwd.store.custody import InstanceRecord, Record
from ddwd.store.delivery_log import DeliveryLog, owed
from ddwd.store.status_files import DestinationStatus
from tests.unit.fakes import FakeClock, FakeOrthanc, Image, image, power_cut

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future
    from pathlib import Path

    from ddwd.core.model import OrthancId

ROUTES = {
    one.name: one
    for one in (
        Route("both", also=("teaching", "pacs")),
        Route("urgent", also=("teaching",), priority="high"),
        Route("none"),
    )
}


@dataclass
class FakeWay:
    """A destination in memory, with the gateway's jobs that lead there; `lists` False: it cannot be asked."""

    gateway: FakeOrthanc
    name: str
    kind: str = "DIMSE"
    lists: bool = True
    down: bool = False
    held: bool = False
    forgets: bool = False
    refuses: set[OrthancId] = field(default_factory=set)
    swallows: set[OrthancId] = field(default_factory=set)
    gone: set[OrthancId] = field(default_factory=set)
    has: dict[OrthancId, Image] = field(default_factory=dict)
    sent: list[list[OrthancId]] = field(default_factory=list)
    asked: int = 0

    def submit(self, images: Iterable[OrthancId], priority: int) -> str:
        block = list(images)
        if self.gone.intersection(block):
            raise PeerRefusedError("gateway: HTTP 404")
        self.sent.append(block)
        name = f"{self.name}-{len(self.sent)}"
        self.gateway.priorities.append(priority)
        self.gateway.remembered[name] = Job(name, "Running", "Any", "")
        if not self.held:
            self.finish(name)
        return name

    def finish(self, name: str) -> None:
        block = self.sent[int(name.rpartition("-")[2]) - 1]
        refused = self.down or bool(self.refuses.intersection(block))
        if not refused:
            self.has |= {one: self.gateway.images[one] for one in block if one not in self.swallows}
        state = "Failure" if refused else "Success"
        error = "no route to host" if self.down else "refused"
        self.gateway.remembered[name] = Job(name, state, "Any", error if refused else "")
        if self.forgets:
            del self.gateway.remembered[name]

    def listed(self, study_uid: str) -> frozenset[str] | None:
        self.asked += 1
        if self.down or not self.lists:
            return None
        return frozenset(one.sop_uid for one in self.has.values() if one.study_uid == study_uid)

    def answers(self) -> bool:
        return not self.down


class Town:
    """A gateway, two destinations and their queues."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.gateway = FakeOrthanc("gateway", self.clock)
        self.deliveries = DeliveryLog(folder)
        self.routes = dict(ROUTES)
        self.events: list[tuple[Event, str]] = []
        self.transports = {
            "teaching": FakeWay(self.gateway, "teaching"),
            "pacs": FakeWay(self.gateway, "pacs", lists=False),
        }
        self.queues: dict[str, DestinationQueue] = {}
        self.restart()

    def restart(self, settle: float = 0.0) -> None:
        """What was only in memory is gone; the jobs too, as after a restart of the gateway."""
        self.gateway.remembered.clear()
        audit = Audit(lambda event, said, _: self.events.append((event, said)))
        for name, transport in self.transports.items():
            self.queues[name] = DestinationQueue(
                transport, self.gateway, self.routes, self.deliveries, audit, self.clock, settle
            )

    def study(self, number: int = 1, images: int = 3, route: str = "both") -> list[Image]:
        made = [image(number, one) for one in range(1, images + 1)]
        self.gateway.store(*made)
        self.gateway.routes[made[0].study_id] = route
        return made

    def turns(
        self, name: str, *studies: OrthancId, count: int = 6, seconds: float = 0.0
    ) -> DestinationStatus:
        """Some turns of one queue, `seconds` apart."""
        status = self.queues[name].turn(studies)
        for _ in range(count - 1):
            self.clock.advance(seconds)
            status = self.queues[name].turn(())
        return status

    def proved(self, name: str, study: OrthancId) -> frozenset[OrthancId]:
        return self.deliveries.of(name, study)


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path / "courier")


def ids(images: Iterable[Image]) -> set[OrthancId]:
    return {one.orthanc_id for one in images}


@pytest.mark.parametrize("name", ["teaching", "pacs"])
def test_every_image_is_brought_and_that_is_kept_and_told(town: Town, name: str) -> None:
    images = town.study()
    status = town.turns(name, images[0].study_id)
    assert town.transports[name].has.keys() == ids(images) == town.proved(name, images[0].study_id)
    assert (status.state, status.studies, status.images, status.delivered) == ("ok", 0, 0, 3)
    assert status.delivered_at
    assert status.wait is None
    assert town.events == [(Event.DELIVERED, f"3 images are at {name}")]


def test_what_it_has_already_is_not_sent(town: Town) -> None:
    images = town.study()
    town.transports["teaching"].has[images[0].orthanc_id] = images[0]
    town.turns("teaching", images[0].study_id)
    assert [set(block) for block in town.transports["teaching"].sent] == [ids(images[1:])]


def test_what_was_proved_is_neither_sent_nor_asked_for_again(town: Town) -> None:
    images = town.study()
    town.turns("teaching", images[0].study_id)
    transport = town.transports["teaching"]
    before = len(transport.sent), transport.asked
    town.restart()
    assert town.turns("teaching", images[0].study_id).studies == 0
    assert (len(transport.sent), transport.asked) == before
    assert len(town.events) == 1


def test_late_images_are_sent_too(town: Town) -> None:
    images = town.study()
    town.turns("pacs", images[0].study_id)
    late = image(1, 9)
    town.gateway.store(late)
    town.turns("pacs", late.study_id)
    assert town.transports["pacs"].sent[-1] == [late.orthanc_id]
    assert town.proved("pacs", late.study_id) == ids([*images, late])


def test_images_that_come_while_a_job_is_under_way_are_sent_beside_it_and_none_twice(town: Town) -> None:
    images = town.study()
    transport = town.transports["pacs"]
    transport.held = True
    town.turns("pacs", images[0].study_id)
    late = image(1, 9)
    town.gateway.store(late)
    assert town.turns("pacs", late.study_id).images == 4
    assert [set(block) for block in transport.sent] == [ids(images), ids([late])]


def test_a_study_of_a_rule_without_the_destination_stays_away(town: Town) -> None:
    images = town.study(route="urgent")
    assert town.turns("pacs", images[0].study_id).studies == 0
    assert town.transports["pacs"].sent == []


def test_a_study_whose_rule_changed_waits_no_more(town: Town) -> None:
    images = town.study()
    town.transports["pacs"].down = True
    assert town.turns("pacs", images[0].study_id).studies == 1
    town.gateway.routes[images[0].study_id] = "none"
    assert town.turns("pacs", images[0].study_id).studies == 0


def test_a_study_that_is_gone_from_the_gateway_waits_no_more(town: Town) -> None:
    images = town.study()
    town.transports["pacs"].down = True
    town.turns("pacs", images[0].study_id)
    town.gateway.delete_study(images[0].study_id)
    assert town.turns("pacs", images[0].study_id).studies == 0


def test_a_study_that_still_arrives_is_waited_for_a_little(town: Town) -> None:
    town.restart(settle=4.0)
    images = town.study()
    status = town.turns("pacs", images[0].study_id)
    assert (status.images, status.wait, town.transports["pacs"].sent) == (3, 4.0, [])
    town.clock.advance(3.0)
    late = image(1, 9)
    town.gateway.store(late)
    town.turns("pacs", late.study_id)
    town.clock.advance(3.0)
    assert town.turns("pacs").images == 4
    town.clock.advance(2.0)
    assert town.turns("pacs").images == 0
    assert [set(block) for block in town.transports["pacs"].sent] == [ids([*images, late])]


def test_urgent_studies_go_first(town: Town) -> None:
    ordinary, urgent = town.study(1), town.study(2, route="urgent")
    town.turns("teaching", ordinary[0].study_id, urgent[0].study_id)
    assert set(town.transports["teaching"].sent[0]) == ids(urgent)
    assert town.gateway.priorities == [10, 0]


def test_only_a_few_jobs_are_under_way_at_once(town: Town) -> None:
    studies = [town.study(number)[0].study_id for number in range(1, 8)]
    town.transports["pacs"].held = True
    town.turns("pacs", *studies)
    assert len(town.transports["pacs"].sent) == 2


def test_a_large_study_is_sent_in_blocks(town: Town) -> None:
    images = town.study(images=450)
    town.turns("pacs", images[0].study_id)
    assert sorted(map(len, town.transports["pacs"].sent)) == [50, 200, 200]
    assert town.proved("pacs", images[0].study_id) == ids(images)


# --- a destination that is away ---------------------------------------------------------------------------------------


def test_a_destination_that_is_away_is_tried_ever_more_rarely_and_caught_up_with(town: Town) -> None:
    first, second = town.study(1), town.study(2)
    transport = town.transports["teaching"]
    transport.down = True
    status = town.turns("teaching", first[0].study_id, second[0].study_id, count=2000, seconds=1.0)
    assert (status.state, status.reason) == ("away", "no route to host")
    assert (status.studies, status.images) == (2, 6)
    assert status.oldest
    assert len(transport.sent) < 25
    transport.down = False
    status = town.turns("teaching", count=400, seconds=1.0)
    assert (status.state, status.studies) == ("ok", 0)
    assert transport.has.keys() == ids([*first, *second])
    told = [event for event, _ in town.events]
    assert told == [Event.DESTINATION_DOWN, Event.DESTINATION_UP, Event.DELIVERED, Event.DELIVERED]


def test_one_that_hangs_is_told_of_before_its_job_ends_and_so_is_its_return(town: Town) -> None:
    images = town.study()
    transport = town.transports["pacs"]
    transport.held = transport.down = True
    assert town.turns("pacs", images[0].study_id, count=50, seconds=1.0).state == "ok"
    status = town.turns("pacs", count=20, seconds=1.0)
    assert (status.state, status.images, len(transport.sent)) == ("away", 3, 1)
    transport.down = False
    assert town.turns("pacs", count=400, seconds=1.0).state == "ok"
    transport.finish("pacs-1")
    assert town.turns("pacs").studies == 0


def test_one_that_is_away_is_asked_on_when_nothing_waits_for_it_any_more(town: Town) -> None:
    images = town.study()
    transport = town.transports["pacs"]
    transport.down = True
    town.turns("pacs", images[0].study_id)
    town.gateway.delete_study(images[0].study_id)
    status = town.turns("pacs", count=30, seconds=1.0)
    assert (status.state, status.studies) == ("away", 0)
    assert status.wait is not None
    transport.down = False
    status = town.turns("pacs", count=100, seconds=1.0)
    assert (status.state, status.wait) == ("ok", None)


def test_the_operator_has_it_tried_at_once(town: Town) -> None:
    images = town.study()
    transport = town.transports["pacs"]
    transport.down = True
    town.turns("pacs", images[0].study_id, count=600, seconds=1.0)
    transport.down = False
    assert town.turns("pacs").studies == 1
    town.queues["pacs"].turn((), hasten=True)
    assert town.turns("pacs").studies == 0


def test_pauses_grow_to_five_minutes_and_no_longer() -> None:
    waits = [
        retry_delay(number, FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS) for number in (1, 2, 3, 9, 10, 1000)
    ]
    assert waits == [1, 2, 4, 256, 300, 300]


def test_a_gateway_that_does_not_answer_is_no_failure_of_the_destination(town: Town) -> None:
    images = town.study()
    town.gateway.down = True
    status = town.turns("pacs", images[0].study_id)
    assert (status.state, status.studies) == ("ok", 1)
    town.gateway.down = False
    assert town.turns("pacs").studies == 0


# --- one that answers no ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["teaching", "pacs"])
def test_an_image_that_is_refused_holds_up_itself_alone(town: Town, name: str) -> None:
    images, other = town.study(images=60), town.study(2)
    transport = town.transports[name]
    transport.refuses = {images[7].orthanc_id}
    status = town.turns(name, images[0].study_id, other[0].study_id, count=900, seconds=0.5)
    assert transport.has.keys() == ids([*images, *other]) - transport.refuses
    assert town.proved(name, images[0].study_id) == ids(images) - transport.refuses
    assert (status.state, status.studies, status.images, status.reason) == ("ok", 1, 1, "refused")
    transport.refuses = set()
    assert town.turns(name, count=400, seconds=1.0).studies == 0


def test_one_that_says_stored_and_does_not_list_it_is_not_believed(town: Town) -> None:
    images = town.study()
    transport = town.transports["teaching"]
    transport.swallows = {images[0].orthanc_id}
    status = town.turns("teaching", images[0].study_id)
    assert town.proved("teaching", images[0].study_id) == ids(images[1:])
    assert status.reason == "it answers that it stored them, and does not list 1"
    transport.swallows = set()
    assert town.turns("teaching", count=20, seconds=10.0).studies == 0


def test_one_that_cannot_be_asked_is_believed_by_its_answer_to_the_job(town: Town) -> None:
    images = town.study()
    town.transports["teaching"].lists = False
    town.turns("teaching", images[0].study_id)
    assert town.proved("teaching", images[0].study_id) == ids(images)


def test_an_image_that_vanished_from_the_gateway_holds_up_no_other_study(town: Town) -> None:
    images, other = town.study(), town.study(2)
    town.transports["pacs"].gone = {images[0].orthanc_id}
    status = town.turns("pacs", images[0].study_id, other[0].study_id)
    assert town.transports["pacs"].has.keys() == ids(other)
    assert status.reason == "gateway: HTTP 404"


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_a_job_that_the_gateway_forgot_is_found_by_what_the_destination_has(town: Town) -> None:
    images = town.study()
    town.transports["teaching"].forgets = True
    town.turns("teaching", images[0].study_id)
    assert len(town.transports["teaching"].sent) == 1
    assert town.proved("teaching", images[0].study_id) == ids(images)


def test_a_job_that_the_gateway_forgot_is_sent_again_where_nobody_can_tell(town: Town) -> None:
    images = town.study()
    transport = town.transports["pacs"]
    transport.held = True
    town.turns("pacs", images[0].study_id)
    town.gateway.remembered.clear()
    transport.held = False
    assert town.turns("pacs").studies == 0
    assert [set(block) for block in transport.sent] == [ids(images), ids(images)]


def test_a_power_cut_at_any_step_between_job_and_record_loses_nothing(tmp_path: Path) -> None:
    steps = 0
    cut = True
    while cut:
        town = Town(tmp_path / str(steps))
        images = town.study()
        cut = power_cut(steps, lambda town=town, images=images: town.turns("pacs", images[0].study_id))  # type: ignore[misc]
        town.restart()
        town.turns("pacs", images[0].study_id)
        assert town.proved("pacs", images[0].study_id) == ids(images)
        steps += 1
    assert steps > 4


def test_a_damaged_file_of_proof_is_no_proof(town: Town) -> None:
    images = town.study()
    town.turns("pacs", images[0].study_id)
    path = town.deliveries.path("pacs", images[0].study_id)
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"images": [*body["images"], "f" * 44]}))
    assert town.proved("pacs", images[0].study_id) == frozenset()
    town.turns("pacs", images[0].study_id)
    assert town.proved("pacs", images[0].study_id) == ids(images)


# --- all of them ------------------------------------------------------------------------------------------------------


class Later:
    """An executor whose work is done when told, or never."""

    def __init__(self) -> None:
        self.hung: set[str] = set()

    def submit(self, work, /, *args, **kwargs) -> Future:  # type: ignore[no-untyped-def, type-arg]
        from concurrent.futures import Future  # noqa: PLC0415

        future: Future[object] = Future()
        if getattr(getattr(work, "__self__", None), "name", "") not in self.hung:
            try:
                future.set_result(work(*args, **kwargs))
            except DdwdError as error:
                future.set_exception(error)
        return future


@dataclass
class House:
    """The whole dispatcher over a town."""

    town: Town
    executor: Later = field(default_factory=Later)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        town = self.town
        recipients = Recipients(town.gateway, town.routes, town.deliveries)
        sweep = Sweep([town.gateway], recipients.incomplete, lambda: (), self.executor, town.clock)  # type: ignore[arg-type]
        feed = ChangeFeed(town.gateway, town.gateway.last_seq(), town.clock, 3.0)
        queues = town.queues.values()
        self.dispatcher = DeliveryDispatcher(
            feed,
            sweep,
            recipients,
            queues,
            self.executor,  # type: ignore[arg-type]
            town.clock,
            lambda: None,
        )

    def turns(self, count: int = 12, seconds: float = 1.0) -> dict[str, DestinationStatus]:
        found: list[DestinationStatus] = []
        for _ in range(count):
            found = self.dispatcher.turn()
            self.town.clock.advance(seconds)
        return {one.name: one for one in found}


def test_each_destination_of_a_rule_gets_the_study_and_no_other_study_goes_anywhere(town: Town) -> None:
    house = House(town)
    images, urgent = town.study(1), town.study(2, route="urgent")
    town.study(3, route="none")
    undecided = town.study(4)
    del town.gateway.routes[undecided[0].study_id]
    house.turns()
    assert town.transports["teaching"].has.keys() == ids([*images, *urgent])
    assert town.transports["pacs"].has.keys() == ids(images)


def test_what_came_while_the_courier_did_not_run_is_found(town: Town) -> None:
    images = town.study()
    house = House(town)
    house.turns()
    assert town.transports["pacs"].has.keys() == ids(images)


def test_a_late_image_that_no_change_tells_of_is_found_by_the_next_round(town: Town) -> None:
    images = town.study()
    house = House(town)
    house.turns()
    late = image(1, 9)
    town.gateway.store(late)
    town.gateway.rows.clear()
    house.turns(count=400)
    assert town.transports["pacs"].has.keys() == ids([*images, late])


def test_a_destination_that_hangs_delays_no_other(town: Town) -> None:
    house = House(town)
    house.executor.hung = {"teaching"}
    images = town.study()
    house.turns()
    assert town.transports["pacs"].has.keys() == ids(images)
    assert not house.dispatcher.is_hung
    house.turns(count=700)
    assert house.dispatcher.is_hung


def test_a_gateway_that_is_away_is_asked_again(town: Town) -> None:
    house = House(town)
    town.gateway.down = True
    images = town.study()
    house.turns()
    town.gateway.down = False
    house.turns()
    assert town.transports["pacs"].has.keys() == ids(images)


# --- what retention asks ----------------------------------------------------------------------------------------------


def test_a_study_is_owed_until_each_destination_of_its_rule_has_all_of_it(town: Town) -> None:
    images = town.study()
    study = images[0].study_id
    kept = {
        one.orthanc_id: InstanceRecord(one.orthanc_id, "", "", 1, "", "", "identical", at_gateway=True)
        for one in images
    }
    record = Record(study, "1.2.3", "", "F", 1, "2026", images=kept, route="both")
    owes = owed(town.deliveries, tuple(town.routes.values()))
    assert owes(record) == "3 of its images are not at teaching yet"
    town.turns("teaching", study)
    assert owes(record) == "3 of its images are not at pacs yet"
    town.turns("pacs", study)
    assert owes(record) == ""
    record.passed.append(image(1, 9).orthanc_id)
    assert owes(record) == "1 of its images are not at teaching yet"
    record.route = "none"
    assert owes(record) == ""


def test_a_disk_that_takes_no_proof_costs_a_pause_and_no_image(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(town)
    images = town.study()
    with monkeypatch.context() as patch:
        patch.setattr(town.deliveries, "add", _full)
        house.turns(count=20)
    assert town.proved("pacs", images[0].study_id) == frozenset()
    house.turns(count=20)
    assert town.proved("pacs", images[0].study_id) == ids(images)


def _full(*_arguments: object) -> None:
    raise StorageFullError("no room left on the volume of the data")
