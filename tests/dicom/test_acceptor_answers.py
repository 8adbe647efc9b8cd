"""Rows of docs/senders.md that no other test holds: limits, hold-off, certificates, how an association ends, what ORTHANC1's filter refuses."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ddwd.acceptor import listener
from ddwd.acceptor.channel import Channel
from ddwd.acceptor.limits import Limits, Negotiations
from ddwd.acceptor.listener import Service
from ddwd.acceptor.relay import Timing
from ddwd.config import tls
from ddwd.config.schema import Config
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import SystemClock
from ddwd.daemon import acceptor as daemon
from ddwd.dicom import association_pdu as pdu
from ddwd.orthanc.plugin.verdicts import Verdicts, report
from tests import certificates
from tests.dicom import gateway as fake
from tests.dicom.conftest import wait_until
from tests.dicom.test_acceptor import QUICK, SLOW, Door, image, send, standing
from tests.hostile import wire
from tests.hostile.wire import Sender, store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ddwd.dicom.command import StoreRequest

LIMIT_EXCEEDED, CONGESTION = (2, 3, 2), (2, 3, 1)
"""Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""


@pytest.fixture
def door() -> Iterator[Door]:
    """An acceptor that is not started yet; a test may change its settings first."""
    made = Door(fake.Gateway())
    yield made
    made.acceptor.stop(5)
    made.gateway.stop()


def rejection(sender: Sender) -> tuple[int, ...]:
    """Request an association that is rejected; return result, source and reason."""
    sender.send(wire.association("ORTHANC1"))
    kind, body = sender.receive()
    assert kind == wire.REJECTED
    return tuple(body[1:4])


def texts(door: Door, event: Event) -> list[str]:
    """The audit records of that event."""
    return [text for one, text, _ in door.events if one is event]


# --- associations -------------------------------------------------------------------------------------------------------


def test_the_figures_that_the_page_names() -> None:
    assert Service("ORTHANC1", 4252, lambda *_: True, lambda _: True).patience == 8
    assert (Timing().answer, Timing().silence, Timing().rest) == (25, 120, 3600)
    assert Negotiations().places == 128


def test_a_peer_that_does_not_answer_the_kernel_is_gone_after_two_minutes() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
        closing(Channel(one)),
    ):
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, between, tries = (
            one.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
    assert idle + between * tries == 120


def test_all_senders_together_cannot_have_more_than_the_limit(door: Door) -> None:
    door.limits = Limits(total=2, one_address=2)
    door.start()
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Sender(door.target)).associate()
        other = stack.enter_context(
            socket.create_connection((door.target.host, door.target.port), source_address=("127.0.0.2", 0))
        )
        other.sendall(wire.association("ORTHANC1"))
        assert tuple(other.recv(10)[7:10]) == LIMIT_EXCEEDED
        assert "127.0.0.2 refused: all 2 associations are in use" in door.audited(Event.ASSOCIATION_REFUSED)


def test_three_crashes_of_the_gateway_hold_a_sender_off_and_are_audited(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit(lambda event, text, fields: door.events.append((event, text, fields)))
    monkeypatch.setattr(daemon, "Audit", lambda: audit)
    monkeypatch.setattr(daemon, "Verdicts", lambda _path: None)
    gateway = replace(Config().gateway, orthanc_port=door.gateway.port)
    running = daemon.AcceptorDaemon(replace(Config(), run_dir=tmp_path, gateway=gateway), SystemClock())
    door.acceptor = running._acceptor
    target = wire.Target("127.0.0.1", door.acceptor.listen("127.0.0.1", 0), "ORTHANC1", None)
    door.gateway.on_store = lambda _request: fake.CLOSE
    (tmp_path / "acceptor").mkdir()
    (tmp_path / "gateway").mkdir()
    for _ in range(3):
        assert wire.store_image(target, image()) == "0xA700"
        # as the unit of ORTHANC1 does when it ends by a fault
        (tmp_path / "gateway/fault").write_text("SEGV")
        running._beat()
    with Sender(target) as sender:
        assert rejection(sender) == LIMIT_EXCEEDED
    assert "127.0.0.1 refused: held off for 10 minutes more" in door.audited(Event.ASSOCIATION_REFUSED)
    assert texts(door, Event.SENDER_HELD_OFF) == [
        "associations of 127.0.0.1 are rejected for 10 minutes: images of HOSTILE ended ORTHANC1 three times"
    ]


def test_a_gateway_that_is_down_is_waited_for_and_then_a_congestion(door: Door) -> None:
    door.patience = 1.5
    door.start()
    door.gateway.stop()
    began = time.monotonic()
    with Sender(door.target) as sender:
        assert rejection(sender) == CONGESTION
    assert time.monotonic() - began >= 1.5
    with Sender(door.target) as sender:
        sender.send(wire.association("ORTHANC1"))
        door.gateway.start()
        assert sender.receive()[0] == wire.ACCEPTED


def test_a_request_that_does_not_come_whole_is_closed_and_no_event(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listener._REQUEST_SECONDS == 10
    monkeypatch.setattr(listener, "_REQUEST_SECONDS", 0.2)
    door.start()
    with Sender(door.target) as sender:
        sender.send(wire.association("ORTHANC1")[:50])
        assert sender.receive()[0] == wire.CLOSED
    assert door.events == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP"),
        pytest.param(store("1.2.3.1", b"")[:20], id="a message without an association"),
        pytest.param(wire.pdu(b"abcd", kind=1), id="an A-ASSOCIATE-RQ that is none"),
    ],
)
def test_what_is_not_dicom_is_aborted_audited_and_no_problem(door: Door, content: bytes) -> None:
    door.start()
    with Sender(door.target) as sender:
        sender.send(content)
        assert sender.receive()[0] == wire.ABORT
    assert "connection of no AE title at 127.0.0.1 refused" in door.audited(Event.ASSOCIATION_REFUSED)
    assert standing(door) == []


COMMAND = wire.pdu(wire.pdv(wire.STORE, wire.COMMAND | wire.LAST, wire.command(*wire.request("1.2.3.1"))))
"""The command set of a C-STORE-RQ, without the data set that has to follow."""


@pytest.mark.parametrize(
    ("last", "said", "problems"),
    [
        (COMMAND, "it closed the connection in the middle of a message", ["unfinished message"]),
        (COMMAND + pdu.abort(), "it aborted in the middle of a message", ["unfinished message"]),
        (b"", "it closed the connection without a release", []),
        (pdu.abort(), "it aborted", []),
    ],
    ids=["closed in an image", "aborted in an image", "closed", "aborted"],
)
def test_an_association_without_a_release_is_audited_and_a_problem_only_in_the_middle_of_an_image(
    door: Door, last: bytes, said: str, problems: list[str]
) -> None:
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        sender.send(last)
    assert said in door.audited(Event.ASSOCIATION_ABORTED)
    assert standing(door) == problems


def test_an_idle_association_is_ended_in_the_end_and_is_no_problem(door: Door) -> None:
    door.timing = QUICK
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        assert sender.answer() == "abort"
    assert "it sent nothing for" in door.audited(Event.ASSOCIATION_ABORTED)
    assert standing(door) == []


# --- TLS ----------------------------------------------------------------------------------------------------------------


def secured(door: Door) -> int:
    """Start the acceptor with a port for TLS, and return that port."""
    door.start()
    config = certificates.with_tls(Config(), certificates.own())
    config = replace(config, tls=replace(config.tls, gateway="only"))
    return door.acceptor.listen("127.0.0.1", 0, tls.of_gateway(config))


def associate_by_tls(port: int, issuer: Path | None) -> int:
    """Return the kind of PDU that answers a request with CT1's certificate of that folder, or with none. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(certificates.own() / "ca.pem")
    if issuer is not None:
        context.load_cert_chain(issuer / "issued/CT1.pem", issuer / "issued/CT1.key")
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as connection:
        connection.sendall(wire.association("ORTHANC1"))
        return connection.recv(1)[0]


def test_a_certificate_of_another_authority_ends_the_handshake_and_is_a_problem(door: Door) -> None:
    port = secured(door)
    assert associate_by_tls(port, certificates.own()) == wire.ACCEPTED
    with pytest.raises(OSError, match=r"unknown ca|EOF|reset"):
        associate_by_tls(port, certificates.strangers())
    assert "TLS: unable to get local issuer certificate" in door.audited(Event.ASSOCIATION_REFUSED)
    assert standing(door) == ["certificate"]


def test_no_certificate_and_no_tls_end_the_handshake_and_are_no_problem(door: Door) -> None:
    port = secured(door)
    with pytest.raises(OSError):  # an alert, or the end of the connection if that comes first
        associate_by_tls(port, None)
    with Sender(replace(door.target, port=port)) as sender:
        sender.send(wire.association("ORTHANC1"))
        assert sender.receive()[0] == wire.CLOSED
    wait_until(lambda: len(texts(door, Event.ASSOCIATION_REFUSED)) == 2)
    assert all("connection of no AE title" in text for text in texts(door, Event.ASSOCIATION_REFUSED))
    assert standing(door) == []


# --- images -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "status", "reason"),
    [
        ("no space", "0xA700", "the disk has less free space than disk.reserve"),
        ("too deep", "0xC000", "its sequences are nested too deep: ORTHANC1 would crash"),
    ],
)
def test_what_the_admission_filter_refuses_has_its_reason_and_the_next_image_is_taken(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: str, status: str, reason: str
) -> None:
    path = tmp_path / "verdicts"

    def refuse(request: StoreRequest) -> int:
        if request.sop_instance != "1.2.3.1":
            return 0
        report(str(path), request.sop_instance, verdict)
        return 0xA700

    door.gateway.on_store = refuse
    with closing(Verdicts(path)) as verdicts:
        door.verdicts = verdicts
        door.start()
        with Sender(door.target) as sender:
            sender.associate()
            assert [send(sender, image(number)) for number in (1, 2)] == [status, "0x0000"]
        assert f"refused with status {status}: {reason}" in door.audited(Event.IMAGE_REFUSED)


def test_an_image_that_comes_while_the_gateway_is_down_is_refused_and_the_next_one_taken(door: Door) -> None:
    door.timing = replace(SLOW, idle=0.05)
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        wait_until(lambda: door.gateway.open == 0)
        door.gateway.stop()
        assert send(sender, image(1)) == "0xA700"
        assert "0xA700: ORTHANC1 is down" in door.audited(Event.IMAGE_REFUSED)
        door.gateway.start()
        assert send(sender, image(2)) == "0x0000"


def test_a_gateway_has_a_second_more_for_each_10_mb(door: Door) -> None:
    door.timing = replace(QUICK, answer=0.2, silence=60.0)

    def slowly(_request: object) -> int:
        time.sleep(1.5)
        return 0

    door.gateway.on_store = slowly
    door.start()
    with Sender(door.target) as sender:
        sender.associate()
        assert sender.tell(store("1.2.3.1", bytes(40_000_000))) == "0x0000"
        assert sender.tell(store("1.2.3.2", bytes(1000))) == "0xA700"
