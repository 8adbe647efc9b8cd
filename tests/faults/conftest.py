"""A machine whose OUTPUT_DIR is a file system of its own, with the portal in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import Portal, deb, installed
from tests.faults.__main__ import VOLUMES

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["deb", "portal"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder; the limit is generous, since no test here is about speed."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.appliance)
            item.add_marker(pytest.mark.timeout(900, func_only=True))


@pytest.fixture
def portal(deb: Path) -> Iterator[Portal]:
    """A fresh machine for each test: the faults and mutations of one must not reach another."""
    with installed(deb, volumes=VOLUMES) as fresh:
        fresh.machine.run("systemctl mask --now ddwd-doctor.timer")  # its study would be nobody's
        yield fresh
