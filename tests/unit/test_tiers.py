"""The tiers of tests name what exists, and what their steps report is what happened."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from tests import tiers
from tests.depth import spread
from tests.progress import VARIABLE
from tests.readme import REPO

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = """
def test_one(): pass
def test_two(): assert 1 == 2
"""


def test_every_module_named_exists_once() -> None:
    named = [*tiers.PROMISES, *tiers.LONGEST]
    there = {
        path.stem
        for folder in ("appliance", "faults")
        for path in (REPO / "tests" / folder).glob("test_*.py")
    }
    assert len(named) == len(set(named))
    assert set(named) <= there


def test_every_step_is_a_target_of_the_makefile() -> None:
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    steps = [target.split()[0] for lanes in tiers.TIERS.values() for lane in lanes for target in lane]
    assert set(steps) <= targets
    assert len(steps) == len(set(steps))


def test_both_tiers_together_run_every_machine_test() -> None:
    assert not tiers.is_certify("test_backup", "test_a")
    assert tiers.is_certify("test_web", "test_a")
    assert tiers.is_certify("test_faults", "test_six_rounds_lose_nothing")
    assert not tiers.is_certify("test_faults", "test_three_rounds_lose_nothing")
    assert not tiers.is_certify("test_normal_traffic", "test_a")
    assert tiers.is_alone("test_normal_traffic")
    assert tiers.ALONE in {lane[0] for lane in tiers.TIERS["certify"]}


def test_a_step_learns_of_each_test_and_why_one_failed(tmp_path: Path) -> None:
    (tmp_path / "test_sample.py").write_text(SAMPLE, encoding="utf-8")
    progress = tmp_path / "progress.jsonl"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "xdist",
        "-p",
        "tests.progress",
        str(tmp_path),
    ]
    path = {"PYTHONPATH": str(REPO), VARIABLE: str(progress), "PATH": "/usr/bin:/bin"}
    path["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = (
        "1"  # each of its three processes would load them all, and most of the time is that
    )
    done = subprocess.run(
        [*command, "-n", "2"], env=path, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    step = tiers.Step("unit")
    for line in progress.read_text(encoding="utf-8").splitlines():
        step.take(json.loads(line))
    assert step.total == 2
    assert step.running == {}
    assert sorted(outcome for _, outcome, _ in step.ended) == ["failed", "passed"]
    assert [one.rpartition("::")[2] for one in step.failed] == ["test_two"]
    (news,) = step.news
    assert "assert 1 == 2" in news


def test_a_spread_has_both_ends_and_no_more_than_asked_for() -> None:
    assert list(spread(range(100), 5)) == [0, 24, 49, 74, 99]
    assert list(spread(range(3), 5)) == [0, 1, 2]
