"""One list of problems for every view: the cause first, what comes of it below; and one verdict of all views on one state."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.cli import doctor, status
from ddwd.core.problem import Severity, is_well, problem, verdict, with_all
from ddwd.core.problem_codes import ENTRIES, Code
from ddwd.monitoring.alerts import conditions
from ddwd.monitoring.metrics import Metrics
from ddwd.provisioning.port_holders import Holder
from ddwd.status.dashboard import DashboardModel
from ddwd.status.flow import Flow
from ddwd.status.report import Heartbeat, OrthancState, VolumeState
from ddwd.status.root_causes import folded
from ddwd.status.units import UNITS, Unit
from ddwd.store.status_files import SelfTestResult
from ddwd.tui import text
from tests.problems import every
from tests.unit.test_doctor import Machine
from tests.unit.test_flow import report

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.core.problem import Problem
    from ddwd.status.report import Report


def _units(state: str, *names: str) -> tuple[Unit, ...]:
    return tuple(Unit(name, state if name in names else "active", "", 0, "") for name in UNITS)


def _servers(*silent: str) -> tuple[OrthancState, ...]:
    return tuple(
        OrthancState(
            name,
            aet,
            database="PostgreSQL",
            problem=f"{name} does not answer" if name in silent else "",
            log=f"journalctl -u ddwd-{name} -n 50",
        )
        for name, aet in (("gateway", "ORTHANC1"), ("storage", "ORTHANC2"))
    )


WAITING = {"waiting": 2}
STATES: dict[str, tuple[dict[str, Any], str, int]] = {
    "all is well": ({}, "", 0),
    "PostgreSQL stopped": (
        {
            "database": "PostgreSQL does not answer",
            "units": _units("failed", "ddwd-databases", "ddwd-gateway", "ddwd-storage"),
            "servers": _servers("gateway", "storage"),
            "counts": WAITING,
        },
        "postgresql-down",
        6,
    ),
    "stopped by hand": (
        {
            "units": _units("inactive", *UNITS),
            "servers": _servers("gateway", "storage"),
            "hearts": (Heartbeat("scp", problem="stale"), Heartbeat("extractor", problem="stale")),
        },
        "unit-down ddwd",
        len(UNITS) - 1 + 4,
    ),
    "provisioning failed": (
        {
            "units": _units("failed", "ddwd-provision", "ddwd-databases", "ddwd-gateway", "ddwd-storage"),
            "servers": _servers("gateway", "storage"),
        },
        "unit-down ddwd-provision",
        5,
    ),
    "storage hangs": ({"servers": _servers("storage"), "counts": WAITING}, "orthanc-silent storage", 1),
    "the receiver failed": (
        {
            "units": _units("failed", "ddwd-scp"),
            "hearts": (Heartbeat("scp", problem="stale"), Heartbeat("extractor", 1.0)),
            "counts": WAITING,
        },
        "unit-down ddwd-scp",
        2,
    ),
    "the output is read-only": (
        {
            "volumes": (VolumeState("output", "/x", 1, 2, problem="/x cannot be written", read_only=True),),
            "self_test": SelfTestResult("2026-01-02T03:00:00.000Z", ok=False, text="nothing came"),
        },
        "volume-read-only output",
        1,
    ),
    "a hook's unit is down, and explains no study that waits": (
        {"units": _units("failed", "ddwd-hooks"), "counts": WAITING},
        "unit-down ddwd-hooks, studies-wait",
        0,
    ),
    "quarantine and a pause": ({"quarantine": 3, "paused": True}, "quarantine, paused", 0),
    "one broken, one to look at": ({"counts": WAITING, "quarantine": 1}, "studies-wait, quarantine", 0),
}


@pytest.mark.parametrize("state", STATES)
def test_a_cause_comes_first_and_what_it_explains_below_it(state: str) -> None:
    changes, keys, consequences = STATES[state]
    found = report(**changes).problems
    assert ", ".join(one.key for one in found) == keys
    assert sum(len(one.consequences) for one in found) == consequences


def _shown(made: Report, tmp_path: Path) -> dict[str, tuple[bool, set[str]]]:
    """Whether each view calls that state well, and the codes that it shows."""
    board = DashboardModel(made, Flow().take(made, 0.0), None, may_ask=True)
    machine = Machine(tmp_path)
    machine.report = made
    doctors = doctor.as_json(machine.examination())
    metrics = Metrics(tmp_path / "ddwd.prom")
    metrics.show(made)
    metrics.write()
    figures = (tmp_path / "ddwd.prom").read_text()
    own = {one.code.value for one in with_all(made.problems)}
    return {
        "status": (status.as_json(made)["well"], {one["code"] for one in every(status.as_json(made))}),
        "top": (is_well(board.problems), {one.code.value for one in with_all(board.problems)}),
        "doctor": (doctors["well"], {one["code"] for one in every(doctors)} & own),
        "metrics": (
            'severity="broken"' not in figures,
            {code.value for code in Code if f'ddwd_problems{{code="{code}"' in figures},
        ),
    }


@pytest.mark.parametrize("state", STATES)
def test_every_view_has_the_same_verdict_and_the_same_problems(state: str, tmp_path: Path) -> None:
    made = report(**STATES[state][0])
    well = is_well(made.problems)
    codes = {one.code.value for one in with_all(made.problems)}
    assert _shown(made, tmp_path) == dict.fromkeys(("status", "top", "doctor", "metrics"), (well, codes))
    assert set(conditions(made.problems)) == {one.key for one in made.problems}
    # for people: each cause with its code and what to do, on the dashboard each that has room
    screen = status.render(made)
    board = DashboardModel(made, Flow().take(made, 0.0), None, may_ask=True)
    for one in made.problems:
        assert f"[{one.code}]" in " ".join(screen.split())
        assert one.remedy
        assert one.cause in text.problem_lines(board, 200).plain
    assert verdict(made.problems) in screen.splitlines()[0]
    assert verdict(made.problems) in text.head(board, 80).plain


@pytest.mark.parametrize("width", [60, 80, 120])
def test_on_a_small_screen_a_long_cause_is_cut_and_what_to_do_stays(width: int) -> None:
    server = OrthancState(
        "storage", "ORTHANC2", problem="it does not answer, " * 9, log="journalctl -u ddwd-storage"
    )
    made = report(servers=(report().servers[0], server))
    shown = text.problem_lines(DashboardModel(made, (), None, may_ask=True), width).plain
    assert len(shown) <= width
    assert shown.endswith(f"; do: {made.problems[0].remedy}")
    assert shown.startswith("! ")
    assert "\u2026" in shown


@pytest.mark.parametrize(
    ("severities", "words"),
    [
        ([], "all is well"),
        (["NOTE"], "all is well"),
        (["WARN"], "1 warning"),
        (["WARN", "WARN"], "2 warnings"),
        (["BROKEN"], "1 thing is broken"),
        (["BROKEN", "WARN", "BROKEN"], "2 things are broken, 1 warning"),
    ],
)
def test_the_verdict_counts_causes(severities: list[str], words: str) -> None:
    made = [replace(problem(Code.PAUSED, "made up"), severity=Severity[one]) for one in severities]
    assert verdict(made) == words
    assert is_well(made) == ("BROKEN" not in severities)


def test_a_consequence_is_not_counted_and_not_lost() -> None:
    cause = problem(Code.ORTHANC_SILENT, "storage hangs", subject="storage")
    follows = problem(Code.STUDIES_WAIT, "2 studies wait")
    (once,) = folded([follows, cause])
    assert (once.code, once.consequences) == (Code.ORTHANC_SILENT, (follows,))
    assert folded([once]) == (once,), "what is folded already stays as it is"
    assert verdict(folded([follows, cause])) == "1 thing is broken"


def test_a_problem_of_the_doctor_alone_is_a_cause_of_what_the_report_has(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.report = replace(
        machine.report, units=_units("failed", "ddwd-storage"), servers=_servers("storage")
    )
    machine.holders = {4243: [Holder("nobody", "python3 (process 12)")]}
    broken = [one for one in machine.examination().problems if one.severity is Severity.BROKEN]
    assert [one.code for one in broken] == [Code.PORT_HELD]
    assert {one.code for one in broken[0].consequences} >= {Code.UNIT_DOWN, Code.ORTHANC_SILENT}
    printed = doctor.render(machine.examination())
    assert "comes of: port 4243" in " ".join(printed.split())


def test_every_code_has_a_whole_entry() -> None:
    assert list(ENTRIES) == list(Code)
    for code, entry in ENTRIES.items():
        assert all(sentence.endswith((".", "`")) for sentence in entry[2:]), code
        assert entry.severity in Severity.__members__


def test_a_problem_as_json_has_all_its_fields() -> None:
    made: Problem = replace(
        problem(Code.UNIT_DOWN, "ddwd-scp is failed", "journalctl", "ddwd-scp"),
        consequences=(
            problem(Code.STUDIES_WAIT, "1 study waits", "ddwd trace STUDY", count=1, study="1.2.3"),
        ),
    )
    assert json.loads(json.dumps(made.as_json())) == {
        "code": "unit-down",
        "severity": "broken",
        "part": "units",
        "cause": "ddwd-scp is failed",
        "remedy": "journalctl",
        "subject": "ddwd-scp",
        "since": "",
        "study": "",
        "count": 0,
        "consequences": [
            {
                "code": "studies-wait",
                "severity": "broken",
                "part": "waiting",
                "cause": "1 study waits",
                "remedy": "ddwd trace STUDY",
                "subject": "",
                "since": "",
                "study": "1.2.3",
                "count": 1,
                "consequences": [],
            }
        ],
    }
