"""The portals the tests here share: one as it comes, one that forwards only stable studies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ddwd.appliance.sandbox import settings
from tests.integration.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A portal with every setting at its default."""
    trial = Trial(tmp_path_factory.mktemp("try") / "portal")
    try:
        trial.wait_up()
        yield trial
    finally:
        trial.stop()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Trial]]:
    """Start a portal of the test's own in its folder, as often as it likes; ended with the test."""
    trials: list[Trial] = []

    def start(*options: str, extra: str = "") -> Trial:
        folder = tmp_path / "portal"
        if extra:
            folder.mkdir()
            settings(folder)
            with (folder / "ddwd.yaml").open("a") as file:
                file.write(extra)
        trials.append(Trial(folder, *options))
        return trials[-1]

    yield start
    for trial in trials:
        trial.stop()
