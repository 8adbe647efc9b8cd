"""The PDUs that begin and end an association, read and written without a library, since they are passed on unchanged but for a few bytes.

PS3.8 sections 9.3.2 (A-ASSOCIATE-RQ), 9.3.3 (-AC), 9.3.4 (-RJ), 9.3.6 and 9.3.7 (A-RELEASE), 9.3.8 (A-ABORT). Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REQUEST, ACCEPT, REJECT, RELEASE_REQUEST, RELEASE_RESPONSE, ABORT = 0x01, 0x02, 0x03, 0x05, 0x06, 0x07
_PDU, _ITEM = struct.Struct(">BxL"), struct.Struct(">BxH")
_TITLE_BYTES, _CALLED, _CALLING, _ITEMS = 16, 4, 20, 68
_PROPOSED, _ANSWERED, _ABSTRACT, _SYNTAX, _USER, _MAX_LENGTH = 0x20, 0x21, 0x30, 0x40, 0x50, 0x51
_CONTEXT_HEAD = 4
ACCEPTED = 0


class ContextResult(IntEnum):
    """Result of a presentation context (PS3.8 table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class Rejection(NamedTuple):
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    result: int
    source: int
    reason: int


CALLING_NOT_RECOGNIZED = Rejection(1, 1, 3)
CALLED_NOT_RECOGNIZED = Rejection(1, 1, 7)
CONGESTION = Rejection(2, 3, 1)
LIMIT_EXCEEDED = Rejection(2, 3, 2)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed presentation context."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What an A-ASSOCIATE-RQ says. AE titles are without padding; `longest` is the sender's maximum length of a PDU, 0 is any."""

    called: str
    calling: str
    proposals: Mapping[int, Proposal]
    longest: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A presentation context in an A-ASSOCIATE-AC; `offset` is where its result stands in the body."""

    result: int
    transfer_syntax: str
    offset: int


def read_request(body: bytes) -> Request:
    """Read the body of an A-ASSOCIATE-RQ. Raises ValueError if it is malformed."""
    proposals: dict[int, Proposal] = {}
    longest = 0
    for kind, start, value in _items(body, _ITEMS):
        if kind == _PROPOSED:
            if len(value) < _CONTEXT_HEAD:
                raise ValueError("a presentation context without an ID")
            parts = [
                (part, _uid(uid)) for part, _, uid in _items(body, start + _CONTEXT_HEAD, start + len(value))
            ]
            abstract = next((uid for part, uid in parts if part == _ABSTRACT), "")
            proposals[value[0]] = Proposal(abstract, tuple(uid for part, uid in parts if part == _SYNTAX))
        elif kind == _USER:
            longest = _longest(body, start, len(value))
    return Request(_title(body, _CALLED), _title(body, _CALLING), proposals, longest)


def read_answers(body: bytes) -> dict[int, Answer]:
    """Read the presentation contexts in the body of an A-ASSOCIATE-AC. Raises ValueError if it is malformed."""
    answers: dict[int, Answer] = {}
    for kind, start, value in _items(body, _ITEMS):
        if kind == _ANSWERED:
            if len(value) < _CONTEXT_HEAD:
                raise ValueError("a presentation context without a result")
            syntaxes = [
                _uid(uid)
                for part, _, uid in _items(body, start + _CONTEXT_HEAD, start + len(value))
                if part == _SYNTAX
            ]
            answers[value[0]] = Answer(value[2], syntaxes[0] if syntaxes else "", start + 2)
    return answers


def with_called(body: bytes, title: str) -> bytes:
    """Return the body of an A-ASSOCIATE-RQ with another called AE title."""
    return body[:_CALLED] + title.encode("ascii").ljust(_TITLE_BYTES) + body[_CALLED + _TITLE_BYTES :]


def pdu(kind: int, body: bytes) -> bytes:
    """Return a whole PDU."""
    return _PDU.pack(kind, len(body)) + body


def reject(rejection: Rejection) -> bytes:
    """Return an A-ASSOCIATE-RJ."""
    return pdu(REJECT, bytes((0, *rejection)))


def abort() -> bytes:
    """Return an A-ABORT of the service user, without a reason."""
    return pdu(ABORT, bytes(4))


def release_request() -> bytes:
    """Return an A-RELEASE-RQ."""
    return pdu(RELEASE_REQUEST, bytes(4))


def release_response() -> bytes:
    """Return an A-RELEASE-RP."""
    return pdu(RELEASE_RESPONSE, bytes(4))


def _items(body: bytes, start: int, end: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, offset of the value, and value of each item."""
    end = len(body) if end is None else end
    while start < end:
        if end - start < _ITEM.size:
            raise ValueError("an association PDU ends inside an item")
        kind, length = _ITEM.unpack_from(body, start)
        start += _ITEM.size
        if length > end - start:
            raise ValueError("an item overruns its association PDU")
        yield kind, start, body[start : start + length]
        start += length


def _longest(body: bytes, start: int, length: int) -> int:
    values = (value for kind, _, value in _items(body, start, start + length) if kind == _MAX_LENGTH)
    return int.from_bytes(next(values, b""), "big")


def _title(body: bytes, offset: int) -> str:
    if len(body) < _ITEMS:
        raise ValueError("an association PDU without AE titles")
    return body[offset : offset + _TITLE_BYTES].decode("latin-1").strip(" \0")


def _uid(value: bytes) -> str:
    return value.decode("latin-1").strip(" \0")
