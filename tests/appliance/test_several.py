"""Two machines that extract together, on one PostgreSQL server elsewhere: one dies in mid-study, the other ends it, nothing lost or doubled."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import UNITS
from tests.appliance.pair import Database, Pair, pair
from tests.machine.network import MACHINE_ADDRESS, SECOND_ADDRESS
from tests.studies import faults, is_complete, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.appliance.conftest import Portal
    from tests.studies import Study

OUTPUT = "/srv/dicom"
PASSWORD_FILE = "/etc/ddwd/database.password"  # noqa: S105 - where it is
STABLE_AGE = 12
"""Seconds in which a study is fetched, and not yet published."""
HELPER = ("ddwd", "ddwd-scp", "ddwd-extractor", "ddwd-monitor", "ddwd-tls@link")
AET = {"one": "PYTHON_SCP_A", "two": "PYTHON_SCP_B"}


@pytest.fixture(scope="module")
def both(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The first has all roles, the second extracts too; the output is one folder, ledger and indexes are in one PostgreSQL elsewhere."""
    password = secrets.token_urlsafe(12)
    with pair(deb, {OUTPUT: tmp_path_factory.mktemp("dicom")}) as machines:
        database = Database(machines, password)
        for role, name in (
            ("ddwd", "ddwd_ledger"),
            ("ddwd-gateway", "ddwd_gateway"),
            ("ddwd-storage", "ddwd_storage"),
        ):
            database.make(role, name)
        machines.one.machine.run(["chown", "ddwd:ddwd", OUTPUT])
        machines.one.machine.run("ddwd link --roles extractor /root/other")
        machines.bring("/root/other")
        for portal in (machines.one, machines.two):
            portal.machine.run(
                f"cat > {PASSWORD_FILE}; chgrp ddwd {PASSWORD_FILE}; chmod 640 {PASSWORD_FILE}",
                stdin=password,
            )
        shared = {
            "output_dir": OUTPUT,
            "stable_age": str(STABLE_AGE),
            "ledger.shared": f"postgresql://ddwd@{database.address}/ddwd_ledger",
            "ledger.password_file": PASSWORD_FILE,
        }
        first = {
            "scp.aet": AET["one"],
            "extractors": f'["{AET["two"]} at {SECOND_ADDRESS}"]',
            # nobody listens at the first of both: as after a failover
            "database.url": f"postgresql://{database.address}:5431,{database.address}:5432/",
            "database.password_file": PASSWORD_FILE,
        }
        machines.settle(machines.one, shared | first, (*UNITS, "ddwd-tls@link"))
        second = {
            "roles": "[extractor]",
            "gateway.host": MACHINE_ADDRESS,
            "storage.host": MACHINE_ADDRESS,
            "scp.aet": AET["two"],
        }
        machines.settle(machines.two, shared | second, HELPER)
        for portal in (machines.one, machines.two):
            _wait_well(portal)
        yield machines


def _wait_well(portal: Portal) -> None:
    def is_well() -> bool:
        return portal.machine.run(["ddwd", "status"], check=False).returncode == 0

    portal.machine.wait_for(
        is_well, limit=60, what=portal.machine.run(["ddwd", "status"], check=False).stdout
    )


def _fetched(portal: Portal, name: str, study: Study) -> None:
    """Wait until that extractor has most images of the study, which nobody has published."""
    spool = portal.machine.path(OUTPUT) / ".ddwd" / AET[name] / "spool"
    portal.machine.wait_for(
        lambda: len(list(spool.rglob("*.dcm"))) > len(study.instances) // 2,
        limit=60,
        what=f"{AET[name]} does not fetch the study",
    )
    assert not is_complete(study, portal.machine.path(OUTPUT))


def _published(both: Pair, study: Study) -> int:
    """How often both machines' trails say that it was published."""
    wanted = [
        "journalctl",
        "-t",
        "ddwd-audit",
        "-o",
        "cat",
        "DDWD_EVENT=published",
        f"DDWD_STUDY_UID={study.uid}",
    ]
    return sum(len(portal.machine.run(wanted).stdout.splitlines()) for portal in (both.one, both.two))


def _wait_delivered(portal: Portal, study: Study) -> None:
    output = portal.machine.path(OUTPUT)
    portal.machine.wait_for(lambda: is_complete(study, output), limit=90, what="the study is not on disk")
    assert faults(study, output) == []
    portal.machine.wait_for(
        lambda: portal.machine.run(["ddwd", "verify", study.uid], check=False).returncode == 0,
        limit=30,
        what="there is no sound custody record",
    )


def test_the_orthancs_keep_their_indexes_on_the_server_that_answers(both: Pair) -> None:
    systems = [both.one.machine.rest(node, "/system") for node in ("gateway", "storage")]
    assert all("PostgreSQL" in system["DatabaseBackendPlugin"] for system in systems)
    local = "runuser -u postgres -- psql -A -t -d ddwd_{} -c \"SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 'ddwd_%' AND usename LIKE 'ddwd-%'\""
    assert both.one.machine.run(local.format("gateway")).stdout.strip() == "0"


def test_of_several_studies_each_is_published_once(both: Pair, tmp_path: Path) -> None:
    studies = [
        made_up_ct(tmp_path / str(n), 10, seed=7810 + n, patient_id=f"SEVERAL{n}", size=64) for n in range(6)
    ]
    both.one.send(*studies)
    for study in studies:
        _wait_delivered(both.one, study)
        assert _published(both, study) == 1
    assert both.two.machine.run(["ddwd", "verify", "--all"], check=False).returncode == 0


def test_a_machine_is_killed_in_mid_study_and_the_other_takes_over(both: Pair, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path, 120, seed=7821, size=128)
    both.one.machine.run(["systemctl", "stop", "ddwd-extractor"])
    both.one.send(study)
    _fetched(both.two, "two", study)
    both.one.machine.run(["systemctl", "start", "ddwd-extractor"])
    both.two.machine.kill()
    _wait_delivered(both.one, study)
    both.two.machine.boot()
    _wait_well(both.two)
    assert _published(both, study) == 1


def test_an_extractor_is_killed_for_good_and_the_other_machine_takes_over(both: Pair, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path, 120, seed=7822, size=128)
    both.two.machine.run(["systemctl", "stop", "ddwd-extractor"])
    both.one.send(study)
    _fetched(both.one, "one", study)
    both.two.machine.run(["systemctl", "start", "ddwd-extractor"])
    both.one.machine.run("systemctl mask --runtime ddwd-extractor; systemctl kill -s KILL ddwd-extractor")
    _wait_delivered(both.two, study)
    assert _published(both, study) == 1
    assert not both.one.machine.is_active("ddwd-extractor")
    both.one.machine.run("systemctl unmask --runtime ddwd-extractor; systemctl start ddwd-extractor")
    _wait_well(both.one)
    assert _published(both, study) == 1
