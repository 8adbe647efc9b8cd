"""Read and write the command sets of a C-STORE without a library (PS3.7 sections 6.3.1, 9.3.1 and annex E). Pure.

Command sets are implicit VR little endian, a few hundred bytes, one for each object and one for each answer. pydicom makes
a Dataset of each and pynetdicom a primitive and a message: more time than all other work of a small C-STORE.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_C_STORE_RQ, _C_STORE_RSP = 0x0001, 0x8001
_GROUP_LENGTH, _SOP_CLASS, _COMMAND_FIELD, _MESSAGE_ID, _RESPONDED_TO = 0x0000, 0x0002, 0x0100, 0x0110, 0x0120
_PRIORITY, _DATA_SET_TYPE, _STATUS, _SOP_INSTANCE = 0x0700, 0x0800, 0x0900, 0x1000
_NO_DATA_SET = 0x0101
UID_CHARACTERS = 64
_HEADER, _US, _UL = struct.Struct("<HHL"), struct.Struct("<H"), struct.Struct("<L")
_PDU = struct.Struct(">BxLLBB")
_P_DATA_TF, _COMMAND, _LAST = 0x04, 0x01, 0x02  # PS3.8 sections 9.3.5 and E.2
_AROUND = 6
"""Bytes of a P-DATA-TF that its one presentation data value adds to a fragment: length, context ID, control header."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE-RQ. UIDs are without padding, empty where absent; `is_whole`: all mandatory elements are present."""

    message_id: int
    sop_class: str
    sop_instance: str
    has_data_set: bool
    is_whole: bool


def read_store(command: bytes | bytearray, longest_uid: int = UID_CHARACTERS) -> StoreRequest | None:
    """Read a whole command set; None if it is of another service. The group length is not used.

    Raises ValueError if it is malformed, or could not be answered.
    """
    values = _elements(command)
    if _short(values, _COMMAND_FIELD) != _C_STORE_RQ or _RESPONDED_TO in values:
        return None
    message_id, data_set_type = _short(values, _MESSAGE_ID), _short(values, _DATA_SET_TYPE)
    if message_id is None or data_set_type is None:
        raise ValueError("a C-STORE-RQ that cannot be answered")
    sop_class, sop_instance = _uid(values, _SOP_CLASS, longest_uid), _uid(values, _SOP_INSTANCE, longest_uid)
    has_data_set = data_set_type != _NO_DATA_SET
    is_whole = bool(sop_class and sop_instance and has_data_set and _short(values, _PRIORITY) is not None)
    return StoreRequest(message_id, sop_class, sop_instance, has_data_set, is_whole)


def response_status(command: bytes | bytearray) -> int | None:
    """Return the status of a response; None if the command set is no response, or has no status. Raises ValueError if it is malformed."""
    values = _elements(command)
    return _short(values, _STATUS) if _RESPONDED_TO in values else None


def has_data_set(command: bytes | bytearray) -> bool:
    """Return whether a data set follows the command set. Raises ValueError if it is malformed."""
    return _short(_elements(command), _DATA_SET_TYPE) not in {None, _NO_DATA_SET}


def store_response(request: StoreRequest, status: int, context_id: int, longest: int) -> bytes:
    """Return the C-STORE-RSP, in P-DATA-TF PDUs of at most the peer's maximum length (0: any)."""
    elements = (
        (_SOP_CLASS, request.sop_class),
        (_COMMAND_FIELD, _C_STORE_RSP),
        (_RESPONDED_TO, request.message_id),
        (_DATA_SET_TYPE, _NO_DATA_SET),
        (_STATUS, status),
        (_SOP_INSTANCE, request.sop_instance),
    )
    command = b"".join(_element(number, value) for number, value in elements)
    command = _HEADER.pack(0, _GROUP_LENGTH, 4) + _UL.pack(len(command)) + command
    size = max(longest - _AROUND, 2) & ~1 if longest else len(command)
    return b"".join(
        _fragment(command[start : start + size], context_id, is_last=start + size >= len(command))
        for start in range(0, len(command), size)
    )


def _elements(command: bytes | bytearray) -> dict[int, bytes]:
    """Return the values by element number; all are of group 0000."""
    values: dict[int, bytes] = {}
    position, end = 0, len(command)
    while position < end:
        if end - position < _HEADER.size:
            raise ValueError("a command set ends inside an element")
        group, element, length = _HEADER.unpack_from(command, position)
        position += _HEADER.size
        if group or length > end - position:
            raise ValueError("a command set has an element of another group, or one that overruns it")
        values[element] = bytes(command[position : position + length])
        position += length
    return values


def _short(values: dict[int, bytes], element: int) -> int | None:
    """Return an unsigned short; None if absent or empty."""
    value = values.get(element, b"")
    if not value:
        return None
    if len(value) != _US.size:
        raise ValueError("a number of a command set has the wrong length")
    return int(_US.unpack(value)[0])


def _uid(values: dict[int, bytes], element: int, longest: int) -> str:
    uid = values.get(element, b"").decode("latin-1").strip(" \0")
    if len(uid) > longest:
        raise ValueError("a UID of a command set is too long")
    return uid


def _element(number: int, value: int | str) -> bytes:
    """Encode a number, or a UID padded to an even length (PS3.5 section 9.1); an empty UID is omitted."""
    if isinstance(value, int):
        return _HEADER.pack(0, number, _US.size) + _US.pack(value)
    uid = value.encode("latin-1")
    uid += b"\0" * (len(uid) % 2)
    return _HEADER.pack(0, number, len(uid)) + uid if uid else b""


def _fragment(part: bytes, context_id: int, *, is_last: bool) -> bytes:
    control = _COMMAND | (_LAST if is_last else 0)
    return _PDU.pack(_P_DATA_TF, len(part) + _AROUND, len(part) + 2, context_id, control) + part
