"""Follow the PDUs in a stream of bytes that is passed on: where messages end, their command sets, all other PDUs. Pure.

A data set is neither copied nor decoded. P-DATA-TF: PS3.8 section 9.3.5; presentation data values: annex E.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

P_DATA_TF = 0x04
MAX_P_DATA = 16 * 1024 * 1024
"""Longest P-DATA-TF that is followed, in bytes; it is never held as a whole."""
MAX_CONTROL = 1024 * 1024
"""Longest other PDU in bytes: the largest sound A-ASSOCIATE-RQ (128 contexts of 45 transfer syntaxes) has about 400 KiB."""
HEAD_BYTES = 16 * 1024
"""Bytes of the beginning of a data set that are kept: with most objects all identifiers are in them."""
_COMMAND_BYTES = 64 * 1024
_HEADER_BYTES = 6
_PDU, _PDV = struct.Struct(">BxL"), struct.Struct(">LBB")
_COMMAND, _LAST = 0x01, 0x02


class Data(NamedTuple):
    """Bytes of P-DATA-TF PDUs, to be passed on as they are. Ends where a command set or a data set ends, or with the chunk."""

    content: memoryview
    ends_data_set: bool


class CommandEnd(NamedTuple):
    """The last byte of a command set has come."""

    context_id: int
    command: bytes


class DataSetEnd(NamedTuple):
    """The last byte of a data set has come: its `size` in bytes, and its first HEAD_BYTES."""

    context_id: int
    size: int
    head: bytes


class Control(NamedTuple):
    """A whole PDU that is no P-DATA-TF: its type, and what follows its header."""

    kind: int
    body: bytes


class PduScanner:
    """Splits the bytes of one direction of one association; `feed` each chunk in its order."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._control = bytearray()
        self._pdu_left = 0
        self._pdv_left = 0
        self._context_id = 0
        self._flags = 0
        self._command = bytearray()
        self._head = bytearray()
        self._size = 0

    @property
    def is_inside(self) -> bool:
        """Return whether a PDU, a command set or a data set has begun and not ended."""
        return bool(self._header or self._control or self._pdu_left or self._command or self._size)

    def feed(self, chunk: memoryview) -> Iterator[Data | CommandEnd | DataSetEnd | Control]:
        """Yield the pieces of a chunk in their order. Raises ValueError at what no association may contain."""
        start = position = 0
        while position < len(chunk):
            if self._control or self._begins_control(chunk[position]):
                if position > start:
                    yield Data(chunk[start:position], ends_data_set=False)
                position = start = self._gather_control(chunk, position)
                if whole := self._whole_control():
                    yield whole
                continue
            position, ended = self._step(chunk, position)
            if ended:
                yield Data(chunk[start:position], isinstance(ended, DataSetEnd))
                start = position
                yield ended
        if position > start:
            yield Data(chunk[start:position], ends_data_set=False)

    def _begins_control(self, kind: int) -> bool:
        return not self._pdu_left and not self._header and kind != P_DATA_TF

    def _gather_control(self, chunk: memoryview, position: int) -> int:
        missing = _HEADER_BYTES - len(self._control)
        if missing <= 0:
            missing += self._control_length()
        end = position + missing
        self._control += chunk[position:end]
        return min(end, len(chunk))

    def _whole_control(self) -> Control | None:
        if len(self._control) < _HEADER_BYTES or len(self._control) < _HEADER_BYTES + self._control_length():
            return None
        whole = Control(self._control[0], bytes(self._control[_HEADER_BYTES:]))
        self._control.clear()
        return whole

    def _control_length(self) -> int:
        length = int(_PDU.unpack_from(self._control)[1])
        if length > MAX_CONTROL:
            raise ValueError(f"a PDU of type {self._control[0]} and {length} bytes")
        return length

    def _step(self, chunk: memoryview, position: int) -> tuple[int, CommandEnd | DataSetEnd | None]:
        """Take the rest of a presentation data value, or of a header; return where it ends, and the end of a message part if there is one."""
        if self._pdv_left:
            content = chunk[position : position + self._pdv_left]
            self._pdv_left -= len(content)
            self._pdu_left -= len(content)
            self._take(content)
            return position + len(content), self._end_of_value()
        taken = chunk[position : position + _HEADER_BYTES - len(self._header)]
        self._header += taken
        position += len(taken)
        if len(self._header) < _HEADER_BYTES:
            return position, None
        header = bytes(self._header)
        self._header.clear()
        if not self._pdu_left:
            self._begin_pdu(header)
            return position, None
        self._begin_value(header)
        return position, self._end_of_value()

    def _begin_pdu(self, header: bytes) -> None:
        _, self._pdu_left = _PDU.unpack(header)
        if not _HEADER_BYTES <= self._pdu_left <= MAX_P_DATA:
            raise ValueError(f"a P-DATA-TF of {self._pdu_left} bytes")

    def _begin_value(self, header: bytes) -> None:
        length, context_id, self._flags = _PDV.unpack(header)
        self._pdu_left -= _HEADER_BYTES
        self._pdv_left = length - 2
        rest = self._pdu_left - self._pdv_left
        if self._pdv_left < 0 or (rest != 0 and rest < _HEADER_BYTES):
            raise ValueError("a presentation data value that overruns its PDU")
        if (self._command or self._size) and context_id != self._context_id:
            raise ValueError("a message in more than one presentation context")
        self._context_id = context_id

    def _take(self, content: memoryview) -> None:
        if self._flags & _COMMAND:
            self._command += content
            if len(self._command) > _COMMAND_BYTES:
                raise ValueError("a command set without an end")
            return
        self._size += len(content)
        if len(self._head) < HEAD_BYTES:
            self._head += content[: HEAD_BYTES - len(self._head)]

    def _end_of_value(self) -> CommandEnd | DataSetEnd | None:
        if self._pdv_left or not self._flags & _LAST:
            return None
        if self._flags & _COMMAND:
            command, self._command = bytes(self._command), bytearray()
            return CommandEnd(self._context_id, command)
        ended = DataSetEnd(self._context_id, self._size, bytes(self._head))
        self._size = 0
        self._head = bytearray()
        return ended
