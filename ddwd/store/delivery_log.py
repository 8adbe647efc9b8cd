"""Which images each of `destinations` has been proved to have: one file for a destination and a study. ddwd-courier alone writes them.

What is not in it is sent, or asked for, again; so a file that is lost or damaged costs a second sending, and never an image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.core import durable
from ddwd.core.errors import DamagedStateError, NewerStateError, StateError
from ddwd.core.model import OrthancId
from ddwd.store.statefile import StateFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from ddwd.config.routing import Route
    from ddwd.store.custody import Record

_WISH = "now"


@dataclass(frozen=True, slots=True)
class _Delivered:
    """What one destination has of one study; `at` is the stamp of the last proof."""

    study: OrthancId
    destination: str
    at: str = ""
    images: list[OrthancId] = field(default_factory=list)


_FORMAT = StateFormat(_Delivered, "delivery log", schema=1, checksum=True)


class DeliveryLog:
    """The folder, with one below it for each destination, sharded by the study."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, destination: str, study: OrthancId) -> Path:
        """Where it stands what that destination has of the study."""
        return self._folder / destination / study[:2] / f"{study}.json"

    def of(self, destination: str, study: OrthancId) -> frozenset[OrthancId]:
        """The images that the destination has; none where nothing is known, or the file is damaged. Raises StateError."""
        return frozenset(self._read(destination, study).images)

    def last(self, destination: str, study: OrthancId) -> str:
        """When it was proved last to have images of the study, as a stamp; nothing where it has none. Raises StateError."""
        return self._read(destination, study).at

    def add(self, destination: str, study: OrthancId, images: Iterable[OrthancId], at: str) -> None:
        """Keep, durably, that it has these too. Raises StateError, StorageFullError and OSError."""
        known = sorted(self.of(destination, study).union(images))
        path = self.path(destination, study)
        durable.make_dirs(path.parent)
        _FORMAT.write(path, _Delivered(study, destination, at, known))

    def wish(self) -> None:
        """Ask ddwd-courier to try every destination and study at once. Raises OSError."""
        durable.replace_file(self._folder / _WISH, b"")

    def take_wish(self) -> bool:
        """Whether the operator has asked for that since it was looked at last."""
        wished = (self._folder / _WISH).exists()
        if wished:
            durable.unlink(self._folder / _WISH)
        return wished

    def _read(self, destination: str, study: OrthancId) -> _Delivered:
        path = self.path(destination, study)
        try:
            return _FORMAT.read(path) or _Delivered(study, destination)
        except OSError as error:
            raise StateError(
                f"{path.parent}: {error.strerror}; what was delivered is for root and group ddwd"
            ) from error
        except (DamagedStateError, NewerStateError):
            return _Delivered(study, destination)


def owed(deliveries: DeliveryLog, routes: Sequence[Route]) -> Callable[[Record], str]:
    """Tells of a finished study what is not at the destinations of its rule yet, in one line; nothing where all is. Raises StateError."""
    also = {route.name: route.also for route in routes}

    def _owed(record: Record) -> str:
        at_gateway = {one for one, kept in record.images.items() if kept.at_gateway}
        wanted = at_gateway.union(record.passed, record.set_aside)
        for name in also.get(record.route, ()):
            if missing := wanted - deliveries.of(name, record.study):
                return f"{len(missing)} of its images are not at {name} yet"
        return ""

    return _owed
