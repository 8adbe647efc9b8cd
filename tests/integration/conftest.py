"""What the tests here share: a portal as it comes, portals of a test's own, a PostgreSQL server."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddwd.trial.sandbox import settings
from tests.integration.postgresql import PostgresServer
from tests.integration.trial import Trial
from tests.patience import limit_hangs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NUMBERS = count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Limit hangs only: how long a test waits depends on what else the machine does."""
    limit_hangs(items, Path(__file__).parent)


@pytest.fixture(scope="session")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A portal with every setting at its default."""
    trial = Trial(tmp_path_factory.mktemp("try") / "portal")
    try:
        trial.wait_up()
        yield trial
    finally:
        trial.stop()


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A portal that waits one second for late images, and not three."""
    folder = tmp_path_factory.mktemp("quick") / "portal"
    folder.mkdir()
    write_settings(folder, "stable_age: 1\n")
    trial = Trial(folder)
    try:
        trial.wait_up()
        yield trial
    finally:
        trial.stop()


def write_settings(folder: Path, extra: str) -> None:
    """Write a trial's ddwd.yaml with more settings; its ports are reserved until the test run ends, over every restart of the trial."""
    settings(folder)
    with (folder / "ddwd.yaml").open("a", encoding="utf-8") as file:
        file.write(extra)


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server; whoever stops it starts it again."""
    made = PostgresServer()
    yield made
    made.remove()


@pytest.fixture
def ledger(server: PostgresServer) -> str:
    """Name of an empty database on it."""
    name = f"ledger{next(_NUMBERS)}"
    server.sql(f"create database {name}", "postgres")
    return name


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Trial]]:
    """Start a portal of the test's own in its folder, as often as it likes; ended with the test."""
    trials: list[Trial] = []

    def start(*options: str, extra: str = "") -> Trial:
        folder = tmp_path / "portal"
        if extra:
            folder.mkdir()
            write_settings(folder, extra)
        trials.append(Trial(folder, *options))
        return trials[-1]

    yield start
    for trial in trials:
        trial.stop()
