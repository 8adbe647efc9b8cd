"""The scanner finds the ends of messages and every other PDU, wherever the bytes are cut, and passes data on unchanged."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddwd.dicom.pdu_stream import HEAD_BYTES, MAX_CONTROL, CommandEnd, Control, Data, DataSetEnd, PduScanner
from tests.hostile import wire

if TYPE_CHECKING:
    from collections.abc import Iterable

    End = CommandEnd | DataSetEnd | Control

COMMAND = wire.command(*wire.request("1.2.3"))
STREAM = (
    wire.store("1.2.3", b"first" * 5000)
    + wire.store("1.2.3", b"")
    + wire.pdu(wire.pdv(3, wire.COMMAND | wire.LAST, b"echo"))
    + wire.pdu(b"\0\0\0\0", kind=5)
)


def scan(stream: bytes, cuts: Iterable[int] = ()) -> tuple[bytes, list[End]]:
    """Feed a stream in chunks; return the bytes to pass on, and all other pieces."""
    scanner, passed = PduScanner(), b""
    ends: list[End] = []
    edges = [0, *sorted(cuts), len(stream)]
    for start, end in pairwise(edges):
        for piece in scanner.feed(memoryview(stream)[start:end]):
            if isinstance(piece, Data):
                passed += bytes(piece.content)
            else:
                ends.append(piece)
    assert not scanner.is_inside
    return passed, ends


def test_every_message_end_and_the_release_are_found() -> None:
    passed, ends = scan(STREAM)
    assert passed == STREAM[: -len(wire.pdu(b"\0\0\0\0", kind=5))]
    assert ends == [
        CommandEnd(1, COMMAND),
        DataSetEnd(1, 25000, (b"first" * 5000)[:HEAD_BYTES]),
        CommandEnd(1, COMMAND),
        DataSetEnd(1, 0, b""),
        CommandEnd(3, b"echo"),
        Control(5, b"\0\0\0\0"),
    ]


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_the_same_is_found_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    assert scan(STREAM, cuts) == scan(STREAM)


def test_byte_by_byte() -> None:
    stream = wire.store("1.2.3", b"data") + wire.pdu(bytes(4), kind=7)
    assert scan(stream, range(len(stream))) == scan(stream)


def test_data_ends_with_its_message_so_that_what_follows_can_be_dealt_with_apart() -> None:
    one = wire.store("1.2.3", b"data")
    pieces = list(PduScanner().feed(memoryview(one + one)))
    data = [piece for piece in pieces if isinstance(piece, Data)]
    assert b"".join(bytes(piece.content) for piece in data[:2]) == one
    assert [piece.ends_data_set for piece in data] == [False, True] * 2


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(struct.pack(">BxL", 4, 5), id="a P-DATA-TF too short for a value"),
        pytest.param(struct.pack(">BxL", 4, 0x7FFFFFFF), id="a P-DATA-TF of two gigabytes"),
        pytest.param(struct.pack(">BxL", 1, MAX_CONTROL + 1), id="an endless association request"),
        pytest.param(struct.pack(">BxLLBB", 4, 8, 100, 1, 0), id="a value that overruns its PDU"),
        pytest.param(struct.pack(">BxLLBB", 4, 8, 1, 1, 0), id="a value shorter than its header"),
        pytest.param(struct.pack(">BxLLBBB", 4, 10, 3, 1, 0, 7), id="a rest that is no value"),
        pytest.param(
            wire.pdu(wire.pdv(1, 1, b"a")) + wire.pdu(wire.pdv(3, 1, b"b")), id="two contexts in a message"
        ),
        pytest.param(wire.pdu(wire.pdv(1, 1, bytes(65000))) * 2, id="a command set without an end"),
    ],
)
def test_what_no_association_may_contain_is_refused(stream: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        list(PduScanner().feed(memoryview(stream)))


def test_it_is_inside_a_message_until_its_last_byte() -> None:
    stream = wire.store("1.2.3", b"data")
    command = len(wire.pdu(wire.pdv(1, 3, COMMAND)))
    for end in range(1, len(stream)):
        scanner = PduScanner()
        list(scanner.feed(memoryview(stream)[:end]))
        assert scanner.is_inside is (end != command), end  # between command set and data set the relay knows
