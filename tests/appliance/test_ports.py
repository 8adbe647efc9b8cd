"""What other machines find: the ports that are documented, and with the firewall the one that modalities send to."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import UNITS, Portal, installed
from tests.machine.network import MACHINE_ADDRESS
from tests.problems import every
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GATEWAY = 4242
INNER = {4243, 4252, 8042, 8043}
"""Ports of the Orthancs: the kernel refuses other machines there."""
SCAN = """
import errno, selectors, socket, sys
address, found, todo = sys.argv[1], set(), iter(range(1, 65536))
selector, waiting = selectors.DefaultSelector(), 0
def begin():
    global waiting
    port = next(todo, None)
    if port is None:
        return
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex((address, port))
    selector.register(one, selectors.EVENT_WRITE, port)
    waiting += 1
for _ in range(200):
    begin()
while waiting:
    ready = selector.select(5)
    if not ready:
        break
    for key, _ in ready:
        if key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            found.add(key.data)
        selector.unregister(key.fileobj)
        key.fileobj.close()
        waiting -= 1
        begin()
print(*sorted(found))
print(*sorted(key.data for key in selector.get_map().values()))
"""


@pytest.fixture(scope="module")
def own(deb: Path) -> Iterator[Portal]:
    """A machine whose firewall is switched."""
    with installed(deb) as fresh:
        yield fresh


def _open_ports(portal: Portal) -> set[int]:
    """Every TCP port that takes a connection from the modality's network."""
    command = [*portal.modality.netns_argv(), sys.executable, "-c", SCAN, MACHINE_ADDRESS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    opened, silent = done.stdout.split("\n")[:2]
    assert set(map(int, silent.split())) <= INNER
    return set(map(int, opened.split()))


def _set(portal: Portal, text: str) -> None:
    if not portal.configure(text):
        return
    portal.machine.wait_for(
        lambda: portal.machine.is_active(*UNITS, "ddwd-firewall"), limit=60, what="not all units active"
    )
    portal.machine.wait_for(
        lambda: portal.machine.run("ddwd doctor --send", check=False).returncode == 0,
        limit=60,
        what="a study of the portal's own does not get through",
    )


def _tables(portal: Portal) -> str:
    return portal.machine.run("nft list tables").stdout


def test_as_installed_only_the_port_of_the_modalities_is_found(own: Portal) -> None:
    assert _open_ports(own) == {GATEWAY}
    assert _tables(own).splitlines() == ["table inet ddwd"]


def test_without_the_firewall_only_the_port_of_the_modalities_is_found(own: Portal) -> None:
    _set(own, "network:\n  firewall: false\n")
    assert _open_ports(own) == {GATEWAY}
    assert _tables(own) == ""


def test_where_nftables_does_not_work_the_portal_runs_without_and_says_so_calmly(
    own: Portal, tmp_path: Path
) -> None:
    own.machine.run("mv /usr/sbin/nft /usr/sbin/nft.away")
    _set(own, "network:\n  firewall: auto\n")
    doctor = own.machine.run("ddwd doctor --json")
    (found,) = [one for one in every(json.loads(doctor.stdout)) if one["part"] == "firewall"]
    assert found["severity"] == "note"
    assert "apt install nftables" in found["remedy"]
    (line,) = [one for one in own.machine.run("ddwd status").stdout.splitlines() if "ddwd-firewall" in one]
    assert "network.firewall is auto, no table" in line
    study = made_up_ct(tmp_path / "ct", 3, seed=502, size=16)
    own.deliver(study)
    own.machine.run("mv /usr/sbin/nft.away /usr/sbin/nft; systemctl restart ddwd-firewall")
    assert _tables(own).splitlines() == ["table inet ddwd"]


def test_nothing_listens_by_udp(own: Portal) -> None:
    said = own.machine.run("ss -Hlunp").stdout
    assert [line for line in said.splitlines() if "127." not in line and "[::1]" not in line] == []


def test_with_the_firewall_only_the_port_of_the_modalities_is_found(own: Portal, tmp_path: Path) -> None:
    own.machine.run("nft add table inet theirs; nft add chain inet theirs input")
    _set(own, "network:\n  firewall: true\nsenders: [CT1 from 10.99.0.0/24, STORESCU]\n")
    assert _open_ports(own) == {GATEWAY}
    study = made_up_ct(tmp_path / "ct", 3, seed=501, size=16)
    own.modality.run(own.modality.storescu_argv(*study.paths))
    own.wait_complete(study)
    assert "firewall" not in own.machine.run("ddwd doctor | grep -v ^ok", check=False).stdout


def test_with_the_firewall_another_network_finds_nothing(own: Portal) -> None:
    _set(own, "network:\n  firewall: true\nsenders: [CT1 from 10.98.0.0/16]\n")
    assert _open_ports(own) == set()


HOLD = """
import socket, sys, time
held = []
for _ in range(40):
    one = socket.socket()
    one.settimeout(5)
    try:
        one.connect((sys.argv[1], 4242))
        held.append(one)
    except OSError:
        pass
print(len(held), flush=True)
"""


def test_one_machine_holds_sixteen_connections_at_most(own: Portal) -> None:
    _set(own, "network:\n  firewall: true\ngateway:\n  associations_each: 16\n")
    command = [*own.modality.netns_argv(), sys.executable, "-c", HOLD, MACHINE_ADDRESS]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout) == 16


def test_a_table_that_is_taken_away_is_told(own: Portal) -> None:
    _set(own, "network:\n  firewall: true\n")
    own.machine.run("nft delete table inet ddwd")
    done = own.machine.run("ddwd doctor", check=False)
    assert (done.returncode, "network.firewall is true, and the table is missing" in done.stdout) == (1, True)
    own.machine.run("systemctl restart ddwd-firewall")
    assert own.machine.run("ddwd doctor", check=False).returncode == 0


def test_it_takes_its_own_table_away_and_no_other(own: Portal) -> None:
    _set(own, "network:\n  firewall: true\n")
    assert _tables(own).splitlines() == ["table inet theirs", "table inet ddwd"]
    own.machine.run("systemctl stop ddwd")
    assert _tables(own).splitlines() == ["table inet theirs"]
    _set(own, "network:\n  firewall: false\n")
    assert _tables(own).splitlines() == ["table inet theirs"]
    assert _open_ports(own) == {GATEWAY}
    own.machine.run("nft delete table inet theirs")


def test_the_unit_may_change_the_firewall_and_nothing_else(own: Portal) -> None:
    assert own.machine.show("ddwd-firewall", "CapabilityBoundingSet") == "cap_net_admin"
    assert own.machine.show("ddwd-firewall", "User") == "ddwd-firewall"
