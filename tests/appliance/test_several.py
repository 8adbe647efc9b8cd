"""Two machines that extract together, on one ledger in PostgreSQL and one output: whoever dies in mid-study, the other takes over.

The first machine is the whole portal, the second one more extractor. The databases, the Orthancs' too, are on a server beside both.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import DAEMONS
from tests.appliance.pair import Database, Pair, pair
from tests.machine.network import MACHINE_ADDRESS, SECOND_ADDRESS
from tests.studies import faults, is_complete, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.appliance.conftest import Portal
    from tests.machine import Machine
    from tests.machine.modality import Sending
    from tests.studies import Study

SHARED = "/srv/dicom"
PASSWORD = "made-up for the test"  # noqa: S105
SECRET = "/etc/ddwd/databases.password"  # noqa: S105 - where it is
FIRST, SECOND = "PYTHON_SCP_A", "PYTHON_SCP_B"
EXTRACTOR = ("ddwd", "ddwd-scp", "ddwd-extractor", "ddwd-monitor", "ddwd-tls@link")
TAKEN_OVER = 90.0
"""A host that is silent is given up after 15 s; then the whole study is to be fetched, on a busy machine."""


class Several:
    """Both machines, the output that they share, and the database."""

    def __init__(self, both: Pair, output: Path) -> None:
        self.both = both
        self.output = output
        self.database = Database(both, PASSWORD)
        for role, name in (
            ("ddwd", "ddwd_ledger"),
            ("ddwd-gateway", "ddwd_gateway"),
            ("ddwd-storage", "ddwd_storage"),
        ):
            self.database.make(role, name)
        both.one.machine.run(["install", "-d", "-o", "ddwd", "-g", "ddwd", "-m", "0750", SHARED])
        both.one.machine.run("ddwd link --roles extractor /root/other")
        both.bring("/root/other")
        whole = {
            "extractors": f'["{SECOND} at {SECOND_ADDRESS}"]',
            # nobody listens at the first of both: as after a failover
            "database.url": f"postgresql://{self.database.address}:5431,{self.database.address}:5432/",
            "database.password_file": SECRET,
        }
        self._settle(both.one, FIRST, whole, ("ddwd", *DAEMONS))
        elsewhere = {"roles": "[extractor]", "gateway.host": MACHINE_ADDRESS, "storage.host": MACHINE_ADDRESS}
        self._settle(both.two, SECOND, elsewhere, EXTRACTOR)

    def _settle(self, portal: Portal, name: str, more: dict[str, str], units: tuple[str, ...]) -> None:
        portal.machine.run(["install", "-o", "root", "-g", "ddwd", "-m", "0640", "/dev/null", SECRET])
        portal.machine.path(SECRET).write_text(f"{PASSWORD}\n", encoding="utf-8")
        shared = {
            "scp.aet": name,
            "output_dir": SHARED,
            "ledger.shared": f"postgresql://ddwd@{self.database.address}:5432/ddwd_ledger",
            "ledger.password_file": SECRET,
        }
        self.both.settle(portal, shared | more, units)

    def holder(self) -> str:
        """Which extractor has a study in flight; nothing: none."""
        return self.database.ask("select extractor from open_study limit 1", "ddwd_ledger")

    def told(self, study: Study) -> list[str]:
        """Who said of the study that it is published."""
        rows = self.database.ask(
            "select study_uid || ' ' || extractor from ledger"
            " where kind = 'event' and body::json ->> 'event' = 'published'",
            "ddwd_ledger",
        ).splitlines()
        return [extractor for uid, extractor in map(str.split, rows) if uid == study.uid]

    def wait_delivered(self, study: Study) -> None:
        """Wait until it is on disk; demand that it is there once and as it was sent."""
        self.both.one.machine.wait_for(
            lambda: is_complete(study, self.output), limit=TAKEN_OVER, what="the study is not on disk"
        )
        assert faults(study, self.output) == []
        self.both.one.machine.wait_for(
            lambda: self.told(study), limit=10, what="nobody said that it is published"
        )

    def begin(self, study: Study) -> Sending:
        """Have the modality send it, and wait until an extractor is in the middle of it."""
        sending = self.both.one.modality.start(self.both.one.modality.storescu_argv(*study.paths))
        self.both.one.machine.wait_for(
            lambda: self._arrived(self.holder()) > 20, limit=60, what="nobody fetches the study"
        )
        assert not is_complete(study, self.output)
        return sending

    def _arrived(self, holder: str) -> int:
        """Images that an extractor has, and are not published."""
        return len(list((self.output / ".ddwd" / holder).rglob("*.dcm"))) if holder else 0

    def finish(self, sending: Sending, study: Study, by: str) -> None:
        """Demand that every image is acknowledged, on disk once and as it was sent, and published once, by that extractor."""
        sending.process.wait(timeout=120)
        assert set(sending.acknowledged()) == set(study.paths)
        self.wait_delivered(study)
        assert self.told(study) == [by]


@pytest.fixture(scope="module")
def several(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    output = tmp_path_factory.mktemp("output")
    with pair(deb, {SHARED: output}) as both:
        yield Several(both, output)


def test_each_of_several_studies_is_published_once(several: Several, tmp_path: Path) -> None:
    studies = [
        made_up_ct(tmp_path / str(n), 10, seed=7821 + n, patient_id=f"SEVERAL{n}", size=64) for n in range(6)
    ]
    several.both.one.send(*studies)
    for study in studies:
        several.wait_delivered(study)
        assert len(several.told(study)) == 1


def test_the_other_one_finishes_what_a_killed_extractor_began(several: Several, tmp_path: Path) -> None:
    portals = {FIRST: several.both.one, SECOND: several.both.two}
    study = made_up_ct(tmp_path, 300, seed=7811, size=256)
    sending = several.begin(study)
    killed = several.holder()
    machine = portals[killed].machine
    machine.run(["systemctl", "mask", "--runtime", "ddwd-extractor"])
    machine.run(["systemctl", "kill", "--signal=KILL", "ddwd-extractor"])
    several.finish(sending, study, by=SECOND if killed == FIRST else FIRST)
    machine.run(["systemctl", "unmask", "--runtime", "ddwd-extractor"])
    machine.run(["systemctl", "reset-failed", "ddwd-extractor"])
    machine.run(["systemctl", "start", "ddwd-extractor"])


def test_the_first_one_finishes_what_the_second_began_when_its_host_is_gone(
    several: Several, tmp_path: Path
) -> None:
    one, two = several.both.one.machine, several.both.two.machine
    one.run(["ddwd", "pause"])
    study = made_up_ct(tmp_path, 300, seed=7812, size=256)
    sending = several.begin(study)
    assert several.holder() == SECOND
    two.network.cut()
    two.kill()
    one.run(["ddwd", "resume"])
    several.finish(sending, study, by=FIRST)
    two.network.mend()
    two.boot()


def test_afterwards_both_are_well_and_tell_the_same(several: Several) -> None:
    for machine in (several.both.one.machine, several.both.two.machine):
        _wait_well(machine)
        said = json.loads(machine.run(["ddwd", "verify", "--all", "--json"]).stdout)
        assert (said["studies"], said["images"]) == (8, 660)
        assert machine.run(["ddwd", "quarantine", "list", "--json"]).stdout.count('"id"') == 0


def _wait_well(machine: Machine) -> None:
    machine.wait_for(
        lambda: machine.run(["ddwd", "status"], check=False).returncode == 0,
        limit=60,
        what=f"not all is well:\n{machine.run(['ddwd', 'status'], check=False).stdout}",
    )


def test_what_the_dead_had_fetched_goes_away_when_they_are_back(several: Several) -> None:
    private = several.output / ".ddwd"

    def is_empty() -> bool:
        for portal in (several.both.one, several.both.two):
            portal.machine.run(["ddwd", "reconcile"])  # which looks through it at once
        return not list(private.rglob("*.dcm"))

    several.both.one.machine.wait_for(is_empty, limit=60, what="images are left in .ddwd", every=2.0)
