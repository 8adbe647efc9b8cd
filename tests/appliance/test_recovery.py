"""What breaks is healed: restarts, a reboot, a killed gateway, stopped daemons, PostgreSQL away for a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import DAEMONS, UNITS, Portal
from tests.studies import made_up_ct, published

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine.modality import Sending

WATCHDOG_LIMIT = 150.0


def _send_until(portal: Portal, paths: list[Path], count: int) -> Sending:
    """Start sending and return when `count` images are acknowledged, with the sender still at work."""
    sending = portal.modality.start(portal.modality.storescu_argv(*paths))
    portal.machine.wait_for(
        lambda: len(sending.acknowledged()) >= count or sending.process.poll() is not None,
        limit=60, every=0.02, what="nothing is acknowledged",
    )  # fmt: skip
    assert sending.process.poll() is None, "the sender was done before the fault"
    return sending


@pytest.mark.parametrize("fault", ["restart", "reboot", "crash"])
def test_nothing_acknowledged_is_lost_in_mid_study_by(portal: Portal, tmp_path: Path, fault: str) -> None:
    study = made_up_ct(tmp_path / "ct", 120, seed=20 + len(fault))
    sending = _send_until(portal, study.paths, 15)
    if fault == "restart":
        portal.machine.run(["systemctl", "restart", "ddwd"])
    elif fault == "reboot":
        portal.machine.reboot()
    else:
        portal.machine.crash()
    sending.process.wait(60)
    portal.wait_active()
    acknowledged = set(sending.acknowledged())
    assert acknowledged
    known = {instance.sop_uid for instance in study.instances if instance.path in acknowledged}
    portal.machine.wait_for(
        lambda: known <= set(published(study.uid, portal.output)),
        limit=90,
        what="acknowledged images are not on disk",
    )
    portal.deliver(study)


def test_a_gateway_killed_before_the_study_is_stable_forwards_it_all_the_same(
    portal: Portal, tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path / "ct", 20, seed=30, size=64)
    portal.send(study)
    portal.machine.run(["systemctl", "kill", "--signal=KILL", "ddwd-gateway"])
    portal.wait_complete(study, limit=90)
    portal.assert_equal([study])


def test_a_storage_killed_while_a_study_arrives_gets_it_all_the_same(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 60, seed=31)
    sending = _send_until(portal, study.paths, 15)
    portal.machine.run(["systemctl", "kill", "--signal=KILL", "ddwd-storage"])
    assert sending.process.wait(60) == 0
    portal.wait_complete(study, limit=90)
    portal.assert_equal([study])


def test_a_stopped_daemon_is_answered_by_the_watchdog(portal: Portal, tmp_path: Path) -> None:
    stopped = ("ddwd-scp", "ddwd-extractor")
    before = {unit: portal.machine.show(unit, "MainPID") for unit in stopped}
    for unit in stopped:
        portal.machine.run(["systemctl", "kill", "--kill-whom=main", "--signal=STOP", unit])
    for unit in stopped:
        _wait_for_another(portal, unit, before[unit])
        assert "watchdog" in portal.machine.journal(unit).lower()
    portal.wait_active()
    portal.deliver(made_up_ct(tmp_path / "ct", 3, seed=32, size=16))


def _wait_for_another(portal: Portal, unit: str, pid: str) -> None:
    def is_another() -> bool:
        return portal.machine.is_active(unit) and portal.machine.show(unit, "MainPID") != pid

    portal.machine.wait_for(is_another, limit=WATCHDOG_LIMIT, every=1, what=f"{unit} was not restarted")


def test_a_restart_of_postgresql_stops_no_unit_and_loses_nothing(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 30, seed=33, size=64)
    before = {unit: portal.machine.show(unit, "NRestarts") for unit in DAEMONS}
    portal.send(study)
    portal.machine.run(["systemctl", "restart", "postgresql"])
    portal.wait_complete(study, limit=90)
    portal.deliver(made_up_ct(tmp_path / "next", 3, seed=34, size=16), limit=90)
    portal.assert_equal([study])
    assert portal.machine.is_active(*UNITS)
    assert {unit: portal.machine.show(unit, "NRestarts") for unit in DAEMONS} == before


def test_systemctl_stop_stops_everything_and_start_starts_it(portal: Portal) -> None:
    portal.machine.run(["systemctl", "stop", "ddwd"])
    active = [unit for unit in UNITS if portal.machine.is_active(unit)]
    portal.machine.run(["systemctl", "start", "ddwd"])
    portal.wait_active()
    assert active == []
