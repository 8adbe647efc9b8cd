"""Frozen values for studies, series and instances, and for their identifiers. A DICOM identifier becomes a file name in `safe_component` only."""

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
_NAME_BYTES = 120
"""Longest encoded component; a longer one is cut and gets a digest. Well under NAME_MAX (255), which leaves room for suffixes."""
_PART_BYTES = 200  # the same limit for a folder or file name of a layout, which may hold several components
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
    `[A-Za-z0-9_.-]`, dots at either end and a leading dash become `%XX` of their UTF-8 bytes. If a lower-case letter remains, `%-`
    and a hexadecimal number follow; its bits record which letters are lower case, so that "A1" and "a1" are two folders on a file
    system that ignores case too. A result over 120 bytes is cut and ends in `%_` and the SHA-256 of the whole value. An empty value
    becomes `%EMPTY`. docs/identifiers.md has the table.
    """
    text = value.strip(_PADDING)
    if _ORDINARY.fullmatch(text) and not _DEVICE.match(text):
        return text
    raw = text.encode("utf-8", "surrogatepass")
    if not raw:
        return _EMPTY
    dots = {0, len(raw) - 1}  # a hidden file, `..`, or a dot that some file servers drop
    is_device = _DEVICE.match(text) is not None
    parts, cases = [], 0
    for index, byte in enumerate(raw):
        at_start = index == 0 and (is_device or byte == ord("-"))  # a leading dash would be an option
        if byte not in _PLAIN or at_start or (byte == ord(".") and index in dots):
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
    depth = 1 + next(index for index, part in enumerate(parts) if "{StudyInstanceUID}" in part)
    return "/".join(parts[:depth]), "/".join(parts[depth:])


def laid_out(layout: str, tags: Mapping[str, str]) -> str:
    """Return the path of a layout, with the encoded value of each {Tag}; a part that is too long is cut and ends in its SHA-256."""
    return "/".join(_part(part, tags) for part in layout.split("/"))


def _part(part: str, tags: Mapping[str, str]) -> str:
    name = _TAG.sub(lambda found: safe_component(tags.get(found[1], "")), part)
    if len(name) <= _PART_BYTES:
        return name
    return name[:100].rstrip("%") + _DIGEST + hashlib.sha256(name.encode("ascii")).hexdigest()


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
    folder of a study that is published already, else empty.
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
        return self.placed or laid_out(split_layout(self.layout)[0], tags)

    def wanted(self, instance: OrthancId, sop_uid: str) -> Wanted:
        """Return one of the study's instances, with its path."""
        return self.wanted_of(self.series_of[instance], instance, sop_uid)

    def wanted_of(self, series: Series, instance: OrthancId, sop_uid: str) -> Wanted:
        """Return one instance of a series of this study, with its path."""
        tags = {**self.tags, **series.tags, "SeriesInstanceUID": series.series_uid, "SOPInstanceUID": sop_uid}
        path = laid_out(split_layout(self.layout)[1], tags)
        return Wanted(instance, series.series_uid, sop_uid, f"{path}.dcm")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One instance to retrieve: its identifiers, and `file`, its path below the study's folder, encoded."""

    orthanc_id: OrthancId
    series_uid: str
    sop_uid: str
    file: str
