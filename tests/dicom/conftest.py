"""A real SCP on a free port over a folder of its own, and senders that speak to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ddwd.config import Config, Scp
from ddwd.dicom.store_scp import Bounds, StoreScp
from ddwd.dicom.upper_layer import Limits, Peer
from ddwd.paths import Paths

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Portal:
    """The SCP under test with its folders."""

    def __init__(self, folder: Path) -> None:
        self.config = Config(scp=Scp(port=0), output_dir=folder / "out", run_dir=folder / "run")
        self.paths = Paths(self.config)
        self.paths.output.mkdir()
        self.scp = StoreScp(
            self.config, bounds=Bounds(connections=8, limits=Limits(negotiation=0.5, transfer=2.0))
        )

    @property
    def peer(self) -> Peer:
        """The SCP as a sender reaches it."""
        return Peer("127.0.0.1", self.scp.port, self.config.scp.aet, "TEST")

    def spooled(self) -> list[Path]:
        """Acknowledged objects."""
        return sorted(self.paths.spool.rglob("*.dcm"))

    def unfinished(self) -> list[Path]:
        """Objects that were not acknowledged."""
        return list(self.paths.incoming.iterdir())


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[Portal]:
    """A running SCP."""
    running = Portal(tmp_path)
    running.scp.start()
    yield running
    running.scp.stop(5)
