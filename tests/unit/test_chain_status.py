"""What people are told of the chain: nothing while it is well, and one line with what to do when it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ddwd.cli.status import render
from ddwd.config.schema import Config
from ddwd.core.clock import stamp
from ddwd.core.errors import StateError
from ddwd.core.problem_codes import Code
from ddwd.daemon.signer import SignerDaemon
from ddwd.monitoring.alerts import conditions
from ddwd.monitoring.metrics import Metrics
from ddwd.status import chain
from ddwd.store.status_files import SIGNER, SignerStatus
from tests.tui import boards
from tests.unit.fakes import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.status.report import Report

NOW = FakeClock().utc()
WELL = SignerStatus(stamp(NOW), 4711, 1234, stamp(NOW), "ab" * 32, 1200, stamp(NOW))


def report(tmp_path: Path, status: SignerStatus) -> Report:
    config = replace(Config(), run_dir=tmp_path)
    (tmp_path / "signer").mkdir(exist_ok=True)
    SIGNER.write_status(tmp_path / "signer" / "status.json", status)
    return replace(boards.flowing().report, chain=chain.state_of(config, FakeClock()))


WRONG = {
    "broken": (
        {"is_broken": True, "problem": "entry 7 was changed, removed or moved"},
        "the chain is broken, and no event is entered any more: entry 7 was changed, removed or moved",
    ),
    "full": ({"problem": "no room left"}, "events wait to be entered into the chain: no room left"),
    "silent": ({"at": "2020-01-01T00:00:00.000Z"}, "the signer has said nothing for"),
    "no time": ({"at": ""}, "the signer's status has no time"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_the_chain_is_told_everywhere(tmp_path: Path, what: str) -> None:
    changes, text = WRONG[what]
    found = report(tmp_path, replace(WELL, **changes))  # type: ignore[arg-type]
    (one,) = found.problems
    assert text in one.cause
    assert "journalctl -u ddwd-signer" in one.remedy
    assert one.code is (Code.CHAIN_BROKEN if what == "broken" else Code.CHAIN_BEHIND)
    assert conditions(found.problems)[one.code].text == one.line
    metrics = Metrics(tmp_path / "ddwd.prom")
    metrics.show(found)
    metrics.write()
    assert "ddwd_chain_ok 0.0" in (tmp_path / "ddwd.prom").read_text()


def test_a_chain_that_is_well_is_one_line(tmp_path: Path) -> None:
    found = report(tmp_path, WELL)
    assert found.problems == ()
    assert "chain: 1,234 entries, signed at " in render(found)
    metrics = Metrics(tmp_path / "ddwd.prom")
    metrics.show(found)
    metrics.write()
    assert "ddwd_chain_entries 1234.0" in (tmp_path / "ddwd.prom").read_text()


def test_where_no_signer_runs_nothing_is_said_of_it(tmp_path: Path) -> None:
    assert chain.state_of(replace(Config(), run_dir=tmp_path), FakeClock()) is None
    assert "chain" not in render(boards.flowing().report)


class Scripted:
    """A signer that does at each step what it is told."""

    newest = published = None
    broken = ""
    outcome: bool | Exception = False

    def step(self) -> bool:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def test_the_daemon_goes_on_whatever_the_signer_says(tmp_path: Path) -> None:
    signer, written = Scripted(), list[SignerStatus]()
    daemon = SignerDaemon(signer, FakeClock(), written.append)  # type: ignore[arg-type]
    assert daemon.turn().wait == 5.0
    signer.outcome = True
    assert daemon.turn().wait == 0.0
    signer.outcome = StateError("the journal cannot be read")
    results = [daemon.turn() for _ in range(6)]
    assert [one.wait for one in results] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert all(one.healthy for one in results)
    assert results[0].status == "events wait in the journal: the journal cannot be read"
    assert written[-1].problem == "the journal cannot be read"
    signer.outcome, signer.broken = False, "entry 7 was changed"
    assert daemon.turn().status == "the chain is broken, and not extended: entry 7 was changed"
    assert written[-1].is_broken
