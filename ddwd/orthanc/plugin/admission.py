"""Admission filter of both Orthancs: decides which object is stored, kept aside or refused. Run by orthanc/plugin.py inside Orthanc.

Orthanc answers Success for an object whose identifiers it already holds and drops the new one, even if its content differs.
So each object is examined before Orthanc stores it: one whose content differs from the stored one is written, durably, to
`conflicts/<node>/`, where the extractor finds it; with too little space on a volume every object is refused.
Every sender waits while this runs: it never parses pixels, and queries Orthanc's index once per series, not once per object.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ddwd.core import durable
from ddwd.core.disk_space import SpaceLevel, level_of, space_of
from ddwd.dicom.head import UnreadableError, identifying_part, is_deflated, is_nested_deeper, read_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_PADDING = " \0"
_UID = re.compile(r"[0-9.]{1,64}")
_PLAIN = re.compile(r"(?:[!-\[\]-}](?:[ -\[\]-}]*))?")
"""A PatientID that is the same text in every character set: no backslash, tilde, escape or leading space."""
_IN_FLIGHT_SECONDS = 120.0
"""Longest time in which Orthanc stores an object that was admitted: above all its time-out for the database."""
_REMEMBERED = 100_000
"""Instances in the cache, of the latest series: about 12 MB."""
_DEEPEST = 32
"""Levels of nested items; the deepest objects in use, structured reports, have about ten. Orthanc 1.12.7 crashes at 100."""
_TEMPORARY = ".part"
_MODE = 0o644  # its folder is for that Orthanc and the extractor alone


class Admission(Enum):
    """What happens to an object: Orthanc stores it (or holds it already), it is kept aside durably, or the sender keeps it."""

    KEEP = "keep"
    ASIDE = "aside"
    NO_SPACE = "no space"
    TOO_DEEP = "too deep"

    @property
    def is_refused(self) -> bool:
        """Return whether the sender keeps the object."""
        return self in {Admission.NO_SPACE, Admission.TOO_DEEP}


class NotDicomError(Exception):
    """Orthanc itself cannot read the object, and so will refuse it."""


class OwnIndex(Protocol):
    """Requests to the Orthanc this runs in; any exception but the documented ones means that there is no answer."""

    def instances_of(self, series: str) -> list[str]:
        """Return the Orthanc IDs of the stored instances of that series; empty if the series is not known."""

    def md5(self, instance: str) -> str | None:
        """Return the MD5 of the stored file of that Orthanc ID; None if there is none."""

    def is_whole(self, instance: str) -> bool:
        """Return whether the stored file is there, with the MD5 it came with."""

    def forget(self, instance: str) -> None:
        """Delete what is stored under that Orthanc ID."""

    def identify(self, content: bytes) -> tuple[str, str, str, str]:
        """Return PatientID, Study-, Series- and SOPInstanceUID as Orthanc reads them; slower. Raises NotDicomError."""

    def log(self, text: str) -> None:
        """Write a line to the log, never with patient data."""


class Settings(NamedTuple):
    """The folder of conflicts, and the volumes that must keep `reserve` bytes free (`disk.reserve`)."""

    conflicts: Path
    volumes: tuple[Path, ...]
    reserve: int

    @classmethod
    def read(cls, section: Mapping[str, Any]) -> Settings:
        """Read the section `Ddwd` of Orthanc's configuration."""
        volumes = tuple(map(Path, section["Volumes"]))
        return cls(Path(section["Conflicts"]), volumes, int(section["ReserveBytes"]))


class _InFlight(NamedTuple):
    """An object that was admitted a moment ago and may not be in the index yet."""

    instance: str
    fingerprint: tuple[int, int]
    at: float


class _SeriesCache:
    """Instances of the latest series that may be stored: those stored or in flight when the index was queried, and those admitted since.

    Every object passes the filter, so an instance that is not in here is new, and the index need not be queried.
    """

    def __init__(self, index: OwnIndex) -> None:
        self._index = index
        self._series: OrderedDict[str, set[str]] = OrderedDict()
        self._count = 0

    def may_hold(self, series: str, instance: str, in_flight: Iterable[str]) -> bool:
        """Return whether the instance may be stored; False is certain."""
        if series not in self._series:
            self._series[series] = {*self._index.instances_of(series), *in_flight}
            self._count += len(self._series[series])
        self._series.move_to_end(series)
        return instance in self._series[series]

    def add(self, series: str, instance: str) -> None:
        """Add an instance that was admitted."""
        if series in self._series:
            self._count += instance not in self._series[series]
            self._series[series].add(instance)
        while self._count > _REMEMBERED and len(self._series) > 1:
            self._count -= len(self._series.popitem(last=False)[1])


class AdmissionFilter:
    """Decides about one object after the other; called from every thread of Orthanc that stores."""

    def __init__(self, settings: Settings, index: OwnIndex, now: Callable[[], float]) -> None:
        self._settings = settings
        self._index = index
        self._now = now
        self._lock = threading.Lock()
        self._in_flight: dict[int, _InFlight] = {}
        self._cache = _SeriesCache(index)
        self._full: set[Path] = set()
        for torn in settings.conflicts.glob(f".*{_TEMPORARY}"):  # left by an Orthanc that was killed
            durable.unlink(torn)

    def judge(self, content: bytes) -> Admission:
        """Decide about one object. Raises OSError and what the index raises: the object must be refused then."""
        if self._has_no_space(len(content)):
            return Admission.NO_SPACE
        if self._is_too_deep(content):
            return Admission.TOO_DEEP
        with self._lock:
            # a thread that brings another object has finished the one before
            self._in_flight.pop(threading.get_ident(), None)
            try:
                ids = self._identify(content)
            except NotDicomError:
                return Admission.KEEP
            return self._judge(content, ids)

    def _judge(self, content: bytes, ids: OrthancIds) -> Admission:
        fingerprint = len(content), hash(content)
        others = [rival for rival in self._rivals(ids.instance) if rival.fingerprint != fingerprint]
        in_flight = (admitted.instance for admitted in self._in_flight.values())
        if not self._cache.may_hold(ids.series, ids.instance, in_flight):
            return self._admit(ids, fingerprint)
        stored = self._index.md5(ids.instance)
        if stored is None and not others:
            return self._admit(ids, fingerprint)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()  # Orthanc's choice
        if digest == stored:
            self._restore_lost_file(ids.instance)
            return self._admit(ids, fingerprint)
        self._put_aside(content, f"{ids.instance}.{digest}.dcm")
        return Admission.ASIDE

    def _restore_lost_file(self, instance: str) -> None:
        """Delete the index entry if its file is lost, so that the object is stored anew: Orthanc answers Success for what it lists.

        A database killed in mid-commit may keep the row of an object whose file Orthanc removed again, and whose sender got a failure.
        """
        if not self._index.is_whole(instance):
            self._index.log(f"the file of {instance} was lost; the object is stored anew")
            self._index.forget(instance)

    def _identify(self, content: bytes) -> OrthancIds:
        """Raises NotDicomError; UnreadableError if the object is deflated and its head is not at its beginning."""
        part = content
        try:
            if ids := orthanc_ids(content):
                return ids
            part = identifying_part(content)
        except UnreadableError:
            # no other request to this Orthanc is answered while it parses, and inflating has no bound
            if is_deflated(content):
                raise
        return _ids_of(*self._index.identify(part))

    def _rivals(self, instance: str) -> list[_InFlight]:
        since = self._now() - _IN_FLIGHT_SECONDS
        admitted = self._in_flight.values()
        return [rival for rival in admitted if rival.instance == instance and rival.at >= since]

    def _admit(self, ids: OrthancIds, fingerprint: tuple[int, int]) -> Admission:
        self._in_flight[threading.get_ident()] = _InFlight(ids.instance, fingerprint, self._now())
        self._cache.add(ids.series, ids.instance)
        return Admission.KEEP

    def _put_aside(self, content: bytes, name: str) -> None:
        """Write the object durably before the sender gets Success; it may be there already."""
        target = self._settings.conflicts / name
        if target.exists():
            durable.fsync_dir(target.parent)  # the name may not be durable yet if an earlier attempt failed
        else:
            temporary = target.with_name(f".{name}{_TEMPORARY}")
            durable.unlink(temporary)
            file = durable.NewFile(temporary)
            try:
                os.fchmod(file.descriptor, _MODE)
                file.write(content)
                file.sync()
                durable.rename(temporary, target)
            except BaseException:
                file.abandon()
                raise
        self._index.log(f"an object differs from the one stored under its identifiers; both are kept: {name}")

    def _is_too_deep(self, content: bytes) -> bool:
        """Return whether Orthanc would crash: version 1.12 reads sequences by recursion, in HTTP threads of a small stack."""
        with suppress(UnreadableError):  # Orthanc reads no deeper than this either
            if is_nested_deeper(content, _DEEPEST):
                self._index.log(f"an object with sequences nested more than {_DEEPEST} deep is refused")
                return True
        return False

    def _has_no_space(self, coming: int) -> bool:
        full = {volume for volume in self._settings.volumes if self._is_full(volume, coming)}
        for volume in full - self._full:
            self._index.log(f"too little space on the volume of {volume}: objects are refused (ddwd status)")
        if self._full and not full:
            self._index.log("enough space again: objects are accepted")
        self._full = full
        return bool(full)

    def _is_full(self, volume: Path, coming: int) -> bool:
        """Return whether the volume has too little space; False if that cannot be measured, since writing will fail."""
        try:
            space = space_of(volume)
        except OSError:
            return False
        before = SpaceLevel.REFUSE if volume in self._full else SpaceLevel.OK
        left = replace(space, free=space.free - coming)
        return level_of(left, self._settings.reserve, before) >= SpaceLevel.REFUSE


def sop_uid(content: bytes) -> str:
    """Return the SOPInstanceUID of a Part 10 file; empty if it cannot be read."""
    with suppress(UnreadableError):
        return read_identity(content).sop_uid
    return ""


class OrthancIds(NamedTuple):
    """The IDs that Orthanc gives an instance and its series."""

    instance: str
    series: str


def orthanc_ids(content: bytes) -> OrthancIds | None:
    """Return the IDs of a Part 10 file; None if they depend on a character set or the identifiers are not clean.

    Raises UnreadableError.
    """
    found = read_identity(content)
    patient = found.patient_id.rstrip(_PADDING)
    uids = (found.study_uid, found.series_uid, found.sop_uid)
    if not _PLAIN.fullmatch(patient) or not all(map(_UID.fullmatch, uids)):
        return None
    return _ids_of(patient, *uids)


def _ids_of(*identifiers: str) -> OrthancIds:
    return OrthancIds(_hashed(*identifiers), _hashed(*identifiers[:-1]))


def _hashed(*identifiers: str) -> str:
    """Return the SHA-1 of the identifiers joined by a bar, in five groups."""
    digits = hashlib.sha1("|".join(identifiers).encode(), usedforsecurity=False).hexdigest()
    return "-".join(digits[start : start + 8] for start in range(0, 40, 8))
