"""A portal on two machines: the gateway on one, storage and extractor on the other, and nothing in plain between them."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import OUTPUT_DIR
from tests.appliance.pair import Database, Pair, pair
from tests.machine.network import MACHINE_ADDRESS, SECOND_ADDRESS
from tests.problems import every
from tests.studies import faults, is_complete, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.machine import Machine
    from tests.studies import Study

GATEWAY = ("ddwd", "ddwd-gateway", "ddwd-inbox", "ddwd-signer", "ddwd-monitor", "ddwd-tls@link")
INSIDE = (
    "ddwd",
    "ddwd-storage",
    "ddwd-scp",
    "ddwd-extractor",
    "ddwd-signer",
    "ddwd-monitor",
    "ddwd-tls@link",
)
LINK_PORT = 8450
PASSWORD_FILE = "/etc/ddwd/database.password"  # noqa: S105 - where it is


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
        inside = {"roles": "[storage, extractor]", "gateway.host": SECOND_ADDRESS}
        both.settle(both.one, inside | _elsewhere(both), INSIDE)
        yield both


def _elsewhere(both: Pair) -> dict[str, str]:
    """The index of ORTHANC2 on a server of another machine; at the first address of its cluster nobody listens, as after a failover."""
    password = secrets.token_urlsafe(12)
    database = Database(both, password)
    database.make("ddwd-storage", "ddwd_storage")
    both.one.machine.run(
        f"cat > {PASSWORD_FILE}; chgrp ddwd {PASSWORD_FILE}; chmod 640 {PASSWORD_FILE}", stdin=password
    )
    servers = f"postgresql://{database.address}:5431,{database.address}:5432/"
    return {"database.url": servers, "database.password_file": PASSWORD_FILE}


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
        assert [one for one in every(said) if one["severity"] == "broken"] == []
        others = {*GATEWAY, *INSIDE} - set(own)
        assert not any(machine.is_active(unit) for unit in others)
        assert machine.run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout.strip() == ""


def test_orthanc2_keeps_its_index_on_the_server_that_answers(split: Pair) -> None:
    assert "PostgreSQL" in split.one.machine.rest("storage", "/system")["DatabaseBackendPlugin"]
    ask = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'ddwd-storage'"
    local = split.one.machine.run(["runuser", "-u", "postgres", "--", "psql", "-A", "-t", "-c", ask])
    assert local.stdout.strip() == "0"
    shown = split.one.machine.run(["ddwd", "config", "show"]).stdout
    secret = split.one.machine.path(PASSWORD_FILE).read_text(encoding="ascii")
    assert secret not in shown + split.one.machine.journal(lines=3000)


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
    closed = ("storage-dicom", "scp")
    for part in ("storage-http", *closed):
        split.two.machine.run(hello % part)
    assert "Service [storage-http] connected" in split.one.machine.journal("ddwd-tls@link", lines=400)
    told = ["journalctl", "-t", "ddwd-audit", "-o", "cat", "DDWD_EVENT=association-refused", "DDWD_PEER=link"]
    split.one.machine.wait_for(
        lambda: split.one.machine.run(told).stdout.count("refused a connection by TLS") >= len(closed),
        limit=30,
        what="the audit does not tell of the refused connections",
    )


def test_what_was_sent_while_storage_was_away_comes_when_it_is_back(split: Pair, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path, 30, seed=7802, size=128)
    split.one.machine.run(["systemctl", "stop", "ddwd-tls@link"])
    _send(split, study)
    split.one.machine.run(["systemctl", "start", "ddwd-tls@link"])
    output = split.one.machine.path(OUTPUT_DIR)
    split.one.machine.wait_for(lambda: is_complete(study, output), limit=90, what="the study is not on disk")
    assert faults(study, output) == []
