"""Thousands of connections that bring nothing, at every port that other machines reach: images and the portal's own hops go on as ever."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import DAEMONS, Portal, installed
from tests.machine.network import MACHINE_ADDRESS
from tests.studies import Study, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLAIN, TLS, WEB = 4242, 2762, (8442, 8443)
OPEN = (PLAIN, TLS, *WEB)
CLOSED = (4243, 4252, 8042, 8043, 11112)
"""Ports that this machine alone may reach."""
PLACES = 27
"""Connections that all people together may have to one Orthanc, which serves 50 at once."""
PROXIES = ("ddwd-tls@web-gateway", "ddwd-tls@web-storage")
EACH = 1000
SECONDS = 6
"""How long the crowd grows before anything is sent."""
IMAGES = 20
FOLDER = "/etc/ddwd/tls"


@pytest.fixture(scope="module")
def own(deb: Path) -> Iterator[Portal]:
    """A machine that takes images plain and by TLS, with its web pages open to other machines; the firewall is off, so that nothing else helps."""
    with installed(deb) as fresh:
        fresh.machine.run("ddwd tls init && ddwd tls issue CT1")
        fresh.configure("tls:\n  gateway: both\nweb:\n  open: true\nnetwork:\n  firewall: false\n")
        fresh.wait_active()
        fresh.machine.wait_for(
            lambda: fresh.machine.is_active(*PROXIES), limit=60, what="the pages are not served"
        )
        yield fresh


@contextmanager
def crowd(portal: Portal, *ports: int) -> Iterator[dict[str, dict[str, int]]]:
    """Hold that many connections to each port; the value is what the crowd says of itself at the end."""
    command = [*portal.modality.netns_argv(), sys.executable, "-m", "tests.hostile.crowd"]
    words = [*command, MACHINE_ADDRESS, str(EACH), *map(str, ports)]
    said: dict[str, dict[str, int]] = {}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        assert running.stdin
        last: list[str] = []
        try:
            last = list(itertools.islice(running.stdout, SECONDS))
            yield said
        finally:
            running.stdin.close()
            last += running.stdout.readlines()
            said |= json.loads(last[-1])


def _send_by_tls(portal: Portal, study: Study) -> None:
    there = {name: f"/mnt{portal.machine.path(f'{FOLDER}/{name}')}" for name in ("issued/CT1.key", "issued/CT1.pem", "ca.pem")}  # fmt: skip
    identity = ["+tls", there["issued/CT1.key"], there["issued/CT1.pem"], "+cf", there["ca.pem"]]
    portal.modality.run(portal.modality.storescu_argv(*study.paths, port=TLS, options=identity))


def _times(portal: Portal, folder: Path, seed: int) -> dict[str, float]:
    """Send a study plain and one by TLS; return the seconds from the first byte of each until all of it is on disk."""
    plain, secure = (
        made_up_ct(folder / name, IMAGES, seed=seed + number, size=64)
        for number, name in enumerate(("plain", "tls"))
    )
    began = time.monotonic()
    portal.send(plain)
    portal.wait_complete(plain)
    between = time.monotonic()
    _send_by_tls(portal, secure)
    portal.wait_complete(secure)
    portal.assert_equal([plain, secure])
    return {"plain": round(between - began, 1), "TLS": round(time.monotonic() - between, 1)}


def _restarts(portal: Portal) -> dict[str, str]:
    units = (*DAEMONS, *PROXIES)
    return {
        unit: portal.machine.show(unit, "NRestarts") + portal.machine.show(unit, "MainPID") for unit in units
    }


def test_what_is_for_this_machine_alone_answers_no_other_machine(own: Portal) -> None:
    asks = "import socket, sys\nfor port in sys.argv[2:]:\n    with socket.socket() as one:\n        one.settimeout(5)\n        print(port, one.connect_ex((sys.argv[1], int(port))))\n"
    command = [*own.modality.netns_argv(), sys.executable, "-c", asks, MACHINE_ADDRESS, *map(str, CLOSED)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert dict(zip(said[::2], said[1::2], strict=True)) == {str(port): "111" for port in CLOSED}
    listening = own.machine.run("ss -Hltn").stdout
    assert [port for port in CLOSED if f":{port} " not in listening] == []


def test_a_study_goes_through_beside_a_thousand_connections_at_every_port(
    own: Portal, tmp_path: Path
) -> None:
    alone = _times(own, tmp_path / "alone", 7101)
    before = _restarts(own)
    with crowd(own, *OPEN, *CLOSED) as said:
        beside = _times(own, tmp_path / "beside", 7103)
    sys.stdout.write(f"seconds alone {alone}, beside the crowd {beside}; {said}\n")
    assert _restarts(own) == before
    # it was there: at each open port some stayed open or were closed by us, and none got through elsewhere
    there = {int(port) for state in said.values() for port, number in state.items() if number}
    assert there == set(OPEN)
    assert min(said["open"][str(port)] for port in (PLAIN, TLS)) >= EACH / 3


def test_people_use_up_few_places_and_the_portal_keeps_the_others(own: Portal) -> None:
    with crowd(own, *WEB) as said:
        for node, name, port in (("gateway", "web-gateway", 8042), ("storage", "web-storage", 8043)):
            pid = own.machine.show(f"ddwd-tls@{name}", "MainPID")
            # not its threads: those of connections that have just ended are still counted on a busy machine
            used = own.machine.run(f"ss -Htnp state established dport = :{port}").stdout
            assert used.count(f"pid={pid},") <= PLACES
            assert own.machine.http_status(node, login=own.machine.credentials(node)) == 200
    assert min(said["closed"].values()) > 0
