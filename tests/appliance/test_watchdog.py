"""A stuck worker is restarted and its stack is in the journal; peers that are away restart nothing; a stop is quick."""

from __future__ import annotations

import time
from pathlib import Path

from tests.appliance.conftest import Portal
from tests.machine import thread_holder
from tests.studies import made_up_ct

OURS = ("ddwd-scp", "ddwd-extractor")
ALLOWANCE = 15.0
WATCHDOG = 30.0
STOP_LIMIT = 45.0
HOLDER = "/root/thread_holder.py"


def _restarts(portal: Portal) -> dict[str, str]:
    return {unit: portal.machine.show(unit, "NRestarts") for unit in OURS}


def _is_moving(portal: Portal) -> bool:
    """Whether ORTHANC2 is connected to the receiver; the portal's own C-ECHO to it does not count."""
    return '"Orthanc"' in portal.machine.run("ss -Htnp state established 'dport = :11112'").stdout


def _hold_threads(portal: Portal, process: str) -> None:
    """Hold the threads of a process, and return once they are held."""
    portal.machine.run(["systemd-run", "--unit=holder", "--service-type=notify", "python3", HOLDER, process])


def test_a_stuck_worker_is_restarted_and_the_journal_names_the_place(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 3, seed=40, size=16)
    before = portal.machine.show("ddwd-extractor", "MainPID")
    portal.machine.copy_in(Path(thread_holder.__file__), HOLDER)
    # a receiver that does not answer keeps the C-MOVE waiting for as long as it takes to hold who waits for it
    portal.machine.run(["systemctl", "kill", "--signal=STOP", "ddwd-scp"])
    try:
        portal.send(study)
        portal.machine.wait_for(
            lambda: _is_moving(portal), limit=60, every=0.2, what="no C-MOVE is under way"
        )
        _hold_threads(portal, before)
    finally:
        portal.machine.run(["systemctl", "kill", "--signal=CONT", "ddwd-scp"])
    took = portal.machine.wait_for(
        lambda: portal.machine.show("ddwd-extractor", "MainPID") not in {before, "0"},
        limit=ALLOWANCE + WATCHDOG + 30, every=0.5, what="the stuck extractor was not restarted",
    )  # fmt: skip
    assert took > ALLOWANCE
    said = portal.machine.journal("ddwd-extractor", lines=600)
    assert "no progress: ddwd-retrieve" in said
    assert "Watchdog timeout" in said
    assert "move_scu.py" in said
    portal.wait_complete(study, limit=ALLOWANCE + WATCHDOG + 60)
    portal.assert_equal([study])


def test_postgresql_and_storage_away_restart_nothing_of_ours(portal: Portal, tmp_path: Path) -> None:
    before = _restarts(portal)
    study = made_up_ct(tmp_path / "ct", 10, seed=41, size=32)
    portal.send(study)
    portal.machine.run(["systemctl", "stop", "postgresql"])
    portal.machine.run(["systemctl", "kill", "--kill-whom=main", "--signal=STOP", "ddwd-storage"])
    time.sleep(2 * WATCHDOG + 10)
    away = _restarts(portal)
    portal.machine.run(["systemctl", "kill", "--kill-whom=main", "--signal=CONT", "ddwd-storage"])
    portal.machine.run(["systemctl", "start", "postgresql"])
    assert away == before
    portal.wait_complete(study, limit=90)
    portal.assert_equal([study])
    assert _restarts(portal) == before


def test_a_stop_in_mid_study_is_quick_and_leaves_no_temp_file(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 150, seed=42, size=256)
    portal.send(study)
    start = time.monotonic()
    portal.machine.run(["systemctl", "stop", "ddwd-extractor", "ddwd-scp"])
    took = time.monotonic() - start
    private = portal.output / ".ddwd"
    parts = [path for path in private.rglob("*") if path.name.endswith(".part")]
    results = [portal.machine.show(unit, "Result") for unit in OURS]
    portal.machine.run(["systemctl", "start", "ddwd-scp", "ddwd-extractor"])
    assert took < STOP_LIMIT
    assert parts == []
    assert results == ["success", "success"]
    portal.wait_active()
    portal.wait_complete(study, limit=90)
    portal.assert_equal([study])
