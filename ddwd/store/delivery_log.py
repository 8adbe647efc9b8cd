"""Which images each of `destinations` has been proved to have: one file for a destination and a study. ddwd-courier alone writes them.

What is not in it is sent, or asked for, again; so a file that is lost or damaged costs a second sending, and never an image.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

from ddwd.core import durable
from ddwd.core.errors import StateError
from ddwd.core.model import OrthancId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from ddwd.config.routing import Route
    from ddwd.store.custody import Record

SCHEMA = 1
_WISH = "now"


class Deliveries:
    """The folder, with one below it for each destination, sharded by the study."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, destination: str, study: OrthancId) -> Path:
        """Where it stands what that destination has of the study."""
        return self._folder / destination / study[:2] / f"{study}.json"

    def of(self, destination: str, study: OrthancId) -> frozenset[OrthancId]:
        """The images that the destination has; none where nothing is known, or the file is damaged. Raises StateError."""
        return frozenset(map(OrthancId, self._read(destination, study).get("images", ())))

    def last(self, destination: str, study: OrthancId) -> str:
        """When it was proved last to have images of the study, as a stamp; nothing where it has none. Raises StateError."""
        return str(self._read(destination, study).get("at", ""))

    def add(self, destination: str, study: OrthancId, images: Iterable[OrthancId], at: str) -> None:
        """Keep, durably, that it has these too. Raises StateError, StorageFullError and OSError."""
        body = {
            "schema": SCHEMA,
            "study": study,
            "destination": destination,
            "at": at,
            "images": sorted(self.of(destination, study).union(images)),
        }
        path = self.path(destination, study)
        durable.make_dirs(path.parent)
        durable.replace_file(path, json.dumps(body | {"checksum": _checksum(body)}).encode("ascii") + b"\n")

    def wish(self) -> None:
        """Ask ddwd-courier to try every destination and study at once. Raises OSError."""
        durable.replace_file(self._folder / _WISH, b"")

    def take_wish(self) -> bool:
        """Whether the operator has asked for that since it was looked at last."""
        wished = (self._folder / _WISH).exists()
        if wished:
            durable.unlink(self._folder / _WISH)
        return wished

    def _read(self, destination: str, study: OrthancId) -> dict[str, Any]:
        path = self.path(destination, study)
        try:
            body: dict[str, Any] = json.loads(path.read_bytes())
            said = {key: value for key, value in body.items() if key != "checksum"}
            sound = body["schema"] == SCHEMA and body["checksum"] == _checksum(said)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StateError(
                f"{path.parent}: {error.strerror}; what was delivered is for root and group ddwd"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}
        return body if sound else {}


def owed(deliveries: Deliveries, routes: Sequence[Route]) -> Callable[[Record], str]:
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


def _checksum(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode('ascii')):08x}"
