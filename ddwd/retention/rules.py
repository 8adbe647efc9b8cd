"""Pure: whether a study's time at a place is over, and which of its images may be removed there. Decides; looks at nothing.

One sentence stands above all: no copy goes unless another one was proved byte for byte a moment before, in a place further down the
flow. What is short of that is kept, with a reason; a study goes from a place whole or not at all. docs/retention.md tells the same in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ddwd.config.parsers import FOREVER
from ddwd.config.retention import Place, Retention
from ddwd.core.clock import stamp

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    """What ddwd.yaml says of a place at one moment: whose days are over, or `for_room` who may go for want of it."""

    place: Place
    retention: Retention
    routes: Mapping[str, Route]
    now: datetime
    for_room: bool = False

    def is_over(self, published_at: str, route: str) -> bool:
        """Whether a study that was published then, by that route, may go as far as time tells."""
        ask = self.retention.least if self.for_room else self.retention.days
        days = ask(self.place, self.routes.get(route))
        return days != FOREVER and published_at <= stamp(self.now - timedelta(days=days))

    @property
    def last_copy(self) -> bool:
        """Whether the last copy may go: where it was asked for, and only for its age."""
        return self.retention.remove_last_copy and not self.for_room


@dataclass(frozen=True, slots=True)
class Copies:
    """A study at one moment: its record, what both Orthancs list with the MD5 of each file, whose files are in the output."""

    record: Record
    gateway: Mapping[OrthancId, str]
    storage: Mapping[OrthancId, str]
    output: frozenset[OrthancId]

    def at(self, place: Place) -> frozenset[OrthancId]:
        """The images that the place has."""
        return frozenset({"gateway": self.gateway, "storage": self.storage, "output": self.output}[place])

    @property
    def known(self) -> frozenset[OrthancId]:
        """What the record accounts for: the images that were published, and those that their rule leaves on storage."""
        return frozenset(self.record.images) | frozenset(self.record.passed)

    def md5(self, image: OrthancId) -> str:
        """What was published, as its MD5; of an image that was not, storage's."""
        kept = self.record.images.get(image)
        return kept.md5 if kept else self.storage[image]

    def same_on_storage(self, images: frozenset[OrthancId]) -> bool:
        """Whether storage lists these with the recorded MD5."""
        return all(self.storage[one] == self.md5(one) for one in images)


@dataclass(frozen=True, slots=True)
class Proved:
    """The images whose file in the output has the recorded SHA-256, and whose file on storage has the MD5 it came with: read just now."""

    output: frozenset[OrthancId]
    storage: frozenset[OrthancId]


def obstacle(place: Place, copies: Copies, *, last_copy: bool) -> str:
    """Why nothing of the study may be removed there, as far as the lists tell; nothing where the files themselves must tell."""
    if copies.record.set_aside:
        return IN_QUARANTINE
    if not copies.at(place) <= copies.known:
        return NOT_RECORDED
    if any(one not in copies.output for one, kept in copies.record.images.items() if not kept.removed):
        return MISSING
    if place == "gateway":
        return _at_gateway(copies)
    return _on_storage(copies, last_copy) if place == "storage" else _in_output(copies, last_copy)


def _at_gateway(copies: Copies) -> str:
    there = copies.at("gateway")
    if not there <= copies.storage.keys():
        return NOT_ON_STORAGE
    if not copies.same_on_storage(there):
        return OTHER_ON_STORAGE
    same = all(copies.gateway[one] == copies.md5(one) for one in there)
    return "" if same else OTHER_AT_GATEWAY


def _on_storage(copies: Copies, last_copy: bool) -> str:
    there = copies.at("storage")
    if copies.gateway:
        return STILL_AT_GATEWAY
    if not copies.same_on_storage(there):
        return OTHER_ON_STORAGE
    return "" if last_copy or there <= copies.output else LAST_COPY


def _in_output(copies: Copies, last_copy: bool) -> str:
    if not copies.same_on_storage(copies.output & copies.storage.keys()):
        return OTHER_ON_STORAGE
    return "" if last_copy or copies.output <= copies.storage.keys() else LAST_COPY


def to_prove(place: Place, copies: Copies) -> Proved:
    """What must be proved before: the copies that are left, and in the output that what goes is what was published."""
    there = copies.at(place)
    on_storage = frozenset() if place == "storage" else there & copies.at("storage")
    return Proved(there & copies.output, on_storage)


def removable(place: Place, copies: Copies, proved: Proved, *, last_copy: bool) -> frozenset[OrthancId] | str:
    """The images that may be removed there, all that the place has; or why none may."""
    if reason := obstacle(place, copies, last_copy=last_copy):
        return reason
    wanted = to_prove(place, copies)
    if not wanted.output <= proved.output:
        return DAMAGED_ON_DISK
    if not wanted.storage <= proved.storage:
        return DAMAGED_ON_STORAGE
    return copies.at(place)
