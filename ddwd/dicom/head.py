"""Read the identifiers at the head of an encoded data set, and as few bytes as possible. Called by the SCP and the admission filter.

pydicom would decode sequences by recursion (a nesting of about 250 levels ends it) and make objects of every element; here
elements are skipped by their lengths, nested ones by counting delimiters (PS3.5 section 7.5), in bounded memory.
No library is imported: this runs inside Orthanc too, on Debian's bare Python.
"""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set

    Read = Callable[[int, int], bytes]
    """(offset, length) -> bytes; fewer at the end of the data set."""

DEFLATED = frozenset(
    {
        "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
        "1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
        "1.2.840.10008.1.2.4.205",  # JPIP HTJ2K Referenced Deflate
    },
)
"""Transfer syntaxes whose whole data set is a deflate stream (PS3.5 sections A.5, A.7 and A.12)."""
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_TRANSFER_SYNTAX, _META_GROUP = 0x00020010, 0x0002
_PREFIX = 132  # PS3.10 section 7.1: 128 bytes of preamble and "DICM"
_PATIENT_ID = 0x00100020
_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_WANTED = frozenset({_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES})
_IDENTIFYING = frozenset({_PATIENT_ID, _STUDY, _SERIES, _SOP_INSTANCE})
_PADDING = " \0"
_UID_CHARACTERS = frozenset("0123456789.")
_ITEM, _DELIMITERS, _DELIMITER_GROUP = 0xFFFEE000, frozenset({0xFFFEE00D, 0xFFFEE0DD}), 0xFFFE
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Value representations with a length of 32 bits (PS3.5 table 7.1-1)."""
_VALUE_BYTES = 256
"""Longest identifier that is taken: four times what the standard allows, so that only nonsense is refused."""
_SHORTEST = 8
"""Bytes of the shortest element."""
_ELEMENTS = 1_000_000
"""Elements stepped over before the head counts as unreadable: about two seconds' work."""
HEAD_BYTES = 16 * 1024
"""Bytes of a file that are read at once: with most objects the whole head."""
_INFLATED = 16 * 1024 * 1024
"""Bytes of a deflated data set that are inflated to find the head: a deflate bomb ends here."""
_EXPLICIT_META = bytes(128) + b"DICM" + struct.pack("<HH2sH20s", 2, 0x10, b"UI", 20, b"1.2.840.10008.1.2.1")
"""Beginning of a Part 10 file in Explicit VR Little Endian, with the one element that a reader needs."""


class UnreadableError(Exception):
    """The head cannot be parsed; the message says why and carries no value of the data set."""


@dataclass(frozen=True, slots=True)
class Head:
    """The identifiers of a data set, decoded as Latin-1: UIDs without padding, the PatientID with it; empty where absent."""

    sop_class: str = ""
    sop_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""
    patient_id: str = ""


def _head(values: Mapping[int, str]) -> Head:
    head = Head(
        *(values.get(tag, "").strip(_PADDING) for tag in (_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES))
    )
    return replace(head, patient_id=values.get(_PATIENT_ID, ""))


def read_head(descriptor: int, start: int, transfer_syntax: str, first: bytes = b"") -> Head:
    """Read the UIDs of the data set that begins at `start` of an open file; `first` are bytes of it that were read already.

    Raises UnreadableError, OSError.
    """
    order = _order(transfer_syntax)
    if transfer_syntax in DEFLATED:
        values, _ = _scan_inflated(_inflate(os.pread(descriptor, _INFLATED, start)), order, _WANTED)
    else:
        values, _ = _scan(_blocks(descriptor, start, first), order, _WANTED)
    return _head(values)


def read_identity(content: bytes) -> Head:
    """Read the PatientID and the UIDs, except that of the SOP class, of a whole Part 10 file. Raises UnreadableError."""
    return _head(_identify(content)[0])


def read_beginning(data: bytes, transfer_syntax: str) -> Head:
    """Read the identifiers at the beginning of a data set, as far as they are in it. Raises UnreadableError."""
    if transfer_syntax in DEFLATED:
        data = _inflate(data)
    return _head(_scan(_of(data, 0), _order(transfer_syntax), _WANTED | _IDENTIFYING)[0])


def read_study_uid(data: bytes, transfer_syntax: str) -> str:
    """Read the StudyInstanceUID at the beginning of a data set, whatever the other identifiers are; empty if there is none, or no UID."""
    with suppress(UnreadableError):
        if transfer_syntax in DEFLATED:
            data = _inflate(data)
        values, _ = _scan(_of(data, 0), _order(transfer_syntax), frozenset({_STUDY}))
        uid = values.get(_STUDY, "").strip(_PADDING)
        return uid if set(uid) <= _UID_CHARACTERS else ""
    return ""


def is_deflated(content: bytes) -> bool:
    """Return whether the data set of a whole Part 10 file is a deflate stream; False if that cannot be read."""
    with suppress(UnreadableError):
        return _read_meta(content)[0] in DEFLATED
    return False


def identifying_part(content: bytes) -> bytes:
    """Return a whole Part 10 file up to its SeriesInstanceUID, inflated if it was deflated. Raises UnreadableError.

    It is read in the time that its head takes, whatever its pixels: a deflate bomb of 2 MB is 2 GB inflated.
    """
    return _identify(content)[1]


def _identify(content: bytes) -> tuple[dict[int, str], bytes]:
    """Return the identifying values of a whole Part 10 file, and its part that holds them. Raises UnreadableError."""
    transfer_syntax, start = _read_meta(content)
    if transfer_syntax not in DEFLATED:
        values, end = _scan(_of(content, start), _order(transfer_syntax), _IDENTIFYING)
        return values, content[: start + end]
    data = _inflate(content[start:])
    values, end = _scan_inflated(data, _order(transfer_syntax), _IDENTIFYING)
    return values, _EXPLICIT_META + data[:end]


def is_nested_deeper(content: bytes, most: int) -> bool:
    """Return whether the sequences of a whole Part 10 file are nested in more than `most` levels of items. Raises UnreadableError.

    Called for every object: half a millisecond for an image of 250 elements, whatever its pixels.
    """
    transfer_syntax, start = _read_meta(content)
    read = _of(_inflate(content[start:]), 0) if transfer_syntax in DEFLATED else _of(content, start)
    return _Depth(read, _order(transfer_syntax)).exceeds(most)


class _OpenItem(NamedTuple):
    """A sequence or an item that is open: where it ends if that is known, how its elements are encoded, whether it is an item."""

    end: int | None
    implicit: bool
    is_item: bool


class _Depth:
    """Steps into every sequence of a data set, whichever way its length is given; encapsulated pixel data is stepped over."""

    def __init__(self, read: Read, order: _ByteOrder) -> None:
        self._read = read
        self._order = order
        self._item = order.tag.pack(_ITEM >> 16, _ITEM & 0xFFFF)
        self._levels = [_OpenItem(None, not _is_vr(read(4, 2)), is_item=True)]

    def exceeds(self, most: int) -> bool:
        """Whether more than `most` items are open at once anywhere. Raises UnreadableError."""
        position = 0
        for _ in range(_ELEMENTS):
            while (end := self._levels[-1].end) is not None and position >= end:
                self._levels.pop()
            header = self._read(position, 12)
            if len(header) < _SHORTEST:
                return False
            group, element = self._order.tag.unpack_from(header)
            if group == _DELIMITER_GROUP:
                position = self._delimit(group << 16 | element, header, position + 8)
            else:
                position = self._enter(header, position)
            if len(self._levels) > 2 * most + 1 and sum(level.is_item for level in self._levels) > most + 1:
                return True
        raise UnreadableError("too many elements to look for deep nesting")

    def _delimit(self, tag: int, header: bytes, position: int) -> int:
        """Step over the header of an item or of a delimiter; return the position after it."""
        length = self._order.long.unpack_from(header, 4)[0]
        if tag in _DELIMITERS:
            if len(self._levels) > 1:  # one too many is stepped over, as DCMTK does
                self._levels.pop()
        elif self._levels[-1].is_item:  # a fragment of encapsulated pixel data, or nonsense
            return position + (0 if length == _UNDEFINED else int(length))
        else:
            self._levels.append(self._level(length, position, self._levels[-1].implicit, is_item=True))
        return position

    def _enter(self, header: bytes, position: int) -> int:
        """Step over an element, or into its first item if it is a sequence; return the position after that."""
        implicit = self._levels[-1].implicit
        size, length, unknown = _measure(header, self._order, implicit=implicit)
        position += size
        is_sequence = length == _UNDEFINED or implicit or header[4:6] == b"SQ"
        if is_sequence and (length == _UNDEFINED or self._read(position, 4) == self._item):
            is_pixels = header[:4] == self._order.tag.pack(0x7FE0, 0x0010)
            self._levels.append(self._level(length, position, implicit or unknown, is_item=is_pixels))
            return position
        return position + length

    @staticmethod
    def _level(length: int, position: int, implicit: bool, *, is_item: bool) -> _OpenItem:
        return _OpenItem(None if length == _UNDEFINED else position + length, implicit, is_item)


def _inflate(compressed: bytes) -> bytes:
    """Inflate the beginning of a data set: a raw deflate stream (PS3.5 section A.5), or one in a zlib wrapper by mistake.

    Raises UnreadableError.
    """
    for window in (-zlib.MAX_WBITS, zlib.MAX_WBITS):
        with suppress(zlib.error):
            return zlib.decompressobj(window).decompress(compressed, _INFLATED)
    raise UnreadableError("the data set is declared as deflated and cannot be inflated")


def _read_meta(content: bytes) -> tuple[str, int]:
    """Transfer syntax and start of the data set, from the file meta information (PS3.10 section 7.1)."""
    if content[_PREFIX - 4 : _PREFIX] != b"DICM":
        raise UnreadableError("it is no DICOM file")
    read, position, transfer_syntax = _of(content, 0), _PREFIX, ""
    while len(header := read(position, 12)) == 12:  # noqa: PLR2004 - the longest header
        group, element = _LITTLE.tag.unpack_from(header)
        if group != _META_GROUP:
            break
        size, length, _ = _measure(header, _LITTLE, implicit=False)
        if group << 16 | element == _TRANSFER_SYNTAX:
            transfer_syntax = _value(read, position + size, length).strip(_PADDING)
        position += size + length
    return transfer_syntax, position


class _ByteOrder(NamedTuple):
    """The numbers of one byte order."""

    tag: struct.Struct
    long: struct.Struct
    short: struct.Struct


_LITTLE, _BIG = (_ByteOrder(*(struct.Struct(sign + form) for form in ("HH", "L", "H"))) for sign in "<>")


def _order(transfer_syntax: str) -> _ByteOrder:
    return _BIG if transfer_syntax == _BIG_ENDIAN else _LITTLE


def _of(content: bytes, start: int) -> Read:
    return lambda offset, length: content[start + offset : start + offset + length]


def _blocks(descriptor: int, start: int, block: bytes) -> Read:
    """Return a reader of a file; it keeps one block, at first `block`, the beginning of the data set."""
    at = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal block, at
        if not at <= offset <= offset + length <= at + len(block):
            block, at = os.pread(descriptor, max(length, HEAD_BYTES), start + offset), offset
        return block[offset - at : offset - at + length]

    return read


def _scan(read: Read, order: _ByteOrder, wanted: Set[int]) -> tuple[dict[int, str], int]:
    """Return the wanted values of the top level, and the offset behind the SeriesInstanceUID."""
    implicit = not _is_vr(read(4, 2))
    values: dict[int, str] = {}
    open_levels: list[bool] = []
    position = 0
    for _ in range(_ELEMENTS):
        header = read(position, 12)
        if len(header) < _SHORTEST:
            return values, position
        group, element = order.tag.unpack_from(header)
        tag = group << 16 | element
        if group == _DELIMITER_GROUP:
            length = order.long.unpack_from(header, 4)[0]
            position += 8
            if tag in _DELIMITERS:
                if not open_levels:
                    raise UnreadableError("a sequence ends that never began")
                implicit = open_levels.pop()
            elif length == _UNDEFINED:
                open_levels.append(implicit)
            else:
                position += length
            continue
        if not open_levels and tag > _SERIES:
            return values, position
        size, length, unknown = _measure(header, order, implicit=implicit)
        position += size
        if length == _UNDEFINED:
            open_levels.append(implicit)
            implicit = implicit or unknown  # UN of undefined length holds implicit VR (PS3.5 section 6.2.2)
            continue
        if not open_levels and tag in wanted:
            values[tag] = _value(read, position, length)
        position += length
    raise UnreadableError("too many elements before the SeriesInstanceUID")


def _scan_inflated(data: bytes, order: _ByteOrder, wanted: Set[int]) -> tuple[dict[int, str], int]:
    """Scan a data set of which at most the first _INFLATED bytes were inflated. Raises UnreadableError."""
    values, end = _scan(_of(data, 0), order, wanted)
    # what follows was not inflated: an identifier may be cut off or missing
    if _INFLATED <= len(data) < end + _SHORTEST:
        raise UnreadableError("the identifiers are not in the part of the data set that is inflated")
    return values, end


def _is_vr(text: bytes) -> bool:
    return len(text) == 2 and text.isalpha() and text.isupper()  # noqa: PLR2004 - a VR has two letters


def _measure(header: bytes, order: _ByteOrder, *, implicit: bool) -> tuple[int, int, bool]:
    """Return the size of the element's header, the length of its value, and whether its VR is UN."""
    if implicit:
        return 8, order.long.unpack_from(header, 4)[0], False
    vr = header[4:6]
    if not _is_vr(vr):
        raise UnreadableError("an element has no value representation")
    if vr not in _LONG:
        return 8, order.short.unpack_from(header, 6)[0], False
    if len(header) < 12:  # noqa: PLR2004 - the long form
        raise UnreadableError("the data set ends inside an element")
    return 12, order.long.unpack_from(header, 8)[0], vr == b"UN"


def _value(read: Read, position: int, length: int) -> str:
    if length > _VALUE_BYTES:
        raise UnreadableError("an identifier is longer than any UID")
    return read(position, length).decode("latin-1")
