"""The field's nouns as frozen values: parsing is validating, so a value that exists is a sound one.

Used by every stage. `safe_component` is the one place where a DICOM identifier becomes a file name.
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
"""Orthanc's own identifier of a study, series or instance: SHA-1 of the DICOM identifiers, equal on both servers."""

SELF_TEST_PATIENT = "DDWD-SELFTEST"
"""PatientID of the studies that the portal sends itself (`ddwd doctor --send`); no other study may be removed by it."""
SELF_TEST_AET = "DDWD_SELFTEST"
"""Calling AE title of the same; nobody's habit and nobody's day's work."""
VIEWER = "viewer"
"""Login of the Orthancs' web pages that may look, search and download; every other one may do what it likes."""
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
"""Longest encoded component before it is cut and given a digest: well under NAME_MAX (255) with room for suffixes."""
_PART_BYTES = 200
"""The same for a folder or file of a layout, which may have several components in its name."""
TREE = "{PatientID}/{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}"
"""Where an image stands below OUTPUT_DIR, unless the rule that took its study has another layout."""
_PADDING = " \0"
_EMPTY, _CASES, _DIGEST = "%EMPTY", "%-", "%_"
"""What no encoding of a real value begins an escape with: none of the three goes on with two hexadecimal digits."""
_LOWER = frozenset(b"abcdefghijklmnopqrstuvwxyz")
_LETTERS = _LOWER | frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_PLAIN = _LETTERS | frozenset(b"0123456789_-.")
_ORDINARY = re.compile(r"[A-Z0-9_](?:[A-Z0-9_.-]{0,118}[A-Z0-9_-])?")
"""Its own name, as every UID is: at most 120 bytes, and nothing to escape or to mark in it."""
_DEVICE = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9])(?:\.|\Z)", re.IGNORECASE | re.ASCII)
"""Names that are devices under Windows, with any suffix too: its first letter is escaped."""


def is_uid(text: str) -> bool:
    """Tell whether `text` is a UID by PS3.5 section 9.1: digits and dots, 64 characters at most.

    Leading zeros in a component are tolerated: they are forbidden by the standard and common in the field.
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
    """Encode a DICOM identifier as one path component; injective even where case is ignored, the identity for ordinary values.

    Padding (spaces and NULs at both ends: PS3.5 section 6.2 declares them insignificant) is removed first, as Orthanc does.
    Bytes outside `[A-Za-z0-9_.-]`, and what would confuse at its place (see `_confusing`), become `%XX` of the UTF-8 bytes.
    Where a lower-case letter stays, `%-` and a hexadecimal number follow, whose bits say of each letter that stays whether it is
    lower case: "A1" and "a1" are two folders on a file system that ignores case too. A result over 120 bytes is cut and
    ends in `%_` and the SHA-256 of the whole. Nothing at all becomes `%EMPTY`. The table is docs/identifiers.md.
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
        if byte not in _PLAIN or _confusing(byte, index, last) or (is_device and index == 0):
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
    """What `safe_component` made this of, without padding; None where that cannot be told (its digest, or no work of it)."""
    if component == _EMPTY:
        return ""
    try:
        value = unquote_to_bytes(component.partition(_CASES)[0]).decode("utf-8", "surrogatepass")
    except UnicodeError:
        return None
    return value if safe_component(value) == component else None


def split_layout(layout: str) -> tuple[str, str]:
    """The part of a layout that is the study's folder, up to the one that has its UID, and the part below it."""
    parts = layout.split("/")
    study = next(at for at, part in enumerate(parts) if "{StudyInstanceUID}" in part)
    return "/".join(parts[: study + 1]), "/".join(parts[study + 1 :])


def laid_out(layout: str, tags: Mapping[str, str]) -> str:
    """A path with the value of each {Tag} in it, encoded; a part that becomes too long is cut and ends in its SHA-256."""
    return "/".join(_part(part, tags) for part in layout.split("/"))


def _part(part: str, tags: Mapping[str, str]) -> str:
    name = _FIELD.sub(lambda found: safe_component(tags.get(found[1], "")), part)
    if len(name) <= _PART_BYTES:
        return name
    return name[:100].rstrip("%") + _DIGEST + hashlib.sha256(name.encode("ascii")).hexdigest()


def _confusing(byte: int, index: int, last: int) -> bool:
    """A dot at either end (hidden, `..`, dropped by some file servers) or a leading dash (an option)."""
    return (byte == ord(".") and index in {0, last}) or (byte == ord("-") and index == 0)


@dataclass(frozen=True, slots=True)
class Series:
    """One series as an Orthanc lists it, with every instance it holds at the moment of asking; `tags` are its main DICOM tags."""

    orthanc_id: OrthancId
    series_uid: str
    instances: frozenset[OrthancId]
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Study:
    """One study as an Orthanc lists it: the sets that all comparisons are made on.

    `tags` are its main DICOM tags and its patient's. `layout` says where its images stand, `placed` where it stands already.
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
        """The Orthanc IDs of all instances."""
        return frozenset().union(*(series.instances for series in self.series))

    @cached_property
    def series_of(self) -> dict[OrthancId, Series]:
        """Instance Orthanc ID to its series."""
        return {one: series for series in self.series for one in series.instances}

    @cached_property
    def folder(self) -> str:
        """Where the study stands below OUTPUT_DIR, encoded; `PatientID/StudyInstanceUID` by default."""
        named = {**self.tags, "PatientID": self.patient_id, "StudyInstanceUID": self.study_uid}
        return self.placed or laid_out(split_layout(self.layout)[0], named)

    def wanted(self, instance: OrthancId, sop_uid: str) -> Wanted:
        """One of its instances, with its place."""
        return self.wanted_of(self.series_of[instance], instance, sop_uid)

    def wanted_of(self, series: Series, instance: OrthancId, sop_uid: str) -> Wanted:
        """The same where its series is known."""
        named = {
            **self.tags,
            **series.tags,
            "SeriesInstanceUID": series.series_uid,
            "SOPInstanceUID": sop_uid,
        }
        return Wanted(instance, series.series_uid, sop_uid, laid_out(split_layout(self.layout)[1], named))


@dataclass(frozen=True, slots=True)
class Wanted:
    """One instance that storage holds and the disk does not yet: what is needed to ask for it and to place it."""

    orthanc_id: OrthancId
    series_uid: str
    sop_uid: str
    place: str

    @property
    def file(self) -> str:
        """Where the instance stands below its study's folder, encoded; `SeriesInstanceUID/SOPInstanceUID.dcm` by default."""
        return f"{self.place}.dcm"
