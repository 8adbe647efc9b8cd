"""Verify step: prove that a received file holds what ORTHANC2 holds, and ORTHANC1 too. Writes no file.

The cheap proof first: the head of the stored file (preamble and file meta) with our data set behind it must have the MD5 that
Orthanc keeps for its file; then the data sets are the same bytes. The head need not be read where it can be predicted from
that of another image of the series: the MD5 shows whether that prediction holds. Where the data sets are not the same, DCMTK may
have encoded the same elements otherwise (sequence lengths, padding), so the stored file is read and compared element by element.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement

from ddwd.core import safe_folder, watchdog
from ddwd.core.errors import InvalidValueError, NotFoundError
from ddwd.core.printable import many

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag

    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort

IDENTICAL = "identical"
EQUAL = "equal"
DIFFERENT = "different"

_HEAD_BYTES = 2048
_CHUNK = 64 * 1024 * 1024
"""Bytes digested between two calls of the watchdog: about a second on a slow disk."""
_PREFIX = 132  # PS3.10 section 7.1: 128 bytes of preamble and "DICM"
_META_LENGTH_ELEMENT = 12  # (0002,0000) UL, explicit VR little endian
_SOP_INSTANCE = b"\x02\x00\x03\x00UI"  # (0002,0003)
_TRAILING_PADDING = 0xFFFCFFFC
_PATIENT_GROUP = 0x0010
_LONGEST_SHOWN = 80
_TEXT_VRS = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)
_BYTE_VRS = frozenset({"OB", "UN"})


@dataclass(frozen=True, slots=True)
class Known:
    """What is known beforehand, so that it need not be read or computed; what is empty is not known.

    `md5` is storage's, `head` the predicted head of its file. `sha256` is of the bytes that the SCP wrote, as the spool file's name has
    it: that the file still holds them is proved by the MD5, which is computed over what is read back from the disk.
    """

    md5: str = ""
    head: bytes = b""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a comparison; `reason` names the first difference by tag, never by value; `head` is the stored file's, if it was read."""

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


@dataclass
class Verifier:
    """Compares files with the copies that `storage` has, and those with the gateway's."""

    storage: OrthancPort
    gateway: OrthancPort

    def compare(self, path: Path, instance: OrthancId, known: Known = Known()) -> Verdict:
        """Compare the file at `path` with the stored instance.

        Raises PeerDownError, PeerRefusedError, NotFoundError (the instance was deleted) and OSError.
        """
        with _mapped(path) as content:
            sha256 = known.sha256 or _digested(hashlib.sha256(), content)
            start, size = meta_end(bytes(content[: _PREFIX + _META_LENGTH_ELEMENT])), len(content)
            if known.head and known.md5 and _is_stored(known.head, content, start, known.md5):
                return Verdict(IDENTICAL, sha256, known.md5, size)
            stored_md5, head = self.storage.md5(instance), self._head(instance)
            same = head is not None and _is_stored(head, content, start, stored_md5)
        if same:
            return Verdict(IDENTICAL, sha256, stored_md5, size, head=head)
        difference = difference_of(path, self.storage.file(instance))
        return Verdict(DIFFERENT if difference else EQUAL, sha256, stored_md5, size, difference, head)

    def at_gateway(self, path: Path, instance: OrthancId, stored_md5: str) -> tuple[bool, bytes | None]:
        """Return whether the gateway holds the instance, and its copy if that is not the content of the verified file at `path`.

        The two Orthancs hold the same bytes unless another object with this UID was sent to storage first.
        Raises PeerDownError and PeerRefusedError.
        """
        try:
            if self.gateway.md5(instance) == stored_md5:
                return True, None
            content = self.gateway.file(instance)
        except NotFoundError:
            return False, None
        return True, content if difference_of(path, content) else None

    def _head(self, instance: OrthancId) -> bytes | None:
        """Return preamble and file meta of the stored file; None if it is no Part 10 file of the usual form."""
        head = self.storage.head(instance, _HEAD_BYTES)
        end = meta_end(head)
        if end is None:
            return None
        if end > len(head):
            head = self.storage.head(instance, end)
        return head[:end]


def meta_end(head: bytes) -> int | None:
    """Return the offset at which the data set begins, from the group length of the file meta (PS3.10 section 7.1); None if it has none."""
    element = head[_PREFIX : _PREFIX + _META_LENGTH_ELEMENT]
    if head[128:_PREFIX] != b"DICM" or element[:8] != b"\x02\x00\x00\x00UL\x04\x00":
        return None
    return _PREFIX + _META_LENGTH_ELEMENT + int.from_bytes(element[8:12], "little")


def predicted_head(head: bytes, sop_uid: str) -> bytes:
    """Return the head of another file of the same origin: another MediaStorageSOPInstanceUID, all else the same; empty without one.

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
    """Yield the file's content without a copy in memory: a multi-frame instance may have gigabytes."""
    with safe_folder.opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
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


@dataclass(frozen=True, slots=True)
class ElementDifference:
    """One element that two files do not have in common.

    `element` is its tag and keyword, below those of the sequences around it; `ours` and `theirs` are its values for people, None where it
    is absent. `is_personal` if the values may name a person: of group 0010, or a name (VR PN).
    """

    element: str
    what: str
    ours: str | None
    theirs: str | None
    is_personal: bool

    @property
    def reason(self) -> str:
        """What differs, without a value."""
        return f"element {self.element} {self.what}"


def difference_of(path: Path, stored: bytes) -> str:
    """Return the first difference between two DICOM files, by tag; empty if every element is equal."""
    try:
        with safe_folder.opened(path) as file:
            ours = dcmread(file, force=True)
        theirs = dcmread(io.BytesIO(stored), force=True)
        if ours.file_meta.get("TransferSyntaxUID") != theirs.file_meta.get("TransferSyntaxUID"):
            return "the transfer syntax differs"
        return next((one.reason for one in _differences(ours, theirs)), "")
    except (RecursionError, MemoryError) as error:
        return f"cannot be compared ({type(error).__name__})"
    except Exception as error:  # noqa: BLE001 - a file that no parser reads is a difference, no crash
        return f"cannot be read as DICOM ({type(error).__name__})"


def differences(path: Path, stored: Path) -> list[ElementDifference]:
    """Return every element in which two DICOM files differ, the values of `path` as `ours`. Raises InvalidValueError and OSError."""
    found = []
    for one in (path, stored):
        with safe_folder.opened(one) as file:
            found.append(file.read())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydicom, about values that are none of their type
            ours, theirs = (dcmread(io.BytesIO(content), force=True) for content in found)
            return list(_differences(ours, theirs))
    except Exception as error:
        raise InvalidValueError(f"they cannot be compared as DICOM ({type(error).__name__})") from error


def _differences(ours: Dataset, theirs: Dataset, where: str = "") -> Iterator[ElementDifference]:
    """Compare element by element, without group lengths (retired, PS3.5 section 7.2) and trailing padding (PS3.10 section 7.2)."""
    mine, other = (
        {tag for tag in data.keys() if tag.element != 0 and tag != _TRAILING_PADDING}  # noqa: SIM118
        for data in (ours, theirs)
    )
    for tag in sorted(mine ^ other):
        there = (ours if tag in mine else theirs)[tag]
        ours_shown, theirs_shown = (_shown(there), None) if tag in mine else (None, _shown(there))
        name, what = where + _named(tag), "is on one side only"
        yield ElementDifference(name, what, ours_shown, theirs_shown, _is_personal(there))
    for tag in sorted(mine & other):
        yield from _element_differences(ours, theirs, tag, where)


def _element_differences(
    ours: Dataset, theirs: Dataset, tag: BaseTag, where: str
) -> Iterator[ElementDifference]:
    if _same_bytes(ours.get_item(tag), theirs.get_item(tag)):
        return
    mine, other, name = ours[tag], theirs[tag], where + _named(tag)
    if not mine.VR == other.VR == "SQ":
        if mine != other:
            yield ElementDifference(name, "differs", _shown(mine), _shown(other), _is_personal(mine))
        return
    if len(mine.value) != len(other.value):
        yield ElementDifference(
            name, "has another number of items", _shown(mine), _shown(other), is_personal=False
        )
        return
    for item, counterpart in zip(mine.value, other.value, strict=True):
        yield from _differences(item, counterpart, f"{name} > ")


def _named(tag: BaseTag) -> str:
    """Return the tag with its keyword (PS3.6); a private one has none."""
    return f"{tag} {keyword_for_tag(tag)}".rstrip()


def _is_personal(element: DataElement) -> bool:
    return element.tag.group == _PATIENT_GROUP or element.VR == "PN"


def _shown(element: DataElement) -> str:
    """Return a value for people, shortened; of bytes only how many there are."""
    if element.VR == "SQ":
        return many(len(element.value), "item", "items")
    if isinstance(element.value, bytes):
        return f"{len(element.value):,} bytes"
    text = str(element.value or "")
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}\u2026"


def _same_bytes(mine: object, other: object) -> bool:
    """Whether two elements, both not decoded yet, are the same but for padding (PS3.5 section 6.2)."""
    return (
        isinstance(mine, RawDataElement)
        and isinstance(other, RawDataElement)
        and mine.VR == other.VR
        and _unpadded(mine) == _unpadded(other)
    )


def _unpadded(element: RawDataElement) -> bytes:
    """Return the value in a form that padding does not change: spaces and NULs after text, one NUL after bytes of odd length."""
    value = element.value or b""
    if element.VR in _TEXT_VRS:
        return value.rstrip(b" \0")
    if element.VR in _BYTE_VRS and len(value) % 2:
        return value + b"\0"
    return value
