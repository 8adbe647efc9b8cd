"""Log of the images that each of `destinations` is proved to have: one file per destination and study. Only ddwd-courier writes it.

An image that is not in it is sent again; a lost or damaged file therefore costs a second transfer and never an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ddwd.config.routing import Route
from ddwd.core import durable
from ddwd.core.errors import DamagedStateError, NewerStateError, StateError
from ddwd.core.model import OrthancId
from ddwd.store.custody import Record
from ddwd.store.hook_queue import RetryRequest
from ddwd.store.statefile import StateFormat


@dataclass(frozen=True, slots=True)
class _Delivered:
    """The images of one study that one destination has; `at` is the UTC stamp of the last proof."""

    study: OrthancId
    destination: str
    at: str = ""
    images: list[OrthancId] = field(default_factory=list)


_FORMAT = StateFormat(_Delivered, "delivery log", schema=1, checksum=True)


class DeliveryLog(RetryRequest):
    """The folder, with one subfolder per destination, sharded by study."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def path(self, destination: str, study: OrthancId) -> Path:
        """Return the file of a destination and a study."""
        return self._folder / destination / study[:2] / f"{study}.json"

    def of(self, destination: str, study: OrthancId) -> frozenset[OrthancId]:
        """Return the images that the destination has; none if there is no file or a damaged one. Raises StateError."""
        return frozenset(self._read(destination, study).images)

    def last(self, destination: str, study: OrthancId) -> str:
        """Return the UTC stamp of the last proof that it has images of the study; empty if it has none. Raises StateError."""
        return self._read(destination, study).at

    def add(self, destination: str, study: OrthancId, images: Iterable[OrthancId], at: str) -> None:
        """Add images durably. Raises StateError, StorageFullError and OSError."""
        delivered = sorted(self.of(destination, study).union(images))
        path = self.path(destination, study)
        durable.make_dirs(path.parent)
        _FORMAT.write(path, _Delivered(study, destination, at, delivered))

    def _read(self, destination: str, study: OrthancId) -> _Delivered:
        path = self.path(destination, study)
        try:
            return _FORMAT.read(path) or _Delivered(study, destination)
        except OSError as error:
            raise StateError(
                f"{path.parent}: {error.strerror}; only root and group ddwd may read the delivery log"
            ) from error
        except (DamagedStateError, NewerStateError):
            return _Delivered(study, destination)


def owed(deliveries: DeliveryLog, routes: Sequence[Route]) -> Callable[[Record], str]:
    """Return a function that returns one line on how many images of a finished study are missing at a destination; empty for none."""
    also = {route.name: route.also for route in routes}

    def _owed(record: Record) -> str:
        at_gateway = {image for image, instance in record.images.items() if instance.at_gateway}
        due = at_gateway.union(record.passed, record.set_aside)
        for name in also.get(record.route, ()):
            if missing := due - deliveries.of(name, record.study):
                return f"{len(missing)} of its images are not at {name} yet"
        return ""

    return _owed
