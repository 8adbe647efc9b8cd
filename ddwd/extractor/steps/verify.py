"""Fifth stage: prove that a received file holds what ORTHANC2 holds, and ORTHANC1 too. Reads, writes nothing.

The cheap proof first: the head of the stored file (preamble and file meta) with our data set behind it must have the MD5 that
Orthanc keeps for its file; then the data sets are the same bytes. The head need not be asked for where it can be foretold from
that of another image of the series: the MD5 shows whether that assumption holds. Where the data sets are not the same, DCMTK may
have encoded the same elements otherwise (sequence lengths, padding), so the stored file is fetched and compared element by element.
"""

from __future__ import annotations

import hashlib
import io
import mmap
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.dataelem import DataElement, RawDataElement

from ddwd.core import durable, watchdog
from ddwd.core.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom.dataset import Dataset, FileDataset
    from pydicom.tag import BaseTag

    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort

IDENTICAL = "identical"
EQUAL = "equal"
DIFFERENT = "different"

_HEAD_BYTES = 2048
_CHUNK = 64 * 1024 * 1024
"""Bytes digested between two signs of life: about a second on a slow disk."""
_PREFIX = 132  # PS3.10 section 7.1: 128 bytes of preamble and "DICM"
_META_LENGTH_ELEMENT = 12  # (0002,0000) UL, explicit VR little endian
_SOP_INSTANCE = b"\x02\x00\x03\x00UI"  # (0002,0003)
_TRAILING_PADDING = 0xFFFCFFFC
_TEXT_VRS = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)
_BYTE_VRS = frozenset({"OB", "UN"})


@dataclass(frozen=True, slots=True)
class Known:
    """What is known beforehand, so that it need not be asked or computed; what is empty is not known.

    `md5` is storage's, `head` the foretold head of its file. `sha256` is of the bytes that the SCP wrote, as the spool file's name has
    it: that the file still holds them is proved by the MD5, which is computed over what is read back from the disk.
    """

    md5: str = ""
    head: bytes = b""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison found; `reason` names the first difference by tag, never by value.

    `head` is that of the stored file where it was asked for.
    """

    kind: str
    sha256: str
    md5: str
    size: int
    reason: str = ""
    head: bytes | None = None

    @property
    def is_sound(self) -> bool:
        """True when the file may be published."""
        return self.kind in {IDENTICAL, EQUAL}


_NOTHING = Known()


class Verifier:
    """Compares files with the copies that `storage` keeps, and those with the gateway's."""

    def __init__(self, storage: OrthancPort, gateway: OrthancPort) -> None:
        self._storage = storage
        self._gateway = gateway

    def compare(self, path: Path, instance: OrthancId, known: Known = _NOTHING) -> Verdict:
        """Compare the file at `path` with the stored instance.

        Raises PeerDownError, PeerRefusedError, NotFoundError (the instance was deleted) and OSError.
        """
        with _mapped(path) as content:
            sha256 = known.sha256 or _digested(hashlib.sha256(), content)
            start, size = meta_end(bytes(content[: _PREFIX + _META_LENGTH_ELEMENT])), len(content)
            if known.head and known.md5 and _is_stored(known.head, content, start, known.md5):
                return Verdict(IDENTICAL, sha256, known.md5, size)
            stored_md5, head = self._storage.md5(instance), self._head(instance)
            same = head is not None and _is_stored(head, content, start, stored_md5)
        if same:
            return Verdict(IDENTICAL, sha256, stored_md5, size, head=head)
        difference = difference_of(path, self._storage.file(instance))
        return Verdict(DIFFERENT if difference else EQUAL, sha256, stored_md5, size, difference, head)

    def at_gateway(self, path: Path, instance: OrthancId, stored_md5: str) -> tuple[bool, bytes | None]:
        """Whether the gateway holds the instance, and its copy where that is not the content of the verified file at `path`.

        The two Orthancs hold the same bytes unless someone put another object with this UID onto storage first.
        Raises PeerDownError and PeerRefusedError.
        """
        try:
            if self._gateway.md5(instance) == stored_md5:
                return True, None
            content = self._gateway.file(instance)
        except NotFoundError:
            return False, None
        return True, content if difference_of(path, content) else None

    def _head(self, instance: OrthancId) -> bytes | None:
        """Preamble and file meta of the stored file; None where it is not a Part 10 file of the usual form."""
        head = self._storage.head(instance, _HEAD_BYTES)
        end = meta_end(head)
        if end is None:
            return None
        if end > len(head):
            head = self._storage.head(instance, end)
        return head[:end]


def meta_end(head: bytes) -> int | None:
    """Offset at which the data set begins, from the group length of the file meta (PS3.10 section 7.1); None if it has none."""
    element = head[_PREFIX : _PREFIX + _META_LENGTH_ELEMENT]
    if head[128:_PREFIX] != b"DICM" or element[:8] != b"\x02\x00\x00\x00UL\x04\x00":
        return None
    return _PREFIX + _META_LENGTH_ELEMENT + int.from_bytes(element[8:12], "little")


def foretold(head: bytes, sop_uid: str) -> bytes:
    """The head of another file of the same origin: another MediaStorageSOPInstanceUID, all else the same; empty if it has none.

    All elements of the file meta are in explicit VR little endian (PS3.10 section 7.1), and UI has a length of two bytes.
    """
    at = head.find(_SOP_INSTANCE, _PREFIX + _META_LENGTH_ELEMENT)
    if at < 0:
        return b""
    value = at + len(_SOP_INSTANCE) + 2
    end = value + int.from_bytes(head[value - 2 : value], "little")
    uid = sop_uid.encode("ascii", "replace")
    uid += b"\0" * (len(uid) % 2)
    changed = (
        head[_PREFIX + _META_LENGTH_ELEMENT : value - 2] + len(uid).to_bytes(2, "little") + uid + head[end:]
    )
    return head[: _PREFIX + 8] + len(changed).to_bytes(4, "little") + changed


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    """The file's content without a copy in memory: a multi-frame instance may have gigabytes."""
    with durable.opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        view = memoryview(mapping)
        try:
            yield view
        finally:
            view.release()


def _is_stored(head: bytes, content: memoryview, start: int | None, stored_md5: str) -> bool:
    """Whether the head with our data set behind it has the MD5 of the stored file."""
    if start is None:
        return False
    digest = hashlib.md5(head, usedforsecurity=False)  # Orthanc's choice, compared with its own
    with content[start:] as body:
        return _digested(digest, body) == stored_md5


def _digested(digest: hashlib._Hash, content: memoryview) -> str:
    for start in range(0, len(content), _CHUNK):
        watchdog.alive()
        with content[start : start + _CHUNK] as chunk:
            digest.update(chunk)
    return digest.hexdigest()


def difference_of(path: Path, stored: bytes) -> str:
    """The first difference between two DICOM files, by tag; empty when every element is equal."""
    try:
        return compare_elements(dcmread(path, force=True), dcmread(io.BytesIO(stored), force=True))
    except (RecursionError, MemoryError) as error:
        return f"cannot be compared ({type(error).__name__})"
    except Exception as error:  # noqa: BLE001 - a file that no parser reads must end as a verdict, not as a crash
        return f"cannot be read as DICOM ({type(error).__name__})"


def compare_elements(ours: FileDataset, theirs: FileDataset) -> str:
    """Compare two files element by element; the first difference as text, or nothing.

    Group lengths (retired, PS3.5 section 7.2) and data set trailing padding (PS3.10 section 7.2) carry no information.
    """
    mine, other = ours.file_meta.get("TransferSyntaxUID"), theirs.file_meta.get("TransferSyntaxUID")
    if mine != other:
        return "the transfer syntax differs"
    return _compare(ours, theirs)


def _compare(ours: Dataset, theirs: Dataset) -> str:
    mine = {tag for tag in ours.keys() if tag.element != 0 and tag != _TRAILING_PADDING}  # noqa: SIM118
    other = {tag for tag in theirs.keys() if tag.element != 0 and tag != _TRAILING_PADDING}  # noqa: SIM118
    if mine != other:
        return f"element {min(mine ^ other)} is on one side only"
    for tag in sorted(mine):
        if reason := _compare_element(ours, theirs, tag):
            return reason
    return ""


def _compare_element(ours: Dataset, theirs: Dataset, tag: BaseTag) -> str:
    if _same_bytes(ours.get_item(tag), theirs.get_item(tag)):
        return ""
    decoded, counterpart = ours[tag], theirs[tag]
    if decoded.VR == "SQ" and counterpart.VR == "SQ":
        return _compare_sequences(decoded, counterpart)
    return "" if decoded == counterpart else f"element {decoded.tag} differs"


def _same_bytes(mine: object, other: object) -> bool:
    """Tell whether two elements that no one has decoded yet are the same but for padding (PS3.5 section 6.2)."""
    return (
        isinstance(mine, RawDataElement)
        and isinstance(other, RawDataElement)
        and mine.VR == other.VR
        and _unpadded(mine) == _unpadded(other)
    )


def _unpadded(element: RawDataElement) -> bytes:
    """The value without what only fills it up: spaces and NULs behind text, one NUL behind bytes of odd length."""
    value = element.value or b""
    if element.VR in _TEXT_VRS:
        return value.rstrip(b" \0")
    if element.VR in _BYTE_VRS and len(value) % 2:
        return value + b"\0"
    return value


def _compare_sequences(ours: DataElement, theirs: DataElement) -> str:
    if len(ours.value) != len(theirs.value):
        return f"sequence {ours.tag} has another number of items"
    for mine, other in zip(ours.value, theirs.value, strict=True):
        if reason := _compare(mine, other):
            return f"{ours.tag} > {reason}"
    return ""
