"""The field's nouns as frozen values: parsing is validating, so a value that exists is a sound one.

Used by every stage. `safe_component` is the one place where a DICOM identifier becomes a file name.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import NewType

from ddwd.errors import InvalidValueError

OrthancId = NewType("OrthancId", str)
"""Orthanc's own identifier of a study, series or instance: SHA-1 of the DICOM identifiers, equal on both servers."""

SELF_TEST_PATIENT = "DDWD-SELFTEST"
"""PatientID of the studies that the portal sends itself (`ddwd doctor --send`); no other study may be removed by it."""
SELF_TEST_AET = "DDWD_SELFTEST"
"""Calling AE title of the same; nobody's habit and nobody's day's work."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_LENGTH = 64  # PS3.5 section 9.1
_AET_LENGTH = 16  # PS3.5 section 6.2, VR AE
_NAME_BYTES = 120
"""Longest encoded component before it is cut and given a digest: well under NAME_MAX (255) with room for suffixes."""
_EMPTY = "%EMPTY"  # no encoding of a real value yields it: %EM is not a hexadecimal escape
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.")


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
    """Encode a DICOM identifier as one path component; injective, and the identity for ordinary values.

    Padding (spaces and NULs at both ends: PS3.5 section 6.2 declares them insignificant) is removed first, as Orthanc does.
    Bytes outside `[A-Za-z0-9_.-]`, and a dot or a dash at either end where it could hide or confuse, become `%XX` of the
    UTF-8 bytes. A result over 120 bytes is cut and ends in `%_` and the SHA-256 of the whole. Nothing at all becomes `%EMPTY`.
    """
    raw = value.strip(" \0").encode("utf-8", "surrogatepass")
    if not raw:
        return _EMPTY
    last = len(raw) - 1
    encoded = "".join(
        chr(byte) if byte in _PLAIN and not _confusing(byte, index, last) else f"%{byte:02X}"
        for index, byte in enumerate(raw)
    )
    if len(encoded) <= _NAME_BYTES:
        return encoded
    return encoded[:50].rstrip("%") + "%_" + hashlib.sha256(raw).hexdigest()


def _confusing(byte: int, index: int, last: int) -> bool:
    """A dot at either end (hidden, `..`, dropped by some file servers) or a leading dash (an option)."""
    return (byte == ord(".") and index in {0, last}) or (byte == ord("-") and index == 0)


@dataclass(frozen=True, slots=True)
class Series:
    """One series as an Orthanc lists it, with every instance it holds at the moment of asking."""

    orthanc_id: OrthancId
    series_uid: str
    instances: frozenset[OrthancId]


@dataclass(frozen=True)
class Study:
    """One study as an Orthanc lists it: the sets that all comparisons are made on."""

    orthanc_id: OrthancId
    study_uid: str
    patient_id: str
    accession: str
    series: tuple[Series, ...]

    @cached_property
    def ids(self) -> frozenset[OrthancId]:
        """The Orthanc IDs of all instances."""
        return frozenset().union(*(series.instances for series in self.series))

    @cached_property
    def series_of(self) -> dict[OrthancId, str]:
        """Instance Orthanc ID to SeriesInstanceUID."""
        return {one: series.series_uid for series in self.series for one in series.instances}

    @property
    def folder(self) -> str:
        """Where the study stands below OUTPUT_DIR: `PatientID/StudyInstanceUID`, encoded."""
        return f"{safe_component(self.patient_id)}/{safe_component(self.study_uid)}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One instance that storage holds and the disk does not yet: what is needed to ask for it and to place it."""

    orthanc_id: OrthancId
    series_uid: str
    sop_uid: str

    @property
    def file(self) -> str:
        """Where the instance stands below its study's folder: `SeriesInstanceUID/SOPInstanceUID.dcm`, encoded."""
        return f"{safe_component(self.series_uid)}/{safe_component(self.sop_uid)}.dcm"
