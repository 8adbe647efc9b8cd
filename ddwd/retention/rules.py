"""Decide whether a study's time at a place is over and which of its images may be removed there. Pure functions.

The main rule: a copy is removed only after another copy, further down the flow, was just verified byte for byte. Otherwise it is
kept, with a reason. Of one study a place removes all images or none. docs/retention.md describes the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ddwd.config.parsers import FOREVER
from ddwd.config.retention import Place, Retention
from ddwd.core.clock import stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ddwd.config.routing import Route
    from ddwd.core.model import OrthancId
    from ddwd.store.custody import Record

IN_QUARANTINE = "images of it are in quarantine: ddwd quarantine list"
NOT_RECORDED = "it has images that are not published"
NOT_ON_STORAGE = "storage does not have all of it"
OTHER_ON_STORAGE = "storage has other content than was published"
OTHER_AT_GATEWAY = "the gateway has other content than was published"
STILL_AT_GATEWAY = "the gateway still has it"
LAST_COPY = "it is the last copy here"
MISSING = "files of it are missing in the output: ddwd verify"
DAMAGED_ON_DISK = "a file of it in the output is not as recorded: ddwd verify"
DAMAGED_ON_STORAGE = "storage has lost or damaged a file of it"


@dataclass(frozen=True, slots=True)
class Terms:
    """The settings of a place at one moment: remove studies whose days are over, or with `for_room` the oldest until there is space."""

    place: Place
    retention: Retention
    routes: Mapping[str, Route]
    now: datetime
    for_room: bool = False

    def is_over(self, published_at: str, route: str) -> bool:
        """Return whether the time of a study is over that was published at that stamp by that route."""
        days_of = self.retention.least if self.for_room else self.retention.days
        days = days_of(self.place, self.routes.get(route))
        return days != FOREVER and published_at <= stamp(self.now - timedelta(days=days))

    @property
    def last_copy(self) -> bool:
        """Whether the last copy may be removed: only if the settings allow it, and only for its age."""
        return self.retention.remove_last_copy and not self.for_room


@dataclass(frozen=True, slots=True)
class Copies:
    """A study at one moment: its record, the images in both Orthancs with the MD5 of each file, and those with a file in the output."""

    record: Record
    gateway: Mapping[OrthancId, str]
    storage: Mapping[OrthancId, str]
    output: frozenset[OrthancId]

    def at(self, place: Place) -> frozenset[OrthancId]:
        """Return the images that the place has."""
        return frozenset({"gateway": self.gateway, "storage": self.storage, "output": self.output}[place])

    def md5(self, image: OrthancId) -> str:
        """Return the MD5 of the published image; for an image that was not published, the MD5 on storage."""
        entry = self.record.images.get(image)
        return entry.md5 if entry else self.storage[image]

    def same_on_storage(self, images: Iterable[OrthancId]) -> bool:
        """Return whether storage lists these images with the recorded MD5."""
        return all(self.storage[image] == self.md5(image) for image in images)


@dataclass(frozen=True, slots=True)
class Proved:
    """Images whose file was read just now and matches: in the output the recorded SHA-256, on storage the MD5 from reception."""

    output: frozenset[OrthancId]
    storage: frozenset[OrthancId]


def obstacle(place: Place, copies: Copies, *, last_copy: bool) -> str:
    """Return why no image of the study may be removed there, by the lists alone; empty if the files have to be verified next."""
    if copies.record.set_aside:
        return IN_QUARANTINE
    # in the record: images that were published, and those that their route leaves on storage
    if not copies.at(place) <= copies.record.images.keys() | set(copies.record.passed):
        return NOT_RECORDED
    published = {image for image, entry in copies.record.images.items() if not entry.removed}
    if not published <= copies.output:
        return MISSING
    if place == "gateway":
        return _at_gateway(copies)
    return _on_storage(copies, last_copy) if place == "storage" else _in_output(copies, last_copy)


def _at_gateway(copies: Copies) -> str:
    if not copies.gateway.keys() <= copies.storage.keys():
        return NOT_ON_STORAGE
    if not copies.same_on_storage(copies.gateway):
        return OTHER_ON_STORAGE
    same = all(md5 == copies.md5(image) for image, md5 in copies.gateway.items())
    return "" if same else OTHER_AT_GATEWAY


def _on_storage(copies: Copies, last_copy: bool) -> str:
    if copies.gateway:
        return STILL_AT_GATEWAY
    if not copies.same_on_storage(copies.storage):
        return OTHER_ON_STORAGE
    return "" if last_copy or copies.storage.keys() <= copies.output else LAST_COPY


def _in_output(copies: Copies, last_copy: bool) -> str:
    if not copies.same_on_storage(copies.output & copies.storage.keys()):
        return OTHER_ON_STORAGE
    return "" if last_copy or copies.output <= copies.storage.keys() else LAST_COPY


def to_prove(place: Place, copies: Copies) -> Proved:
    """Return the files to verify before a removal: every copy that remains, and the files in the output that are to be removed."""
    there = copies.at(place)
    on_storage = frozenset() if place == "storage" else there & copies.at("storage")
    return Proved(there & copies.output, on_storage)


def removable(place: Place, copies: Copies, proved: Proved, *, last_copy: bool) -> frozenset[OrthancId] | str:
    """Return all images that the place has, if they may be removed; otherwise the reason why none may."""
    if reason := obstacle(place, copies, last_copy=last_copy):
        return reason
    required = to_prove(place, copies)
    if not required.output <= proved.output:
        return DAMAGED_ON_DISK
    if not required.storage <= proved.storage:
        return DAMAGED_ON_STORAGE
    return copies.at(place)
