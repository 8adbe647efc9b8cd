"""Association PDUs are read as pynetdicom writes them, and refused where they are malformed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_RJ

from ddwd.dicom import association_pdu as pdu
from tests.hostile import wire

REQUEST = wire.association(
    "ORTHANC1", [wire.context(1, wire.CT, ["1.2.3", "1.2.4"]), wire.context(3, "1.2.5")], longest=16384
)[6:]
ANSWER = (
    bytes(68)
    + wire.item(0x10, b"1.2.840.10008.3.1.1.1")
    + wire.item(0x21, bytes([1, 0, 0, 0]) + wire.item(0x40, b"1.2.3"))
    + wire.item(0x21, bytes([3, 0, 3, 0]) + wire.item(0x40, b""))
)


def test_a_request_is_read() -> None:
    request = pdu.read_request(REQUEST)
    assert (request.called, request.calling, request.longest) == ("ORTHANC1", "HOSTILE", 16384)
    assert request.proposals == {
        1: pdu.Proposal(wire.CT, ("1.2.3", "1.2.4")),
        3: pdu.Proposal("1.2.5", (wire.EXPLICIT,)),
    }


def test_an_answer_is_read_with_the_place_of_each_result() -> None:
    answers = pdu.read_answers(ANSWER)
    assert {number: (one.result, one.transfer_syntax) for number, one in answers.items()} == {
        1: (0, "1.2.3"),
        3: (3, ""),
    }
    assert [ANSWER[one.offset] for one in answers.values()] == [0, 3]


def test_another_called_title_changes_nothing_else() -> None:
    changed = pdu.with_called(REQUEST, "OTHER")
    assert pdu.read_request(changed).called == "OTHER"
    assert pdu.with_called(changed, "ORTHANC1") == REQUEST


def test_a_rejection_is_what_pynetdicom_reads() -> None:
    read = A_ASSOCIATE_RJ()
    read.decode(pdu.reject(pdu.LIMIT_EXCEEDED))
    assert (read.result, read.source, read.reason_diagnostic) == (2, 3, 2)


@given(st.data())
def test_a_damaged_request_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    damaged = bytearray(REQUEST)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for read in (pdu.read_request, pdu.read_answers):
        try:
            read(cut)
        except ValueError:
            continue


def test_a_request_without_titles_is_refused() -> None:
    with pytest.raises(ValueError, match="AE titles"):
        pdu.read_request(bytes(20))
