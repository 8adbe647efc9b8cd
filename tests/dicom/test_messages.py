"""What the SCP makes of messages however a peer cuts them into PDVs and PDUs; over a raw socket, against the encoding itself."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from ddwd.dicom.upper_layer import UpperLayer
from tests.dicom.conftest import wait_until
from tests.dicom.test_store import CT, body_of, data_set
from tests.hostile import wire
from tests.hostile.wire import (
    COMMAND,
    DATA,
    ECHO,
    LAST,
    STORE,
    VERIFICATION,
    Sender,
    Target,
    command,
    element,
    pdu,
    pdv,
    short,
    uid,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.dicom.conftest import Portal

SOP = "1.2.3.4"


def request(sop_uid: str = SOP, message_id: int = 1) -> tuple[bytes, ...]:
    """The elements of a C-STORE-RQ."""
    return wire.request(sop_uid, CT, message_id)


ECHO_REQUEST = command(
    uid(0x0002, VERIFICATION), short(0x0100, 0x0030), short(0x0110, 9), short(0x0800, 0x0101)
)


class Raw(Sender):
    """A requestor that sends whatever it is told, in an established association."""

    def __init__(self, portal: Portal, longest: int) -> None:
        super().__init__(Target("127.0.0.1", portal.scp.port, portal.config.scp.aet, None))
        self.associate(longest=longest)

    def is_aborted(self) -> bool:
        return self.receive()[0] == 7

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
def raw(portal: Portal) -> Iterator[Raw]:
    """An established association."""
    one = Raw(portal, 0)
    yield one
    one.close()


def stored(portal: Portal) -> list[bytes]:
    return [body_of(path) for path in portal.spooled()]


def nothing_stays(portal: Portal) -> bool:
    """Whether no file is there, or is about to go."""
    wait_until(lambda: not portal.unfinished())
    return (portal.unfinished(), portal.spooled()) == ([], [])


def test_a_command_set_in_pieces_over_several_pdvs_and_pdus(portal: Portal, raw: Raw) -> None:
    whole = command(*request())
    raw.send(pdu(pdv(STORE, COMMAND, whole[:3]), pdv(STORE, COMMAND, whole[3:40])))
    raw.send(pdu(pdv(STORE, COMMAND, whole[40:41])))
    raw.send(pdu(pdv(STORE, COMMAND | LAST, whole[41:])))
    raw.send(pdu(pdv(STORE, DATA | LAST, data_set())))
    assert raw.status() == 0
    assert stored(portal) == [data_set()]


def test_command_and_data_set_in_one_pdu_in_fragments_of_odd_sizes(portal: Portal, raw: Raw) -> None:
    whole = data_set(body=bytes(range(256)) * 40)
    pieces = [whole[start : start + 777] for start in range(0, len(whole), 777)]
    values = [pdv(STORE, DATA, piece) for piece in pieces[:-1]] + [pdv(STORE, DATA | LAST, pieces[-1])]
    raw.send(pdu(pdv(STORE, COMMAND | LAST, command(*request())), *values[:3]))
    raw.send(pdu(*values[3:5]) + pdu(*values[5:]))
    assert raw.status() == 0
    assert stored(portal) == [whole]


def test_two_messages_in_one_pdu_are_two_objects(portal: Portal, raw: Raw) -> None:
    raw.send(
        pdu(
            *(
                value
                for sop in ("1.2.3.5", "1.2.3.6")
                for value in (
                    pdv(STORE, COMMAND | LAST, command(*request(sop))),
                    pdv(STORE, DATA | LAST, data_set(sop)),
                )
            )
        )
    )
    assert (raw.status(), raw.status()) == (0, 0)
    assert sorted(stored(portal)) == sorted([data_set("1.2.3.5"), data_set("1.2.3.6")])


def test_bytes_that_come_one_by_one_are_put_together(portal: Portal, raw: Raw) -> None:
    content = pdu(pdv(STORE, COMMAND | LAST, command(*request()))) + pdu(pdv(STORE, DATA | LAST, data_set()))
    for position in range(len(content)):
        raw.send(content[position : position + 1])
    assert raw.status() == 0
    assert stored(portal) == [data_set()]


def test_many_objects_sent_without_waiting_are_answered_in_order(portal: Portal, raw: Raw) -> None:
    """The asynchronous window is not negotiated, but nothing may be lost where a peer runs ahead."""
    for number in range(20):
        sop = f"1.2.3.{number}"
        raw.send(
            pdu(pdv(STORE, COMMAND | LAST, command(*request(sop))))
            + pdu(pdv(STORE, DATA | LAST, data_set(sop, bytes(5000))))
        )
    assert [raw.status() for _ in range(20)] == [0] * 20
    assert len(portal.spooled()) == 20


def test_an_echo_between_two_objects_is_answered(portal: Portal, raw: Raw) -> None:
    for sop in ("1.2.3.7", "1.2.3.8"):
        raw.send(
            pdu(pdv(STORE, COMMAND | LAST, command(*request(sop))), pdv(STORE, DATA | LAST, data_set(sop)))
        )
        assert raw.status() == 0
        raw.send(pdu(pdv(ECHO, COMMAND, ECHO_REQUEST[:20]), pdv(ECHO, COMMAND | LAST, ECHO_REQUEST[20:])))
        assert raw.status() == 0
    assert len(portal.spooled()) == 2
    raw.send(struct.pack(">BxL4x", 5, 4))
    assert raw.receive()[0] == 6


def test_unknown_elements_a_wrong_group_length_and_a_move_originator_do_not_matter(
    portal: Portal, raw: Raw
) -> None:
    extra = (element(0x1030, b"ORTHANC2"), short(0x1031, 7), element(0x5555, b"unknown!"))
    raw.send(pdu(pdv(STORE, COMMAND | LAST, command(*request(), *extra, group_length=7))))
    raw.send(pdu(pdv(STORE, DATA | LAST, data_set())))
    assert raw.status() == 0
    assert stored(portal) == [data_set()]


@pytest.mark.parametrize("missing", [0, 3, 5])
def test_a_command_set_that_lacks_a_mandatory_element_is_refused(
    portal: Portal, raw: Raw, missing: int
) -> None:
    elements = [one for index, one in enumerate(request()) if index != missing]
    raw.send(pdu(pdv(STORE, COMMAND | LAST, command(*elements)), pdv(STORE, DATA | LAST, data_set())))
    assert raw.status() == 0xA900
    assert nothing_stays(portal)


def test_an_object_without_a_data_set_is_refused(portal: Portal, raw: Raw) -> None:
    elements = [*request()[:4], short(0x0800, 0x0101), uid(0x1000, SOP)]
    raw.send(pdu(pdv(STORE, COMMAND | LAST, command(*elements))))
    assert raw.status() == 0xA900
    assert nothing_stays(portal)


MALFORMED = {
    "an element overruns the command set": (*request()[:5], element(0x1000, b"1.2", 4000)),
    "a number of four bytes": (*request()[:2], element(0x0110, bytes(4)), *request()[3:]),
    "no message ID": (*request()[:2], *request()[3:]),
    "no data set type": (*request()[:4], request()[5]),
    "another group": (*request(), struct.pack("<HHL", 8, 0x16, 0)),
    "half an element": (*request(), b"\0\0\0"),
    "an endless UID": (*request()[:5], uid(0x1000, "1." * 40 + "1")),
}


@pytest.mark.parametrize("elements", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_command_set_aborts_its_association_only(
    portal: Portal, raw: Raw, elements: tuple[bytes, ...]
) -> None:
    raw.send(pdu(pdv(STORE, COMMAND | LAST, command(*elements)), pdv(STORE, DATA | LAST, data_set())))
    assert raw.is_aborted()
    assert nothing_stays(portal)
    assert portal.scp.answers()


OUT_OF_ORDER = {
    "a data set before its command set": (pdv(STORE, DATA | LAST, data_set()),),
    "a command set within a data set": (
        pdv(STORE, COMMAND | LAST, command(*request())),
        pdv(STORE, DATA, data_set()),
        pdv(STORE, COMMAND | LAST, command(*request())),
    ),
    "a data set in another context": (
        pdv(STORE, COMMAND | LAST, command(*request())),
        pdv(ECHO, DATA | LAST, data_set()),
    ),
    "a context that was not accepted": (
        pdv(77, COMMAND | LAST, command(*request())),
        pdv(77, DATA | LAST, data_set()),
    ),
    "a value that overruns its PDU": (struct.pack(">LBB", 400, STORE, COMMAND),),
    "a value without a control header": (struct.pack(">LB", 1, STORE),),
}


@pytest.mark.parametrize("values", OUT_OF_ORDER.values(), ids=OUT_OF_ORDER)
def test_fragments_out_of_order_abort_the_association_and_leave_nothing(
    portal: Portal, raw: Raw, values: tuple[bytes, ...]
) -> None:
    raw.send(pdu(*values))
    assert raw.is_aborted()
    assert nothing_stays(portal)


def test_a_command_set_without_an_end_aborts(portal: Portal, raw: Raw) -> None:
    for _ in range(9):
        raw.send(pdu(pdv(STORE, COMMAND, bytes(8000))))
    assert raw.is_aborted()
    assert portal.scp.answers()


def test_without_a_last_fragment_there_is_no_answer_and_no_file(portal: Portal, raw: Raw) -> None:
    raw.send(pdu(pdv(STORE, COMMAND | LAST, command(*request())), pdv(STORE, DATA, data_set())))
    portal.wait_begun()
    raw.close()
    assert nothing_stays(portal)


def test_half_a_pdu_ends_in_time(portal: Portal) -> None:
    portal.hurry(transfer=0.5)
    raw = Raw(portal, 0)
    raw.send(pdu(pdv(STORE, COMMAND | LAST, command(*request()))) + pdu(pdv(STORE, DATA, bytes(5000)))[:900])
    assert raw.receive()[0] in {0, 7}
    assert nothing_stays(portal)
    raw.close()


def test_a_peer_that_takes_small_pdus_gets_its_answer_in_pieces(portal: Portal) -> None:
    raw = Raw(portal, 64)
    raw.send(pdu(pdv(STORE, COMMAND | LAST, command(*request())), pdv(STORE, DATA | LAST, data_set())))
    assert raw.status() == 0
    raw.close()


def test_an_event_that_cannot_be_ends_its_association_and_nothing_else(
    portal: Portal, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    """An acceptance can be due when the peer has broken the association already; a thread that died would fail this test."""
    (association,) = portal.scp._open
    reactor = association.dul
    assert isinstance(reactor, UpperLayer)
    reactor.event_queue.put("Evt7")
    reactor.wake()
    assert raw.receive()[0] == 0
    reactor.join()
    assert "an association ends: Invalid event 'Evt7' for the current state 'Sta6'" in caplog.text
    assert portal.scp.answers()
