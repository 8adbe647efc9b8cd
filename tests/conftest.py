"""What all tests share: the same examples of Hypothesis in each run (tests/depth.py), and which machine tests are left to `make certify`."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from ddwd.core import audit, watchdog
from ddwd.core.answers import answer
from tests import answers
from tests.depth import FULL, examples
from tests.machine.machine import accounts
from tests.tiers import is_alone, is_certify, rank

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

settings.register_profile("ddwd", examples(40, 400))
settings.load_profile("ddwd")


@pytest.fixture(autouse=True)
def _utc() -> Iterator[None]:
    """Let local time be UTC: what people read has local times, and is the same wherever the tests run."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
    time.tzset()


@pytest.fixture(autouse=True)
def _watchdog() -> Iterator[None]:
    """Remove the watchdog's hook that a test, or a daemon made by it, has installed."""
    yield
    watchdog.install()


@pytest.fixture(autouse=True, scope="session")
def _answers() -> Iterator[None]:
    """Hold each answer of a verb to --json against its schema."""

    def checked(*words: Any, **facts: Any) -> dict[str, Any]:
        return answers.checked(json.dumps(answer(*words, **facts)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddwd.core.answers.answer", checked)
        yield


@pytest.fixture(autouse=True)
def _users() -> None:
    """Forget the users that an earlier test had the readers of the audit trail look up."""
    audit._uids.cache_clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failed machine test what its machines have to say: units that failed, the end of the journal."""
    report = yield
    if report.failed and item.get_closest_marker("appliance"):
        report.sections += [(f"machine {name}", text) for name, text in accounts()]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test` leaves to `make certify`, let what goes to full depth take its time; put the modules of the machine tests that take longest first."""
    for item in items:
        if FULL and item.get_closest_marker("deep"):
            item.add_marker(pytest.mark.timeout(1200))
        if item.get_closest_marker("appliance") and is_certify(item.path.stem, item.name):
            item.add_marker(pytest.mark.certify)
        if item.get_closest_marker("appliance") and is_alone(item.path.stem):
            item.add_marker(pytest.mark.alone)
    items.sort(key=lambda item: rank(item.path.stem) if item.get_closest_marker("appliance") else 0)
