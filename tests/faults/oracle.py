"""The oracle: every acknowledged instance is on disk exactly once, with what was sent, and no partial study was ever visible.

Pure over folders: it knows what was sent, what was acknowledged and when, and looks at OUTPUT_DIR; it asks nobody of the portal.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pydicom
from pydicom.errors import InvalidDicomError

from ddwd.core.model import safe_component
from tests.studies import differences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

PRIVATE = ".ddwd"
SETTLED_SECONDS = 1.5
"""An image acknowledged this long before its study appeared must be in it: more than one look of the extractor, plus ours."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One file that was sent: where it must come out below OUTPUT_DIR, by the identifiers in it."""

    path: Path
    target: str

    @property
    def study(self) -> str:
        """PatientID/StudyInstanceUID, encoded."""
        return self.target.rsplit("/", 2)[0]


def sent(path: Path) -> Sent:
    """Read where a file must come out."""
    head = pydicom.dcmread(path, stop_before_pixels=True)
    parts = (str(head.get("PatientID") or ""), head.StudyInstanceUID, head.SeriesInstanceUID)
    folder = "/".join(safe_component(str(part)) for part in parts)
    return Sent(path, f"{folder}/{safe_component(str(head.SOPInstanceUID))}.dcm")


@dataclass
class Verdict:
    """What is wrong; each list names files below OUTPUT_DIR."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """True where the promise is kept."""
        return not (self.lost or self.doubled or self.changed or self.foreign or self.partial)

    def counts(self) -> dict[str, int]:
        """How much of each."""
        return {
            name: len(getattr(self, name)) for name in ("lost", "doubled", "changed", "foreign", "partial")
        }


def visible(output: Path) -> Iterator[str]:
    """Every file that people see below OUTPUT_DIR."""
    for path in output.rglob("*"):
        name = path.relative_to(output)
        if name.parts[0] != PRIVATE and path.is_file():
            yield name.as_posix()


def lost(acknowledged: Iterable[Sent], output: Path) -> list[str]:
    """What was acknowledged and is not there; cheap enough to be asked again and again."""
    return [one.target for one in acknowledged if not (output / one.target).is_file()]


def judge(everything: Iterable[Sent], acknowledged: Iterable[Sent], output: Path) -> Verdict:
    """Hold OUTPUT_DIR against what was sent and what of it was acknowledged."""
    known = {one.target: one for one in everything}
    there = list(visible(output))
    verdict = Verdict(lost=lost(acknowledged, output))
    verdict.foreign = [name for name in there if name not in known]
    names = Counter(name.split("/", 1)[0] + name.rpartition("/")[2] for name in there)
    verdict.doubled = [name for name, count in names.items() if count > 1]
    verdict.changed = [
        f"{name}: {reason}" for name in there if name in known
        if (reason := _difference(known[name].path, output / name))
    ]  # fmt: skip
    return verdict


def _difference(before: Path, after: Path) -> str:
    """The first difference, or nothing."""
    try:
        return next(iter(differences(before, after)), "")
    except (InvalidDicomError, EOFError) as error:
        return f"cannot be read ({type(error).__name__})"


class Watcher(threading.Thread):
    """Sees each study folder appear, and demands that it holds by then all that was acknowledged before.

    `acknowledged` is asked again and again; the moment an image is first seen acknowledged is never before it was.
    """

    def __init__(self, output: Path, acknowledged: Callable[[], Iterable[Sent]], pause: float = 0.1) -> None:
        super().__init__(name="watcher", daemon=True)
        self.partial: list[str] = []
        self._output = output
        self._acknowledged = acknowledged
        self._pause = pause
        self._since: dict[str, tuple[str, float]] = {}
        self._seen: set[str] = set()
        self._ended = threading.Event()

    def run(self) -> None:
        """Look until told to end."""
        while not self._ended.wait(self._pause):
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """One look, at `now` in seconds: first at what appeared, then at what was acknowledged."""
        for study in self._studies():
            if study not in self._seen:
                self._seen.add(study)
                self.partial += [
                    target
                    for target, (owner, since) in self._since.items()
                    if owner == study
                    and now - since > SETTLED_SECONDS
                    and not (self._output / target).is_file()
                ]
        for one in self._acknowledged():
            self._since.setdefault(one.target, (one.study, now))

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()
        self.join()

    def _studies(self) -> Iterator[str]:
        for folder in self._output.glob("*/*"):
            if folder.parent.name != PRIVATE and folder.is_dir():
                yield folder.relative_to(self._output).as_posix()
