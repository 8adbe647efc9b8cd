"""A real SCP on a free port over a folder of its own, and senders that speak to it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddwd.config.paths import Paths
from ddwd.config.schema import Config, Scp
from ddwd.dicom.store_scp import Bounds, StoreScp
from ddwd.dicom.upper_layer import Limits, Peer, UpperLayer
from tests.patience import limit_hangs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Limit hangs only: how long a test waits depends on what else the machine does."""
    limit_hangs(items, Path(__file__).parent)


class Portal:
    """The SCP under test with its folders."""

    def __init__(self, folder: Path) -> None:
        self.config = Config(scp=Scp(port=0), output_dir=folder / "out", run_dir=folder / "run")
        self.paths = Paths(self.config)
        self.paths.output.mkdir()
        self.scp = StoreScp(self.config, bounds=Bounds(connections=8))

    @property
    def peer(self) -> Peer:
        """The SCP as a sender reaches it."""
        return Peer("127.0.0.1", self.scp.port, self.config.scp.aet, "TEST")

    def hurry(self, *, negotiation: float = 5.0, transfer: float = 60.0) -> None:
        """Shorten the seconds that a PDU of the connections to come may take: for a test that waits for the end of them."""
        self.scp._bounds = replace(self.scp._bounds, limits=Limits(negotiation, transfer))

    def spooled(self) -> list[Path]:
        """Acknowledged objects."""
        return sorted(self.paths.spool.rglob("*.dcm"))

    def unfinished(self) -> list[Path]:
        """Objects that were not acknowledged."""
        return list(self.paths.incoming.iterdir())

    def wait_begun(self) -> None:
        """Wait until an object is on its way in."""
        wait_until(self.unfinished)

    def wait_ended(self) -> None:
        """Wait until each association whose peer has gone has ended, and what was cut off is removed."""
        scp = self.scp
        with scp._changed:
            scp._changed.wait_for(lambda: not scp._open)
        for thread in threading.enumerate():
            if isinstance(thread, UpperLayer) and thread.assoc.is_acceptor:
                thread.join()


def wait_until(holds: Callable[[], object]) -> None:
    """Look every few milliseconds until it holds; where it never does, pytest's limit for a hang ends the test."""
    while not holds():
        time.sleep(0.005)


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[Portal]:
    """A running SCP."""
    running = Portal(tmp_path)
    running.scp.start()
    yield running
    running.scp.stop(5)
