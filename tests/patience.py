"""The one limit of tests that wait for real processes: it ends a hang, whatever else keeps the machine busy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

HANG_SECONDS = 300.0


def limit_hangs(items: list[pytest.Item], folder: Path) -> None:
    """Give the tests below a folder that limit instead of the one for unit tests. Waits in a test end a little earlier, with a reason."""
    for item in items:
        if folder in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(HANG_SECONDS))
