"""Hostile traffic against the installed portal: the receiver bears all of it, the gateway comes back from what it cannot, and nothing is lost.

Each attack's memory high-water and restarts are printed at the end and kept in dist/hostile.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

from tests.appliance.conftest import OUTPUT_DIR, UNITS, Portal, installed
from tests.hostile.attacks import ATTACKS
from tests.hostile.figures import Row, high_water, note, table
from tests.hostile.wire import told
from tests.machine.machine import HTTP_PORTS
from tests.machine.network import MACHINE_ADDRESS
from tests.problems import causes
from tests.studies import made_up_ct, missing, read_studies

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REPO = Path(__file__).resolve().parents[2]
MOST_MEGABYTES = {"ddwd-gateway": 1000.0, "ddwd-scp": 300.0}
HEAVY = {"huge-sequence": 4000.0, "deflate-bomb": 16000.0}
"""DCMTK keeps some 650 bytes for each empty item, and inflates without a bound: what limits it is the unit's MemoryMax.

They come last at the gateway: it inflates once more what it took and forwards, and the figure of another attack is to be its own.
"""
GATEWAY_MEMORY = "4G"
"""What the unit's share (60 %) is on a machine of 7 GB: the share of this host's memory would be taken from other tests' machines."""
KEPT_BY_THE_KERNEL = {"idle-connections", "association-flood"}
"""Who says nothing does not reach Orthanc (ddwd/orthanc/plugin/defer_accept.py), and held associations are no hindrance to it."""
COMES_BACK = 90.0
STORAGE = f"http://127.0.0.1:{HTTP_PORTS['storage']}/"
CRASHES = {"nested-sequences", *HEAVY}
"""What Orthanc 1.12.7 itself may not survive (CVE-2026-10528, memory); docs/security.md names what limits it."""
HOSTILE_IDS = ["Smith/7", "../../etc", "SMITH", "smith", "a*b?c", "CON", ".ddwd", "-rf", "100%"]


class Victim:
    """A daemon under attack, and from where it is attacked."""

    def __init__(self, portal: Portal, unit: str, target: Sequence[str], enter: Sequence[str]) -> None:
        self.portal, self.unit, self._target, self._enter = portal, unit, target, enter

    def suffer(self, name: str) -> tuple[Row, bool]:
        """One attack, and what it cost; whether it is the same process as before."""
        machine = self.portal.machine
        pid, before = machine.show(self.unit, "MainPID"), self._restarts()
        machine.run(f"echo 5 > /proc/{pid}/clear_refs")
        outcome = self.attack(name)
        status = machine.run(["cat", f"/proc/{pid}/status"], check=False).stdout
        self.portal.wait_active(COMES_BACK)
        water = high_water(status) if "VmHWM" in status else 0.0
        row = Row(self._target[2], name, water, self._restarts() - before, told(outcome))
        note(row)
        return row, machine.show(self.unit, "MainPID") == pid

    def attack(self, name: str) -> Counter[str]:
        """One attack; how often it was answered how."""
        command = [*self._enter, sys.executable, "-m", "tests.hostile", *self._target, name, "2"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, timeout=200, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return Counter(json.loads(done.stdout))

    def _restarts(self) -> int:
        return int(self.portal.machine.show(self.unit, "NRestarts"))


@pytest.fixture(scope="module")
def portal(deb: Path) -> Iterator[Portal]:
    """A machine of their own: what the attacks leave (images in quarantine, studies that wait) is nothing for other tests."""
    with installed(deb) as attacked:
        drop_in = attacked.machine.path("/etc/systemd/system/ddwd-gateway.service.d/memory.conf")
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text(f"[Service]\nMemoryMax={GATEWAY_MEMORY}\n", encoding="utf-8")
        attacked.machine.run("systemctl daemon-reload")
        # the portal bears it without the kernel's help
        attacked.configure("network:\n  firewall: false\n")
        attacked.wait_active()
        yield attacked


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    """The figures; shown at the end."""
    found: list[Row] = []
    yield found
    print(f"\n{table(found)}")  # noqa: T201 - for people


@pytest.fixture
def gateway(portal: Portal) -> Victim:
    """ORTHANC1, attacked over the LAN."""
    target = (MACHINE_ADDRESS, "4242", "ORTHANC1")
    return Victim(portal, "ddwd-gateway", target, portal.modality.netns_argv())


@pytest.fixture
def receiver(portal: Portal) -> Victim:
    """The SCP, attacked by somebody on the machine."""
    enter = ["nsenter", f"--net={portal.machine.network.machine}"]
    return Victim(portal, "ddwd-scp", ("127.0.0.1", "11112", "PYTHON_SCP"), enter)


def _outside(portal: Portal) -> list[str]:
    """What lies in OUTPUT_DIR and in no place of the portal's, and unfinished objects."""
    found = portal.machine.run(
        f"find {OUTPUT_DIR} -ignore_readdir_race -type f -not -path '{OUTPUT_DIR}/.ddwd/spool/*/*.dcm'"
        f" -not -path '{OUTPUT_DIR}/.ddwd/staging/*/*/*.dcm' -not -path '{OUTPUT_DIR}/*/*/*/*.dcm';"
        f" find /tmp /var/tmp {OUTPUT_DIR} -ignore_readdir_race -name '*.part' -mmin -60; find / -ignore_readdir_race -xdev -name cron.d -path '*received*'"
    )
    return found.stdout.split()


def _forgive(portal: Portal) -> None:
    """Let the modality's address in again, which was held off for what it sent."""
    portal.machine.run(["systemctl", "restart", "ddwd-acceptor"])
    portal.wait_active(COMES_BACK)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_receiver_bears_it(portal: Portal, receiver: Victim, rows: list[Row], name: str) -> None:
    row, is_same = receiver.suffer(name)
    rows.append(row)
    assert is_same
    assert row.restarts == 0
    assert row.outcomes
    assert row.megabytes < MOST_MEGABYTES[receiver.unit]
    portal.machine.wait_for(lambda: not _outside(portal), limit=60, what="unfinished objects stay")


@pytest.mark.parametrize("name", sorted(ATTACKS, key=lambda name: name in HEAVY))
def test_the_gateway_bears_it_or_comes_back(
    portal: Portal, gateway: Victim, rows: list[Row], name: str
) -> None:
    storage = portal.machine.show("ddwd-storage", "NRestarts")
    row, is_same = gateway.suffer(name)
    rows.append(row)
    assert row.outcomes
    assert is_same or name in CRASHES
    assert row.megabytes < HEAVY.get(name, MOST_MEGABYTES[gateway.unit])
    if name in KEPT_BY_THE_KERNEL:
        assert "0x0000" in row.outcomes  # a real image got through meanwhile
    # what the gateway acknowledged must not bring ORTHANC2 down when it is forwarded
    assert portal.machine.show("ddwd-storage", "NRestarts") == storage
    portal.machine.wait_for(lambda: not _outside(portal), limit=60, what="unfinished objects stay")
    if name in HEAVY:  # it may go on parsing
        portal.machine.run(["systemctl", "restart", "ddwd-gateway"])
        portal.wait_active(COMES_BACK)
    if name in CRASHES:
        _forgive(portal)


def test_after_all_of_them_a_study_is_delivered(portal: Portal, tmp_path: Path) -> None:
    # what the gateway took of the attacks is forwarded, and keeps storage busy for as long as it is read
    portal.machine.wait_for(
        lambda: portal.machine.run(f"curl -s -m 5 {STORAGE}", check=False).returncode == 0,
        limit=200,
        what="storage does not answer",
    )
    portal.deliver(made_up_ct(tmp_path / "ct", 5, seed=660, size=32))
    assert portal.machine.is_active(*UNITS)


def test_a_crash_of_the_gateway_loses_no_acknowledged_image(
    portal: Portal, gateway: Victim, tmp_path: Path
) -> None:
    """Sender and crash at once: what storescu heard 0x0000 for is on disk in the end, without anyone touching anything."""
    study = made_up_ct(tmp_path / "ct", 150, seed=661, size=128)
    sending = portal.modality.start(portal.modality.storescu_argv(*study.paths))
    portal.machine.wait_for(
        lambda: len(sending.acknowledged()) > 10, limit=60, what="nothing is acknowledged"
    )
    row, is_same = gateway.suffer("nested-sequences")
    sending.process.wait(120)
    _forgive(portal)
    acknowledged = {str(pydicom.dcmread(path).SOPInstanceUID) for path in sending.acknowledged()}
    assert acknowledged
    assert is_same or row.restarts > 0
    portal.machine.wait_for(
        lambda: not acknowledged & set(missing(study, portal.output)),
        limit=120, what="acknowledged images are not on disk",
    )  # fmt: skip


def test_a_sender_whose_images_end_the_gateway_again_and_again_is_held_off(
    portal: Portal, gateway: Victim
) -> None:
    def problems() -> str:
        return str(causes(json.loads(portal.machine.run("ddwd status --json", check=False).stdout)))

    _forgive(portal)
    for _ in range(2):
        row, _ = gateway.suffer("nested-sequences")
        assert row.restarts == 1
    assert "is held off" not in problems()
    gateway.attack("nested-sequences")
    portal.machine.wait_for(lambda: "is held off" in problems(), limit=30, what="no view names the sender")
    text = portal.machine.run("journalctl -t ddwd-audit DDWD_EVENT=sender-held-off -o cat --no-pager").stdout
    assert "images of HOSTILE ended ORTHANC1 three times" in text
    assert not portal.modality.echoscu(check=False)
    _forgive(portal)
    assert portal.modality.echoscu()


def test_hostile_identifiers_are_published_below_the_output_and_traced_by_their_real_name(
    portal: Portal, tmp_path: Path
) -> None:
    studies = [
        made_up_ct(tmp_path / f"{number}", 1, seed=670 + number, size=16, patient_id=name)
        for number, name in enumerate(HOSTILE_IDS)
    ]
    portal.send(*studies)
    for study in studies:
        portal.wait_complete(study)
    portal.assert_equal(studies)
    # what an attack before left acknowledged may still be on its way into the receiver
    portal.machine.wait_for(lambda: not _outside(portal), limit=60, what="unfinished objects stay")
    for study in studies:
        for name in (study.patient_id, study.uid):
            said = json.loads(portal.machine.run(["ddwd", "trace", "--json", "--", name]).stdout)
            # an attack before may have left a study whose UID is this name
            assert study.uid in [one["study_uid"] for one in said["studies"]], name


def test_a_preamble_that_is_a_program_does_not_come_out(portal: Portal, tmp_path: Path) -> None:
    """By REST a file keeps its preamble, in both Orthancs; what is published has zeros."""
    study = made_up_ct(tmp_path / "ct", 1, seed=690, size=16)
    content = bytearray(study.paths[0].read_bytes())
    content[:4] = b"\x7fELF"
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(content)
    portal.machine.copy_in(bad, "/srv/bad.dcm")
    login = portal.machine.credentials("gateway")
    portal.machine.run(
        [
            "curl",
            "-s",
            "-S",
            "-f",
            "-K",
            "-",
            "--data-binary",
            "@/srv/bad.dcm",
            "http://127.0.0.1:8042/instances",
        ],
        stdin=f'-u "{login}"\n',
    )
    (sent,) = read_studies([bad])
    portal.wait_complete(sent)
    (published,) = portal.output.glob(f"*/{study.uid}/*/*.dcm")
    assert published.read_bytes()[:132] == bytes(128) + b"DICM"
