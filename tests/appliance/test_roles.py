"""A portal on two machines: the gateway on one, storage and extractor on the other, and nothing in plain between them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import OUTPUT_DIR
from tests.appliance.pair import Pair, pair
from tests.machine.network import MACHINE_ADDRESS, SECOND_ADDRESS
from tests.studies import faults, is_complete, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.machine import Machine
    from tests.studies import Study

GATEWAY = ("ddwd", "ddwd-gateway", "ddwd-inbox", "ddwd-monitor", "ddwd-tls@link")
INSIDE = ("ddwd", "ddwd-storage", "ddwd-scp", "ddwd-extractor", "ddwd-monitor", "ddwd-tls@link")
LINK_PORT = 8450


@pytest.fixture(scope="module")
def split(deb: Path) -> Iterator[Pair]:
    """The first machine is inside and was there first; the second is the gateway, in the DMZ."""
    with pair(deb) as both:
        both.one.machine.run("ddwd link --roles gateway /root/other")
        both.bring("/root/other")
        both.settle(
            both.two,
            {"roles": "[gateway]", "storage.host": MACHINE_ADDRESS, "network.firewall": "true"},
            GATEWAY,
        )
        both.settle(both.one, {"roles": "[storage, extractor]", "gateway.host": SECOND_ADDRESS}, INSIDE)
        yield both


def _send(split: Pair, study: Study) -> None:
    paths = (f"/mnt{path}" for path in study.paths)
    split.one.modality.run(["dcmsend", "-v", "-aec", "ORTHANC1", SECOND_ADDRESS, "4242", *paths], timeout=120)


def _wait_well(machine: Machine) -> None:
    def is_well() -> bool:
        return machine.run(["ddwd", "status"], check=False).returncode == 0

    machine.wait_for(is_well, limit=60, what=machine.run(["ddwd", "status"], check=False).stdout)


def test_a_study_sent_to_the_gateway_lands_on_the_disk_of_the_other_machine(
    split: Pair, tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path, 60, seed=7801, size=128)
    _wait_well(split.two.machine)
    _send(split, study)
    output = split.one.machine.path(OUTPUT_DIR)
    split.one.machine.wait_for(lambda: is_complete(study, output), limit=90, what="the study is not on disk")
    assert faults(study, output) == []
    assert not list(split.two.machine.path(OUTPUT_DIR).glob("[!.]*"))


def test_each_machine_is_well_and_runs_its_own_parts_alone(split: Pair) -> None:
    for portal, own in ((split.one, INSIDE), (split.two, GATEWAY)):
        machine = portal.machine
        _wait_well(machine)
        said = json.loads(machine.run(["ddwd", "doctor", "--json"], check=False).stdout)
        assert [one for one in said["findings"] if one["level"] == "broken"] == []
        others = {*GATEWAY, *INSIDE} - set(own)
        assert not any(machine.is_active(unit) for unit in others)
        assert machine.run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout.strip() == ""


def test_the_study_of_our_own_goes_through_both(split: Pair) -> None:
    said = json.loads(split.one.machine.run(["ddwd", "doctor", "--send", "--json"]).stdout)
    assert said["ok"], said["text"]


def test_a_verb_of_the_extractor_is_refused_on_the_gateway(split: Pair) -> None:
    done = split.two.machine.run(["ddwd", "trace", "1.2.3"], check=False)
    assert done.returncode == 66
    assert "extractor not on this machine" in done.stderr


def test_nobody_without_a_certificate_of_the_link_gets_in(split: Pair) -> None:
    for address in (MACHINE_ADDRESS, SECOND_ADDRESS):
        answer = split.one.modality.run(
            ["curl", "-s", "-k", "-m", "10", f"https://{address}:{LINK_PORT}/system"], check=False
        )
        assert answer.returncode != 0
        assert answer.stdout == ""


def test_the_gateway_s_certificate_opens_stow_and_nothing_else(split: Pair) -> None:
    """What stands in the DMZ may be taken; its key must not lead further than its own work does."""
    folder = "/etc/ddwd/link"
    hello = (
        f"echo | timeout 10 openssl s_client -connect {MACHINE_ADDRESS}:{LINK_PORT} -cert {folder}/machine.pem "
        f"-key {folder}/machine.key -CAfile {folder}/ca.pem -servername %s -quiet 2>&1; true"
    )
    split.two.machine.run(hello % "storage-http")
    split.two.machine.run(hello % "storage-dicom")
    split.two.machine.run(hello % "scp")
    said = split.one.machine.journal("ddwd-tls@link", lines=400)
    assert "Service [storage-http] connected" in said
    refused = [
        line for line in said.splitlines() if "certificate" in line.lower() and "reject" in line.lower()
    ]
    assert len(refused) >= 2, said


def test_what_was_sent_while_storage_was_away_comes_when_it_is_back(split: Pair, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path, 30, seed=7802, size=128)
    split.one.machine.run(["systemctl", "stop", "ddwd-tls@link"])
    _send(split, study)
    split.one.machine.run(["systemctl", "start", "ddwd-tls@link"])
    output = split.one.machine.path(OUTPUT_DIR)
    split.one.machine.wait_for(lambda: is_complete(study, output), limit=90, what="the study is not on disk")
    assert faults(study, output) == []
