"""The acceptor passes images on, answers where ORTHANC1 does not, and says why each was refused; over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from ddwd.acceptor.hold_off import HoldOff
from ddwd.acceptor.limits import AssociationLimits, Limits, Negotiations
from ddwd.acceptor.listener import Acceptor, Service
from ddwd.acceptor.relay import Timing
from ddwd.acceptor.senders import Senders
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import SystemClock
from ddwd.dicom import association_pdu as pdu
from tests.dicom import gateway as fake
from tests.dicom.conftest import wait_until
from tests.hostile import wire
from tests.hostile.wire import Image, Sender, Target, store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.orthanc.plugin.verdicts import Verdicts

QUICK = Timing(answer=0.6, probe=0.2, idle=0.1, silence=0.5, rest=0.8)
SLOW = Timing()
LONG_TURNS = replace(SLOW, turn=60.0)


@dataclass
class Door:
    """A running acceptor, the gateway behind it, and what was audited."""

    gateway: fake.Gateway
    events: list[tuple[Event, str, dict[str, str]]] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    timing: Timing = SLOW
    allowed: bool = True
    patience: float = 0.0
    verdicts: Verdicts | None = None

    def start(self) -> None:
        clock = SystemClock()
        audit = Audit(lambda event, text, fields: self.events.append((event, text, fields)))
        self.senders = Senders(audit, clock)
        self.count = AssociationLimits(self.limits)
        self.hold_off = HoldOff(clock)
        service = Service(
            "ORTHANC1",
            self.gateway.port,
            lambda _aet, _address: self.allowed,
            lambda _address: True,
            self.timing,
            self.patience,
            self.verdicts,
        )
        self.acceptor = Acceptor(service, self.count, self.hold_off, self.senders)
        self.target = Target("127.0.0.1", self.acceptor.listen("127.0.0.1", 0), "ORTHANC1", None)

    def audited(self, event: Event) -> str:
        """Wait for the first audit record of that event, and return its text."""
        wait_until(lambda: any(one[0] is event for one in self.events))
        return next(text for one, text, _ in self.events if one is event)


@pytest.fixture
def door() -> Iterator[Door]:
    """An acceptor that is not started yet; a test may change its settings first."""
    made = Door(fake.Gateway())
    yield made
    made.acceptor.stop(5)
    made.gateway.stop()


def image(number: int = 1) -> Image:
    """A sound image."""
    return Image("1.2.3", f"1.2.3.{number}", after=bytes(0))


def send(sender: Sender, one: Image) -> str:
    """Send one image; return the status."""
    return sender.tell(store(one.sop_uid, one.encoded(), one.sop_class))


def test_images_reach_the_gateway_and_its_answers_the_sender(door: Door) -> None:
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        assert [send(sender, image(number)) for number in range(3)] == ["0x0000"] * 3
    assert [uid for uid, _ in door.gateway.stored] == ["1.2.3.0", "1.2.3.1", "1.2.3.2"]
    wait_until(lambda: door.senders.status()[0].images == 3)
    (status,) = door.senders.status()
    assert (status.aet, status.address) == ("HOSTILE", "127.0.0.1")


def test_an_echo_is_answered(door: Door) -> None:
    door.start()
    assert wire.echo(door.target)


def test_the_called_title_may_be_written_in_any_case_and_reaches_the_gateway_as_it_is_set(door: Door) -> None:
    door.start()
    with Sender(replace(door.target, called="orthanc1")) as sender:
        sender.associate()
    assert door.gateway.requests[0][4:20] == b"ORTHANC1        "


def test_an_idle_association_holds_none_at_the_gateway_and_goes_on(door: Door) -> None:
    door.timing = replace(SLOW, idle=0.05)
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        assert send(sender, image(1)) == "0x0000"
        wait_until(lambda: door.gateway.open == 0)
        assert send(sender, image(2)) == "0x0000"
    assert len(door.gateway.requests) == 2
    assert door.gateway.requests[0] == door.gateway.requests[1]


def test_an_idle_association_outlives_a_restart_of_the_gateway(door: Door) -> None:
    door.timing, door.patience = replace(SLOW, idle=0.05), 10.0
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        wait_until(lambda: door.gateway.open == 0)
        door.gateway.stop()
        sender.send(store("1.2.3.1", image().encoded()))
        time.sleep(0.1)
        door.gateway.start()
        assert sender.answer() == "0x0000"


def test_many_idle_associations_leave_the_gateway_free(door: Door) -> None:
    door.timing = replace(SLOW, idle=0.05)
    door.start()
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(Sender(door.target)).associate()
        wait_until(lambda: door.gateway.open == 0)
        assert door.count.open == 100
        assert wire.store_image(door.target, image()) == "0x0000"
    wait_until(lambda: door.count.open == 0)


@pytest.mark.parametrize("outcome", [fake.DROP, fake.ABORT])
def test_what_the_gateway_cannot_parse_is_refused_and_the_association_goes_on(
    door: Door, outcome: str
) -> None:
    door.timing = replace(SLOW, probe=0.1)
    door.gateway.on_store = lambda request: outcome if request.sop_instance == "1.2.3.1" else 0
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        assert send(sender, image(1)) == "0xC000"
        assert send(sender, image(2)) == "0x0000"
    text = door.audited(Event.IMAGE_REFUSED)
    assert "HOSTILE at 127.0.0.1" in text
    assert "cannot parse" in text


def test_a_slow_gateway_is_waited_for_although_it_is_asked_for_release(door: Door) -> None:
    door.timing = replace(SLOW, probe=0.05)

    def slowly(_request: object) -> int:
        time.sleep(0.3)
        return 0

    door.gateway.on_store = slowly
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        assert [send(sender, image(number)) for number in range(3)] == ["0x0000"] * 3


def test_a_gateway_that_hangs_costs_the_sender_a_failure_in_time(door: Door) -> None:
    door.timing = QUICK
    door.gateway.on_store = lambda request: fake.HANG if request.sop_instance == "1.2.3.1" else 0
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        assert send(sender, image(1)) == "0xA700"
        assert send(sender, image(2)) == "0x0000"
    assert "has not stored it" in door.audited(Event.IMAGE_REFUSED)


def test_a_gateway_that_reads_no_more_costs_the_sender_a_failure_in_time(door: Door) -> None:
    door.timing = replace(QUICK, silence=30.0)
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        door.gateway.reads.clear()
        assert sender.tell(store("1.2.3.1", bytes(30_000_000))) == "0xA700"
    assert not door.gateway.stored


def test_a_gateway_that_dies_with_an_image_costs_a_failure_that_says_try_again(door: Door) -> None:
    door.gateway.on_store = lambda request: fake.CLOSE
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        assert send(sender, image()) == "0xA700"
    assert "ended the connection" in door.audited(Event.IMAGE_REFUSED)


def test_a_gateway_that_goes_in_the_middle_of_an_image_is_answered_for_once_the_image_has_come(
    door: Door,
) -> None:
    door.start()
    whole = store("1.2.3.1", bytes(200_000))
    with Sender(door.target) as sender:
        sender.associate()
        sender.send(whole[:100_000])
        wait_until(lambda: door.gateway.open == 1)
        door.gateway.stop()
        sender.send(whole[100_000:])
        assert sender.answer() == "0xA700"


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_an_image_may_come_in_any_pieces(door: Door, pieces: int) -> None:
    door.start()
    encoded = bytes(300_000)
    whole = store("1.2.3.1", encoded)
    with Sender(door.target) as sender:
        sender.associate()
        step = -(-len(whole) // pieces)
        for start in range(0, len(whole), step):
            sender.send(whole[start : start + step])
        assert sender.answer() == "0x0000"
    assert door.gateway.stored == [("1.2.3.1", len(encoded))]


def test_the_gateway_stores_one_image_at_a_time_whoever_sends(door: Door) -> None:
    under_way = most = 0
    lock = threading.Lock()

    def stored(_request: object) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.01)
        with lock:
            under_way -= 1
        return 0

    door.gateway.on_store = stored
    door.timing = LONG_TURNS
    door.start()

    def one_sender(number: int) -> list[str]:
        with Sender(door.target) as sender:
            sender.associate()
            return [send(sender, image(10 * number + one)) for one in range(5)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one_sender, range(8))) == [["0x0000"] * 5] * 8
    assert most == 1


@pytest.mark.parametrize("outcome", [fake.CLOSE, fake.ABORT, fake.DROP, 0xA700])
def test_an_image_that_is_not_stored_leaves_the_turn_to_the_next(door: Door, outcome: int | str) -> None:
    door.gateway.on_store = lambda request: outcome if request.sop_instance == "1.2.3.1" else 0
    door.timing = replace(LONG_TURNS, probe=0.1)
    door.start()
    with Sender(door.target) as first, Sender(door.target) as second:
        first.associate()
        second.associate()
        assert send(first, image(1)) != "0x0000"
        assert send(second, image(2)) == "0x0000"


def test_a_sender_that_goes_while_its_image_is_stored_leaves_the_turn_to_the_next(door: Door) -> None:
    door.gateway.on_store = lambda request: fake.HANG if request.sop_instance == "1.2.3.1" else 0
    door.timing = LONG_TURNS
    door.start()
    with Sender(door.target) as first:
        first.associate()
        first.send(store("1.2.3.1", image(1).encoded(), image(1).sop_class))
        wait_until(lambda: door.gateway.hangs == 1)
    assert wire.store_image(door.target, image(2)) == "0x0000"


def test_a_sender_in_the_middle_of_an_image_holds_up_no_other(door: Door) -> None:
    door.timing = LONG_TURNS
    door.start()
    whole = store("1.2.3.1", bytes(200_000))
    with Sender(door.target) as slow, Sender(door.target) as other:
        slow.associate()
        other.associate()
        slow.send(whole[:-1])
        assert send(other, image(2)) == "0x0000"
        slow.send(whole[-1:])
        assert slow.answer() == "0x0000"


def test_an_image_whose_turn_does_not_come_is_refused_and_may_come_again(door: Door) -> None:
    door.timing = replace(LONG_TURNS, answer=0.2)
    door.start()
    turn = door.acceptor.turns.take(0.0)
    assert turn is not None
    with Sender(door.target) as sender:
        sender.associate()
        assert send(sender, image()) == "0xA700"
        assert not door.gateway.stored
        door.acceptor.turns.end(turn)
        assert send(sender, image()) == "0x0000"
    assert "busy with images" in door.audited(Event.IMAGE_REFUSED)


def test_a_failure_status_of_the_gateway_is_passed_on_with_its_reason(door: Door) -> None:
    door.gateway.on_store = lambda request: 0xA700
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        assert send(sender, image()) == "0xA700"
    assert "could not store it" in door.audited(Event.IMAGE_REFUSED)


def test_out_of_resources_is_no_answer_where_trying_again_cannot_help(door: Door) -> None:
    door.gateway.on_store = lambda request: 0xA700
    door.start()
    nameless = Image("", "1.2.3.1")
    with Sender(door.target) as sender:
        sender.associate()
        assert send(sender, nameless) == "0xC000"
    assert "no StudyInstanceUID" in door.audited(Event.IMAGE_REFUSED)


def test_a_uid_that_is_too_long_is_refused_with_its_reason(door: Door) -> None:
    door.start()
    uid = "1." + "2" * 70
    with Sender(door.target) as sender:
        sender.associate()
        assert sender.tell(store(uid, image().encoded())) == "0xC000"
        assert send(sender, image()) == "0x0000"
    assert "more than 64 characters" in door.audited(Event.IMAGE_REFUSED)


def test_declined_transfer_syntaxes_are_blamed_and_not_the_class(door: Door) -> None:
    door.start()
    with Sender(door.target) as sender:
        sender.send(
            wire.association(
                "ORTHANC1",
                [
                    wire.context(1, wire.CT, ["1.2.840.10008.1.2.4.201"]),
                    wire.context(3, "1.2.840.10008.5.1.4.1.2.2.1"),
                ],
            )
        )
        _, body = sender.receive()
    results = {
        body[at + 4]: body[at + 6] for at in range(68, len(body) - 6) if body[at : at + 2] == b"\x21\x00"
    }
    assert results == {1: 4, 3: 3}
    text = door.audited(Event.CONTEXT_REFUSED)
    assert "CT Image Storage" in text
    assert "C-FIND is not offered here" in text


@pytest.mark.parametrize(
    ("called", "calling", "reason", "said"),
    [
        ("WRONG", "CT1", (1, 1, 7), "it called WRONG, not ORTHANC1"),
        ("ORTHANC1", "", (1, 1, 3), "it has no calling AE title"),
    ],
)
def test_a_rejected_association_is_audited(
    door: Door, called: str, calling: str, reason: tuple[int, ...], said: str
) -> None:
    door.start()
    with Sender(door.target) as sender:
        sender.send(wire.association(called, calling=calling))
        kind, body = sender.receive()
    assert (kind, tuple(body[1:4])) == (wire.REJECTED, reason)
    assert said in door.audited(Event.ASSOCIATION_REFUSED)


def test_a_sender_that_is_not_listed_is_rejected(door: Door) -> None:
    door.allowed = False
    door.start()
    with Sender(door.target) as sender:
        sender.send(wire.association("ORTHANC1"))
        kind, body = sender.receive()
    assert (kind, tuple(body[1:4])) == (wire.REJECTED, (1, 1, 3))
    assert "not in senders" in door.audited(Event.ASSOCIATION_REFUSED)


def test_a_gateway_that_is_down_is_a_transient_rejection(door: Door) -> None:
    door.start()
    door.gateway.stop()
    with Sender(door.target) as sender:
        sender.send(wire.association("ORTHANC1"))
        kind, body = sender.receive()
    assert (kind, tuple(body[1:4])) == (wire.REJECTED, (2, 3, 1))
    assert "ORTHANC1 is down" in door.audited(Event.ASSOCIATION_REFUSED)


def test_one_address_cannot_use_up_all_associations(door: Door) -> None:
    door.limits = Limits(total=5, one_address=3)
    door.start()
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Sender(door.target)).associate()
        more = stack.enter_context(Sender(door.target))
        more.send(wire.association("ORTHANC1"))
        kind, body = more.receive()
        assert (kind, tuple(body[1:4])) == (wire.REJECTED, (2, 3, 2))
    assert "as many as it may have" in door.audited(Event.ASSOCIATION_REFUSED)


def test_slow_connections_of_many_addresses_leave_room_for_one_of_another(door: Door) -> None:
    door.start()
    there = (door.target.host, door.target.port)
    with ExitStack() as stack:
        for number in range(300):  # more than may negotiate at once
            address = f"127.0.1.{number % 8 + 1}"
            beginning = stack.enter_context(socket.create_connection(there, source_address=(address, 0)))
            beginning.send(b"\x01")
        assert "sent no A-ASSOCIATE-RQ yet" in door.audited(Event.ASSOCIATION_REFUSED)
        other = stack.enter_context(socket.create_connection(there, source_address=("127.0.0.2", 0)))
        other.sendall(wire.association("ORTHANC1"))
        assert other.recv(1) == bytes([wire.ACCEPTED])


def test_the_oldest_connection_of_the_address_with_the_most_makes_room() -> None:
    negotiations = Negotiations(places=4)
    with ExitStack() as stack:

        def begin(address: str) -> tuple[socket.socket, socket.socket, str]:
            ours, theirs = map(stack.enter_context, socket.socketpair())
            theirs.setblocking(False)
            handle, closed = negotiations.begin(ours, address)
            stack.callback(negotiations.end, handle)
            return theirs, handle, closed

        def is_closed(theirs: socket.socket) -> bool:
            with suppress(BlockingIOError):
                return theirs.recv(1) == b""
            return False

        lone = begin("10.0.0.9")
        many = [begin("10.0.0.1") for _ in range(3)]
        assert [closed for *_, closed in (lone, *many)] == [""] * 4
        assert begin("10.0.0.2")[2] == "10.0.0.1"
        assert [is_closed(theirs) for theirs, *_ in (lone, *many)] == [False, True, False, False]
        assert begin("10.0.0.1")[2] == "10.0.0.1"
        assert [is_closed(theirs) for theirs, *_ in (lone, *many[1:])] == [False, True, False]
        negotiations.end(many[0][1])  # its place was taken: no second time
        negotiations.end(many[2][1])
        assert begin("10.0.0.3")[2] == ""
        assert not is_closed(lone[0])


def test_a_sender_that_falls_silent_in_an_image_is_ended_and_an_idle_one_later(door: Door) -> None:
    door.timing = QUICK
    door.start()
    with Sender(door.target) as sender, Sender(door.target) as idle:
        sender.associate()
        idle.associate()
        sender.send(store("1.2.3.1", bytes(50_000))[:20_000])
        assert sender.answer() == "abort"
        assert "in the middle of a message" in door.audited(Event.ASSOCIATION_ABORTED)
        assert idle.answer() == "abort"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(wire.pdu(b"\0" * 4, kind=9), id="a PDU of an unknown type"),
        pytest.param(wire.pdu(wire.pdv(1, 2, b"data")), id="a data set without a command"),
        pytest.param(store("1.2.3.1", b"")[:200] + bytes([4, 0, 0, 0, 0, 1]), id="a PDU too short"),
        pytest.param(wire.pdu(wire.pdv(1, 3, b"junk")), id="a command set that is none"),
    ],
)
def test_nonsense_ends_the_association_and_is_audited(door: Door, content: bytes) -> None:
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        assert sender.tell(content) == "abort"
    assert door.audited(Event.ASSOCIATION_ABORTED)


def test_who_ends_the_gateway_three_times_is_held_off_and_nobody_else(door: Door) -> None:
    door.gateway.on_store = lambda request: fake.CLOSE if request.sop_instance == "1.2.3.1" else 0
    door.start()
    held = []
    for _ in range(3):
        with Sender(door.target) as sender:
            sender.associate()
            assert send(sender, image(1)) == "0xA700"
        held += door.hold_off.gateway_crashed()
    assert held == [("HOSTILE", "127.0.0.1")]
    with Sender(door.target) as sender, pytest.raises(ConnectionRefusedError):
        sender.associate()
    assert list(door.hold_off.held()) == ["127.0.0.1"]


def test_a_restart_of_the_gateway_blames_nobody(door: Door) -> None:
    door.gateway.on_store = lambda request: fake.CLOSE
    door.start()
    for _ in range(4):
        with Sender(door.target) as sender:
            sender.associate()
            assert send(sender, image(1)) == "0xA700"
    assert not door.hold_off.held()


def test_a_first_pdu_that_is_no_request_is_audited(door: Door) -> None:
    door.start()
    with Sender(door.target) as sender:
        sender.send(b"GET / HTTP/1.1\r\n\r\n")
        assert sender.receive()[0] == wire.ABORT
    assert door.audited(Event.ASSOCIATION_REFUSED)


def test_a_connection_that_says_nothing_is_not_even_accepted(door: Door) -> None:
    door.start()
    with ExitStack() as stack:
        for _ in range(200):  # more than may negotiate at once
            stack.enter_context(socket.create_connection((door.target.host, door.target.port)))
        assert wire.store_image(door.target, image()) == "0x0000"
    assert not [text for event, text, _ in door.events if event is Event.ASSOCIATION_REFUSED]


def test_a_stop_ends_idle_associations_and_waits_for_the_image_under_way(door: Door) -> None:
    door.gateway.on_store = lambda request: fake.HANG
    door.start()
    with Sender(door.target) as busy, Sender(door.target) as idle:
        busy.associate()
        idle.associate()
        busy.send(store("1.2.3.1", image().encoded()))
        wait_until(lambda: door.gateway.hangs)
        assert not door.acceptor.stop(0.3)
        assert idle.answer() == "abort"
        door.gateway.released.set()
        assert busy.answer() == "0x0000"
        assert busy.answer() == "abort"
    assert door.acceptor.stop(5)


def standing(door: Door) -> list[str]:
    """Kinds of the refusals that are problems now."""
    return [reason.kind for sender in door.senders.status() for reason in sender.reasons if reason.standing]


def test_normal_traffic_and_port_scans_are_no_problem(door: Door) -> None:
    door.timing = QUICK
    door.start()
    assert wire.echo(door.target)
    with Sender(door.target) as long_list:
        long_list.associate(
            wire.context(1, wire.CT),
            wire.context(3, wire.CT, ["1.2.840.10008.1.2.4.201"]),
            wire.context(5, "1.2.840.10008.5.1.4.39.1"),
            wire.context(7, "1.2.840.10008.5.1.4.1.2.2.1"),
        )
        assert send(long_list, image()) == "0x0000"  # and it closes without a release
    with Sender(door.target) as released:
        released.associate()
        released.send(pdu.release_request())
        assert released.receive()[0] == pdu.RELEASE_RESPONSE
    with Sender(door.target) as idle:
        idle.associate()
        assert idle.answer() == "abort"
    with socket.create_connection((door.target.host, door.target.port)):
        pass
    with Sender(door.target) as scan:
        scan.send(b"GET / HTTP/1.1\r\n\r\n")
        scan.receive()
    door.audited(Event.CONTEXT_REFUSED)
    door.audited(Event.ASSOCIATION_REFUSED)
    door.audited(Event.ASSOCIATION_ABORTED)
    wait_until(lambda: door.count.open == 0)
    assert standing(door) == []
    assert not any(event is Event.IMAGE_REFUSED for event, _, _ in door.events)


def test_a_refused_modality_is_a_problem(door: Door) -> None:
    door.gateway.on_store = lambda request: 0xC000
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        assert send(sender, image()) == "0xC000"
    with Sender(door.target) as sender:
        sender.send(wire.association("ORTHANC1", [wire.context(1, wire.CT, ["1.2.840.10008.1.2.4.201"])]))
        sender.receive()
    with Sender(door.target) as sender:
        sender.associate()
        sender.send(store("1.2.3.1", bytes(50_000))[:20_000])
    wait_until(lambda: door.count.open == 0)
    with Sender(replace(door.target, called="WRONG")) as sender, pytest.raises(ConnectionRefusedError):
        sender.associate()
    wait_until(
        lambda: (
            set(standing(door))
            == {"image", "every presentation context", "association", "unfinished message"}
        )
    )


@pytest.mark.parametrize("outcome", [0xC000, fake.DROP, fake.HANG, fake.CLOSE])
def test_the_audit_record_of_a_refused_image_names_the_image_and_its_study(
    door: Door, outcome: int | str
) -> None:
    door.timing = QUICK
    door.gateway.on_store = lambda request: outcome
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        status = send(sender, image())
    door.audited(Event.IMAGE_REFUSED)
    fields = next(fields for event, _, fields in door.events if event is Event.IMAGE_REFUSED)
    assert fields == {
        "DDWD_EVENT": "image-refused",
        "DDWD_AET": "HOSTILE",
        "DDWD_ADDRESS": "127.0.0.1",
        "DDWD_PEER": "gateway",
        "DDWD_STATUS": status,
        "DDWD_SOP_CLASS": wire.CT,
        "DDWD_SOP_UID": "1.2.3.1",
        "DDWD_STUDY_UID": "1.2.3",
    }
