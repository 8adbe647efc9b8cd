"""Remove verified images one by one, never a whole study, so that an image that arrives meanwhile stays. Runs in a worker thread.

An image counts as removed if it is no longer listed afterwards. May be interrupted anywhere: a later round finds and verifies the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.core import watchdog
from ddwd.core.errors import DdwdError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ddwd.config.routing import Route
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort
    from ddwd.retention.eligibility import Eligibility
    from ddwd.store.custody import Custody
    from ddwd.store.output_tree import OutputTree


@dataclass(frozen=True, slots=True)
class Removed:
    """Number and bytes of the removed images, and why others were not removed."""

    images: int = 0
    bytes: int = 0
    problem: str = ""


@dataclass
class Remover:
    """Delete images for retention. Only this class and the storage repair delete images that a modality sent."""

    nodes: tuple[OrthancPort, OrthancPort]
    output: OutputTree
    custody: Custody
    routes: Iterable[Route]

    def __post_init__(self) -> None:
        self._nodes = dict(zip(("gateway", "storage"), self.nodes, strict=True))
        self._markers = {route.name: route.marker for route in self.routes}

    def remove(self, finding: Eligibility) -> Removed:
        """Remove the images of the finding. A DdwdError or OSError is not raised: its text is the `problem` of the result."""
        problem = ""
        try:
            self._delete(finding)
        except (DdwdError, OSError) as error:
            problem = str(error) if isinstance(error, DdwdError) else type(error).__name__
        try:
            gone = finding.images.keys() - self._left(finding)
        except (DdwdError, OSError):
            return Removed(problem=problem or "it is not known whether it was removed")
        size = sum(finding.images[image] for image in gone)
        if len(gone) < len(finding.images):
            problem = problem or "not all of it was removed"
        return Removed(len(gone), size, problem)

    def _delete(self, finding: Eligibility) -> None:
        if finding.place != "output":
            with watchdog.deferrable():
                for image in finding.images:
                    watchdog.alive()
                    self._nodes[finding.place].forget(image)
        elif (record := self.custody.read(finding.study)) is not None:
            if marker := self._markers.get(record.route):  # first: the marker states that all files are there
                self.output.unmark(record, marker)
            self.output.remove(record, finding.images)

    def _left(self, finding: Eligibility) -> frozenset[OrthancId]:
        if finding.place != "output":
            return self._nodes[finding.place].instances([finding.study]).get(finding.study, frozenset())
        record = self.custody.read(finding.study)
        return self.output.present(record) if record is not None else frozenset()
