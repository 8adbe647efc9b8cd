"""Frozen values for studies, series and instances, and for their identifiers. A DICOM identifier becomes a file name here only."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NewType
from urllib.parse import unquote_to_bytes

from ddwd.core.errors import InvalidValueError

OrthancId = NewType("OrthancId", str)
"""Orthanc's identifier of a study, series or instance: the SHA-1 of its DICOM identifiers, the same in both Orthancs."""

SELF_TEST_PATIENT = "DDWD-SELFTEST"
"""PatientID of the studies of the self test (`ddwd doctor --send`), which may remove no other study."""
SELF_TEST_AET = "DDWD_SELFTEST"
"""Calling AE title of the self test; it is neither an expected sender nor counted in the day's totals."""
VIEWER = "viewer"
"""Login of the Orthancs' web pages that may view, search and download only."""
SEND_AET = "DDWD_SEND"  # calling AE title of `ddwd send`
INBOX_AET = "DDWD_INBOX"  # calling AE title of the drop folder
EXTRACTOR_AET = "DDWD_EXTRACTOR"
"""Calling AE title of the extractor's C-MOVE, the only one that ORTHANC2 answers."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_TAG = re.compile(r"\{(\w+)\}")
_UID_LENGTH = 64  # PS3.5 section 9.1
_AET_LENGTH = 16  # PS3.5 section 6.2, VR AE
_NAME_MAX = 255
"""Bytes of the longest name that Linux's file systems hold."""
_MARKED_BYTES = 120
"""Longest marked component; a longer one is cut and gets a digest. Well under NAME_MAX, which leaves room for suffixes."""
_MARKED_PART_BYTES = (
    200  # the same limit for a folder or file name of a layout, which may hold several components
)
_CUT_BYTES = 50
TREE = "{PatientID}/{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}"
"""Path of an image below OUTPUT_DIR, unless the route of its study has another layout."""
PADDING = " \0"
"""What a value may end in without a meaning (PS3.5 section 6.2)."""
_EMPTY, _CASES, _DIGEST = "%EMPTY", "%-", "%_"
"""Markers that no encoded value contains: a `%` in an encoded value is always followed by two hexadecimal digits."""
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz")
_LETTERS = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_MARKED_PLAIN = _LETTERS | frozenset("0123456789_-.")
_SEPARATORS = frozenset("/\\%")
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""General categories of Unicode: control, format, surrogate, private use and unassigned characters, line and paragraph separators."""
_ORDINARY = re.compile(r"[A-Z0-9_](?:[A-Z0-9_.-]{0,118}[A-Z0-9_-])?")
"""A value that is its own file name in either form, as every UID is: at most 120 bytes, no byte to escape, no lower-case letter."""
_DEVICE = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9])(?:\.|\Z)", re.IGNORECASE | re.ASCII)
"""Names of devices on Windows, with any suffix; their first letter is escaped."""
_SHARE_DEVICE = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3]) *(?:\.|\Z)",
    re.IGNORECASE | re.ASCII,
)
"""The same, with those that have characters which a marked name escapes anyway."""


def is_uid(text: str) -> bool:
    """Return whether `text` is a UID (PS3.5 section 9.1): digits and dots, at most 64 characters.

    Leading zeros in a component are accepted: the standard forbids them, but many devices send them.
    """
    return len(text) <= _UID_LENGTH and _UID.fullmatch(text) is not None


def parse_aet(text: str) -> str:
    """Return `text` as an AE title (PS3.5 section 6.2): 1 to 16 printable ASCII characters, no backslash.

    Raises InvalidValueError.
    """
    stripped = text.strip(" ")
    if not stripped or len(stripped) > _AET_LENGTH:
        raise InvalidValueError(
            f"an AE title has 1 to {_AET_LENGTH} characters, this one has {len(stripped)}"
        )
    if "\\" in stripped or not (stripped.isascii() and stripped.isprintable()):
        raise InvalidValueError("an AE title has printable ASCII characters only, and no backslash")
    return stripped


def safe_component(value: str) -> str:
    """Return a DICOM identifier as the name of one file or folder: the identifier itself wherever Linux's file systems hold it.

    Padding (spaces and NULs at both ends, insignificant by PS3.5 section 6.2) is removed first, as Orthanc does. `/`, `\\`, `%`,
    control and format characters, a leading `.` or `-`, a trailing `.`, and the first letter of a device's name on Windows become
    `%XX` of their UTF-8 bytes. A result over 255 bytes is cut and ends in `%_` and the SHA-256 of the whole value. An empty value
    becomes `%EMPTY`. Different values have different names. docs/identifiers.md has the table.
    """
    text = value.strip(PADDING)
    if _is_own_name(text):
        return text
    name = "".join(_pieces(text, _SHARE_DEVICE, _is_escaped)) or _EMPTY
    return name if _size(name) <= _NAME_MAX else _cut(name, _CUT_BYTES, text)


def marked_component(value: str) -> str:
    """Return the name of `safe_component` in the form for volumes that ignore case or normalise Unicode: in ASCII, with case marked.

    Bytes outside `[A-Za-z0-9_.-]` are escaped too. If a lower-case letter remains, `%-` and a hexadecimal number follow; its bits
    record which letters are lower case, so that "A1" and "a1" are two folders there too. A result over 120 bytes is cut.
    """
    text = value.strip(PADDING)
    if _is_own_name(text):
        return text
    pieces = _pieces(text, _DEVICE, lambda character: character not in _MARKED_PLAIN)
    encoded, cases = "".join(pieces) or _EMPTY, 0
    for letter in filter(_LETTERS.__contains__, pieces):
        cases = cases << 1 | (letter in _LOWER)
    name = f"{encoded}{_CASES}{cases:X}" if cases else encoded
    return name if len(name) <= _MARKED_BYTES else _cut(encoded, _CUT_BYTES, text)


def identifier_of(component: str) -> str | None:
    """Return the value that a name in either form was made of, without padding; None if it ends in a digest or is no such name."""
    if component == _EMPTY:
        return ""
    try:
        value = unquote_to_bytes(component.partition(_CASES)[0]).decode("utf-8", "surrogatepass")
    except UnicodeError:
        return None
    return value if component in (safe_component(value), marked_component(value)) else None


def _is_own_name(text: str) -> bool:
    return _ORDINARY.fullmatch(text) is not None and not _DEVICE.match(text)


def _is_escaped(character: str) -> bool:
    return character in _SEPARATORS or unicodedata.category(character) in _UNPRINTABLE


def _pieces(text: str, device: re.Pattern[str], is_escaped: Callable[[str], bool]) -> list[str]:
    """Return each character as it stands in a name, those that may not stand at their place escaped too."""
    pieces = [_escaped(character) if is_escaped(character) else character for character in text]
    if device.match(text) or text.startswith((".", "-")):  # a leading dash would be an option
        pieces[0] = _escaped(text[0])
    if text.endswith("."):  # some file servers drop it
        pieces[-1] = _escaped(".")
    return pieces


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _size(name: str) -> int:
    return len(name.encode("utf-8"))


def _cut(name: str, size: int, text: str) -> str:
    """Return the first `size` bytes of a name, then the SHA-256 of the text that it was made of."""
    start = name.encode("utf-8")[:size].decode("utf-8", "ignore").rstrip("%")
    return start + _DIGEST + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def split_layout(layout: str) -> tuple[str, str]:
    """Return the part of a layout that is the study's folder, which ends with the StudyInstanceUID, and the part below it."""
    parts = layout.split("/")
    depth = 1 + next(index for index, part in enumerate(parts) if "{StudyInstanceUID}" in part)
    return "/".join(parts[:depth]), "/".join(parts[depth:])


def laid_out(layout: str, tags: Mapping[str, str], *, suffix: str = "", is_marked: bool = False) -> str:
    """Return the path of a layout, with the encoded value of each {Tag} and `suffix` at its end.

    A part that is too long is cut and ends in its SHA-256. `is_marked` is the form for volumes that ignore case.
    """
    *folders, last = layout.split("/")
    parts = [
        *(_part(part, tags, 0, is_marked) for part in folders),
        _part(last, tags, len(suffix), is_marked),
    ]
    return "/".join(parts) + suffix


def _part(part: str, tags: Mapping[str, str], suffix: int, is_marked: bool) -> str:
    encode = marked_component if is_marked else safe_component
    name = _TAG.sub(lambda found: encode(tags.get(found[1], "")), part)
    longest = _MARKED_PART_BYTES if is_marked else _NAME_MAX - suffix
    return name if _size(name) <= longest else _cut(name, 2 * _CUT_BYTES, name)


@dataclass(frozen=True, slots=True)
class Series:
    """One series as an Orthanc lists it now, with the IDs of all its instances; `tags` are its main DICOM tags."""

    orthanc_id: OrthancId
    series_uid: str
    instances: frozenset[OrthancId]
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Study:
    """One study as an Orthanc lists it, with its sets of instances.

    `tags` are the main DICOM tags of the study and of its patient. `layout` gives the paths of its images; `placed` is the
    folder of a study that is published already, else empty. `is_marked` is the form of names for volumes that ignore case.
    """

    orthanc_id: OrthancId
    study_uid: str
    patient_id: str
    accession: str
    series: tuple[Series, ...]
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)
    layout: str = TREE
    placed: str = ""
    is_marked: bool = False

    @cached_property
    def ids(self) -> frozenset[OrthancId]:
        """Return the Orthanc IDs of all instances."""
        return frozenset().union(*(series.instances for series in self.series))

    @cached_property
    def series_of(self) -> dict[OrthancId, Series]:
        """Return Orthanc ID of each instance -> its series."""
        return {instance: series for series in self.series for instance in series.instances}

    @cached_property
    def folder(self) -> str:
        """Return the folder of the study below OUTPUT_DIR, encoded; `PatientID/StudyInstanceUID` by default."""
        tags = {**self.tags, "PatientID": self.patient_id, "StudyInstanceUID": self.study_uid}
        return self.placed or laid_out(split_layout(self.layout)[0], tags, is_marked=self.is_marked)

    def wanted(self, instance: OrthancId, sop_uid: str) -> Wanted:
        """Return one of the study's instances, with its path."""
        return self.wanted_of(self.series_of[instance], instance, sop_uid)

    def wanted_of(self, series: Series, instance: OrthancId, sop_uid: str) -> Wanted:
        """Return one instance of a series of this study, with its path."""
        tags = {**self.tags, **series.tags, "SeriesInstanceUID": series.series_uid, "SOPInstanceUID": sop_uid}
        path = laid_out(split_layout(self.layout)[1], tags, suffix=".dcm", is_marked=self.is_marked)
        return Wanted(instance, series.series_uid, sop_uid, path)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One instance to retrieve: its identifiers, and `file`, its path below the study's folder, encoded."""

    orthanc_id: OrthancId
    series_uid: str
    sop_uid: str
    file: str
