"""Frozen values for studies, series and instances, and for their identifiers. Parsing validates, so every value is valid.

Used by every stage. A DICOM identifier becomes a file name in `safe_component` only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NewType
from urllib.parse import unquote_to_bytes

from ddwd.core.errors import InvalidValueError

OrthancId = NewType("OrthancId", str)
"""Orthanc's identifier of a study, series or instance: the SHA-1 of its DICOM identifiers, the same in both Orthancs."""

SELF_TEST_PATIENT = "DDWD-SELFTEST"
"""PatientID of the studies that the portal sends to itself (`ddwd doctor --send`); the self test may remove no other study."""
SELF_TEST_AET = "DDWD_SELFTEST"
"""Calling AE title of the self test; it counts neither as a sender with habits nor in the day's totals."""
VIEWER = "viewer"
"""Login of the Orthancs' web pages that may view, search and download only; every other login may do everything."""
SEND_AET = "DDWD_SEND"
"""Calling AE title of `ddwd send`."""
INBOX_AET = "DDWD_INBOX"
"""Calling AE title of the drop folder."""
EXTRACTOR_AET = "DDWD_EXTRACTOR"
"""Calling AE title of the extractor's C-MOVE, the only one that ORTHANC2 answers."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_FIELD = re.compile(r"\{(\w+)\}")
_UID_LENGTH = 64  # PS3.5 section 9.1
_AET_LENGTH = 16  # PS3.5 section 6.2, VR AE
_NAME_BYTES = 120
"""Longest encoded component; a longer one is cut and gets a digest. Well under NAME_MAX (255), which leaves room for suffixes."""
_PART_BYTES = 200
"""The same limit for a folder or file name of a layout, which may hold several components."""
TREE = "{PatientID}/{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}"
"""Path of an image below OUTPUT_DIR, unless the route of its study has another layout."""
_PADDING = " \0"
_EMPTY, _CASES, _DIGEST = "%EMPTY", "%-", "%_"
"""Markers that no encoded value contains: a `%` in an encoded value is always followed by two hexadecimal digits."""
_LOWER = frozenset(b"abcdefghijklmnopqrstuvwxyz")
_LETTERS = _LOWER | frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_PLAIN = _LETTERS | frozenset(b"0123456789_-.")
_ORDINARY = re.compile(r"[A-Z0-9_](?:[A-Z0-9_.-]{0,118}[A-Z0-9_-])?")
"""A value that is its own file name, as every UID is: at most 120 bytes, no byte to escape, no lower-case letter."""
_DEVICE = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9])(?:\.|\Z)", re.IGNORECASE | re.ASCII)
"""Names of devices on Windows, with any suffix; their first letter is escaped."""


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
    """Return a DICOM identifier encoded as one path component: unchanged for ordinary values, and different for different values.

    Padding (spaces and NULs at both ends, insignificant by PS3.5 section 6.2) is removed first, as Orthanc does. Bytes outside
    `[A-Za-z0-9_.-]`, and dots and dashes at some places (see `_must_escape`), become `%XX` of their UTF-8 bytes. If a lower-case
    letter remains, `%-` and a hexadecimal number follow; its bits record which letters are lower case, so that "A1" and "a1" are
    two folders on a file system that ignores case too. A result over 120 bytes is cut and ends in `%_` and the SHA-256 of the
    whole value. An empty value becomes `%EMPTY`. docs/identifiers.md has the table.
    """
    text = value.strip(_PADDING)
    if _ORDINARY.fullmatch(text) and not _DEVICE.match(text):
        return text
    raw = text.encode("utf-8", "surrogatepass")
    if not raw:
        return _EMPTY
    is_device, last = _DEVICE.match(text) is not None, len(raw) - 1
    parts, cases = [], 0
    for index, byte in enumerate(raw):
        if byte not in _PLAIN or _must_escape(byte, index, last) or (is_device and index == 0):
            parts.append(f"%{byte:02X}")
            continue
        parts.append(chr(byte))
        if byte in _LETTERS:
            cases = cases << 1 | (byte in _LOWER)
    encoded = "".join(parts)
    name = f"{encoded}{_CASES}{cases:X}" if cases else encoded
    if len(name) <= _NAME_BYTES:
        return name
    return encoded[:50].rstrip("%") + _DIGEST + hashlib.sha256(raw).hexdigest()


def identifier_of(component: str) -> str | None:
    """Return the value that `safe_component` encoded, without padding; None if it ends in a digest or was not encoded there."""
    if component == _EMPTY:
        return ""
    try:
        value = unquote_to_bytes(component.partition(_CASES)[0]).decode("utf-8", "surrogatepass")
    except UnicodeError:
        return None
    return value if safe_component(value) == component else None


def split_layout(layout: str) -> tuple[str, str]:
    """Return the part of a layout that is the study's folder, which ends with the StudyInstanceUID, and the part below it."""
    parts = layout.split("/")
    study = next(at for at, part in enumerate(parts) if "{StudyInstanceUID}" in part)
    return "/".join(parts[: study + 1]), "/".join(parts[study + 1 :])


def laid_out(layout: str, tags: Mapping[str, str]) -> str:
    """Return the path of a layout, with the encoded value of each {Tag}; a part that is too long is cut and ends in its SHA-256."""
    return "/".join(_part(part, tags) for part in layout.split("/"))


def _part(part: str, tags: Mapping[str, str]) -> str:
    name = _FIELD.sub(lambda found: safe_component(tags.get(found[1], "")), part)
    if len(name) <= _PART_BYTES:
        return name
    return name[:100].rstrip("%") + _DIGEST + hashlib.sha256(name.encode("ascii")).hexdigest()


def _must_escape(byte: int, index: int, last: int) -> bool:
    """Return whether the byte is a dot at either end (hidden file, `..`, dropped by some file servers) or a leading dash (an option)."""
    return (byte == ord(".") and index in {0, last}) or (byte == ord("-") and index == 0)


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
    folder that the study has already, or empty.
    """

    orthanc_id: OrthancId
    study_uid: str
    patient_id: str
    accession: str
    series: tuple[Series, ...]
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)
    layout: str = TREE
    placed: str = ""

    @cached_property
    def ids(self) -> frozenset[OrthancId]:
        """Orthanc IDs of all instances."""
        return frozenset().union(*(series.instances for series in self.series))

    @cached_property
    def series_of(self) -> dict[OrthancId, Series]:
        """Orthanc ID of each instance -> its series."""
        return {one: series for series in self.series for one in series.instances}

    @cached_property
    def folder(self) -> str:
        """Folder of the study below OUTPUT_DIR, encoded; `PatientID/StudyInstanceUID` by default."""
        named = {**self.tags, "PatientID": self.patient_id, "StudyInstanceUID": self.study_uid}
        return self.placed or laid_out(split_layout(self.layout)[0], named)

    def wanted(self, instance: OrthancId, sop_uid: str) -> Wanted:
        """Return one of the study's instances, with its path."""
        return self.wanted_of(self.series_of[instance], instance, sop_uid)

    def wanted_of(self, series: Series, instance: OrthancId, sop_uid: str) -> Wanted:
        """Return one instance of a series of this study, with its path."""
        named = {
            **self.tags,
            **series.tags,
            "SeriesInstanceUID": series.series_uid,
            "SOPInstanceUID": sop_uid,
        }
        return Wanted(instance, series.series_uid, sop_uid, laid_out(split_layout(self.layout)[1], named))


@dataclass(frozen=True, slots=True)
class Wanted:
    """One instance to retrieve: its identifiers, and `place`, its path below the study's folder without suffix."""

    orthanc_id: OrthancId
    series_uid: str
    sop_uid: str
    place: str

    @property
    def file(self) -> str:
        """Path of the instance below its study's folder, encoded; `SeriesInstanceUID/SOPInstanceUID.dcm` by default."""
        return f"{self.place}.dcm"
