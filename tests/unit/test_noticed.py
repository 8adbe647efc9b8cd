"""ddwd-monitor notices what no single report shows, and every view has it: silent modalities, hops that stand still, standing checks."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.clock import stamp
from ddwd.core.errors import ConfigError, ConfigProblem
from ddwd.core.problem import Problem, Severity, problem
from ddwd.core.problem_codes import Code
from ddwd.daemon import monitor
from ddwd.daemon.monitor import Watch
from ddwd.monitoring import alerts
from ddwd.status import certificates, doctor
from ddwd.status.doctor import CHECKS, STANDING, examine_standing
from ddwd.status.report import noticed_by_monitor
from ddwd.store.status_files import MONITOR, MonitorStatus, NoticedProblem
from tests.unit.fakes import FakeClock
from tests.unit.test_doctor import Machine
from tests.unit.test_flow import report

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.status.check_context import CheckContext


class Site:
    """A monitor and the status file that it writes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = Config(data_dir=folder, run_dir=folder / "run", credentials_file=folder / "none.json")
        self.clock = FakeClock()
        self.found: tuple[Problem, ...] = ()
        self.looks = 0
        monkeypatch.setattr(monitor, "examine_standing", self._examine)
        self.start()

    def start(self) -> None:
        self.watch = Watch(self.config, Paths(self.config), self.clock)

    def _examine(self, _context: CheckContext) -> tuple[Problem, ...]:
        self.looks += 1
        return self.found

    def turn(self, seconds: float = 5.0, **changes: object) -> dict[str, str]:
        """What a view shows after a turn: since when each problem lasts, by its key."""
        self.clock.advance(seconds)
        made = report(**changes)  # type: ignore[arg-type]
        self.watch.complete(made, [])
        noticed, since = noticed_by_monitor(self.config, self.clock)
        return {one.key: one.since for one in replace(made, noticed=noticed, since=since).problems}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


EXPIRED = problem(Code.CERTIFICATE_EXPIRED, "/x has expired", "put a new one there", "/x")


def test_what_the_standing_checks_find_is_in_every_view_until_their_next_run(site: Site) -> None:
    assert site.turn() == {}
    site.found = (EXPIRED,)
    assert site.turn(60) == {EXPIRED.key: stamp(site.clock.utc())}
    site.found = ()
    assert list(site.turn(10)) == [EXPIRED.key]
    assert site.turn(50) == {}
    assert site.looks == 3, "once a minute, and not at each turn"


def test_a_hop_that_stands_still_is_noticed(site: Site) -> None:
    for _ in range(4):
        assert site.turn(5, waiting=3) in ({}, {"hop-still storage": stamp(site.clock.utc())})
    assert list(site.turn(5, waiting=3)) == ["hop-still storage"]
    assert site.turn(5) == {}


def test_a_problem_lasts_since_it_was_first_seen_also_over_a_restart(site: Site) -> None:
    site.turn(5, quarantine=1)
    first = stamp(site.clock.utc())
    assert site.turn(300, quarantine=2) == {"quarantine": first}
    site.start()
    assert site.turn(5, quarantine=2) == {"quarantine": first}
    assert site.turn(5) == {}
    assert site.turn(5, quarantine=2) == {"quarantine": stamp(site.clock.utc())}


def test_a_consequence_lasts_since_its_own_beginning(site: Site) -> None:
    site.turn(5, counts={"waiting": 1})
    first = stamp(site.clock.utc())
    made = report(counts={"waiting": 1}, database="PostgreSQL does not answer")
    site.clock.advance(60)
    complete = site.watch.complete(made, [])
    (cause,) = complete.problems
    assert (cause.code, cause.since) == (Code.POSTGRESQL_DOWN, stamp(site.clock.utc()))
    assert [(one.code, one.since) for one in cause.consequences] == [(Code.STUDIES_WAIT, first)]


def test_a_silent_modality_is_noticed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    last = datetime(2026, 1, 2, 7, tzinfo=UTC)
    monkeypatch.setattr(alerts.ExpectedSenders, "silent", lambda *_: {"CT1": last})
    monkeypatch.setattr(monitor, "all_since", lambda *_: [])
    site.config = replace(site.config, alerts=replace(site.config.alerts, silence=True))
    site.start()
    assert list(site.turn()) == ["sender-silent CT1"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"at": "yesterday"}', '{"at": "2026-01-01T00:00:00"}'])
def test_a_damaged_status_file_of_the_monitor_is_none(site: Site, content: str) -> None:
    path = Paths(site.config).monitor_status
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert noticed_by_monitor(site.config, site.clock) == ((), {})


def test_what_an_old_monitor_or_one_of_another_version_noticed_is_not_shown(site: Site) -> None:
    path = Paths(site.config).monitor_status
    path.parent.mkdir(parents=True)
    for at, code, shown in (
        (stamp(site.clock.utc()), "paused", 1),
        (stamp(site.clock.utc() - timedelta(minutes=2)), "paused", 0),
        (stamp(site.clock.utc()), "a-code-of-the-future", 0),
    ):
        MONITOR.write_status(path, MonitorStatus(at, (NoticedProblem(code, "made up"),)))
        assert len(noticed_by_monitor(site.config, site.clock)[0]) == shown


def test_the_standing_checks_are_those_of_the_doctor_without_what_asks_for_rights(tmp_path: Path) -> None:
    assert set(STANDING) < set(CHECKS)
    machine = Machine(tmp_path)
    assert examine_standing(machine.context()) == ()
    machine.paths.output.chmod(0o755)
    machine.storage.skew = timedelta(minutes=3)
    machine.report = replace(machine.report, quarantine=1)  # the report has it, so the checks need not
    found = examine_standing(machine.context())
    assert [one.code for one in found] == [Code.OPEN_TO_ALL, Code.CLOCK_DIFFERS]


def test_what_the_monitor_noticed_the_doctor_names_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.paths.output.chmod(0o755)
    (noticed,) = examine_standing(machine.context())
    machine.report = replace(machine.report, noticed=(noticed,))
    found = [one for one in machine.examine() if one.code is Code.OPEN_TO_ALL]
    assert len(found) == 1


def test_a_certificate_that_cannot_be_read_is_broken_and_one_that_this_user_may_not_read_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> datetime:
        raise ConfigError([ConfigProblem("/x", None, "certificate", "is none", "put one there")])

    machine = Machine(tmp_path)
    there = tmp_path / "own.pem"
    there.write_text("none")
    monkeypatch.setattr(certificates, "certificate_files", lambda *_: iter([there]))
    context = replace(machine.context(), expiry=refuse)
    (found,) = certificates.certificates(context)
    assert (found.code, found.severity) == (Code.CERTIFICATE_UNREADABLE, Severity.BROKEN)
    assert str(there) in found.cause
    monkeypatch.setattr(os, "access", lambda *_: False)
    (found,) = certificates.certificates(context)
    assert found.code is Code.NOT_CHECKED
    assert doctor.examine_standing(context) == ()
