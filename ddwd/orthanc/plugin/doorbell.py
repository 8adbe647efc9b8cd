"""Notify the extractor of stored images: write one byte to a file that it watches by inotify, so that it need not poll.

Called inside each Orthanc's own process, by its plugin. If a notification is lost, the extractor finds the image after `poll_interval`
at the latest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Doorbell:
    """The file, and where it is said, once, that it cannot be written."""

    def __init__(self, path: str, complain: Callable[[str], None]) -> None:
        self._path, self._complain = Path(path), complain
        self._complained = False

    def ring(self) -> None:
        """Write to the file."""
        try:
            self._path.write_bytes(b".")
        except OSError as error:
            if not self._complained:
                self._complained = True
                self._complain(
                    f"the doorbell {self._path} cannot be written ({error.strerror}); studies wait for the poll (poll_interval)."
                    " To correct it, restart ddwd-provision"
                )
