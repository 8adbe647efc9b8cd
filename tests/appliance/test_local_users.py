"""Local users without rights: who takes a port of the portal while its service restarts hears nothing, and the inner ports answer the portal alone."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import Portal, installed
from tests.hostile import squatter
from tests.machine.network import MACHINE_ADDRESS
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KILLED = ("ddwd-gateway", "ddwd-storage", "ddwd-acceptor", "ddwd-scp")
PORTS = (4242, 4243, 4252, 8042, 8043, 11112)
INNER = {4243: "ORTHANC2", 4252: "ORTHANC1", 11112: "PYTHON_SCP"}
"""The DICOM ports for the portal's own users, and their AE titles."""
ROUNDS = 50
REFUSED = "Connection refused"
STRANGER = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
"""In no slice of systemd's, as it is for everybody where the kernel cannot reserve ports."""
LOGGED_IN = ("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--uid=nobody", "--slice")
"""Goes before the slice: that of the users who have logged in, or of the machine's services."""
TAKE = """
import socket, sys
for port in map(int, sys.argv[1:]):
    for family, address in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
        one = socket.socket(family)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((address, port))
        except PermissionError:
            continue
        print("took", port)
"""


@pytest.fixture(scope="module")
def own(deb: Path) -> Iterator[Portal]:
    """A machine as it is after the installation."""
    with installed(deb) as fresh:
        fresh.machine.copy_in(Path(squatter.__file__), "/usr/local/lib/squatter.py")
        yield fresh


@contextmanager
def stranger(portal: Portal, *prefix: str) -> Iterator[list[str]]:
    """Let a user without rights take every port that is free; the value is what the user says, once gone."""
    command = ["python3", "/usr/local/lib/squatter.py", "1.2", "2.0", *map(str, PORTS)]
    words = portal.machine.argv([*prefix, *command])
    said: list[str] = []
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin
        assert running.stdout
        try:
            yield said
        finally:
            running.stdin.close()
            said += running.stdout.read().splitlines()


def _restart(portal: Portal, rounds: int) -> None:
    """Kill the four services and start them again, so many times, while everybody goes on connecting to them."""
    asks = "; ".join(
        f"runuser -u ddwd -- curl -s -m 1 -o /dev/null -u ddwd:made-up http://127.0.0.1:{port}/system &"
        for port in (8042, 8043)
    ).replace("&;", "&")
    for _ in range(rounds):
        portal.machine.run(
            f"systemctl kill --signal=KILL {' '.join(KILLED)}; sleep 0.3; {asks}"
            f" sleep 0.7; systemctl restart --no-block {' '.join(KILLED)}; sleep 1"
        )
        ask = ["echoscu", "-to", "1", "-ta", "1", "-aec", "ORTHANC1", MACHINE_ADDRESS, "4242"]
        portal.modality.run(ask, check=False, timeout=30)


def _said(words: str, kind: str) -> set[int]:
    return {int(line.split()[1]) for line in words.splitlines() if line.startswith(kind)}


def _back(portal: Portal) -> None:
    portal.machine.run(f"systemctl restart --no-block {' '.join(KILLED)}")
    portal.wait_active()
    portal.machine.wait_for(
        lambda: portal.machine.run("ddwd doctor --send", check=False).returncode == 0,
        limit=90,
        what="a study of the portal's own does not get through",
    )


def _as(portal: Portal, user: str, command: str) -> str:
    """What a command says that a user runs."""
    words = [*STRANGER, "sh", "-c", command] if user == "nobody" else command
    done = portal.machine.run(words, user="root" if user == "nobody" else user, check=False)
    return done.stdout + done.stderr


def _echo(portal: Portal, port: int, user: str) -> str:
    return _as(
        portal, user, f"echoscu -v -to 5 -ta 5 -aet DDWD_EXTRACTOR -aec {INNER[port]} 127.0.0.1 {port}"
    )


@pytest.mark.timeout(900, func_only=True)
def test_who_takes_a_port_while_its_service_restarts_hears_nothing_in_fifty_restarts(
    own: Portal, tmp_path: Path
) -> None:
    with stranger(own, *STRANGER) as said:
        _restart(own, ROUNDS)
    heard = "\n".join(said)
    assert _said(heard, "took") == set(PORTS)
    assert _said(heard, "met") | _said(heard, "heard") == set()
    _back(own)
    own.deliver(made_up_ct(tmp_path / "ct", 5, seed=7201, size=32))


@pytest.mark.timeout(900, func_only=True)
def test_no_user_of_the_machine_takes_a_port_in_fifty_restarts(own: Portal, tmp_path: Path) -> None:
    with stranger(own, *LOGGED_IN, "user.slice") as said:
        _restart(own, ROUNDS)
    assert said == []
    _back(own)
    own.deliver(made_up_ct(tmp_path / "ct", 5, seed=7203, size=32))


def test_the_ports_stay_reserved_while_the_portal_is_stopped_and_after_a_boot(own: Portal) -> None:
    own.machine.reboot()
    own.wait_active()
    own.machine.run(["systemctl", "stop", "ddwd"])
    try:
        for name in ("user.slice", "system.slice", "machine.slice"):
            take = [*LOGGED_IN, name, "python3", "-c", TAKE]
            assert own.machine.run([*take, *map(str, PORTS)]).stdout == ""
            assert own.machine.run([*take, "5555"]).stdout == "took 5555\n" * 2
    finally:
        own.machine.run(["systemctl", "start", "ddwd"])
        own.wait_active()


@pytest.mark.parametrize("port", INNER)
def test_the_inner_ports_answer_the_portal_and_root_and_nobody_else(own: Portal, port: int) -> None:
    assert REFUSED in _echo(own, port, "nobody")
    assert REFUSED not in _echo(own, port, "root")


def test_a_user_without_rights_cannot_have_a_study_sent(own: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 2, seed=7202, size=16)
    own.deliver(study)
    keys = f"-k 0008,0052=STUDY -k 0020,000D={study.uid}"
    move = f"movescu -v -S -aet DDWD_EXTRACTOR -aec ORTHANC2 -aem PYTHON_SCP {keys} 127.0.0.1 4243"
    assert REFUSED in _as(own, "nobody", move)
    assert "Received Final Move Response (Success)" in _as(own, "ddwd", move)


def test_an_operator_may_ask_every_hop_as_root_may(own: Portal) -> None:
    own.add_operator("helper")
    done = own.machine.run("ddwd doctor", user="helper", check=False)
    assert "does not answer a C-ECHO" not in done.stdout
    assert {REFUSED in _echo(own, port, "helper") for port in (4243, 11112)} == {False}


def test_who_joins_or_leaves_group_ddwd_is_admitted_or_not_without_a_restart(own: Portal) -> None:
    def is_refused(*users: str) -> set[bool]:
        return {REFUSED in _echo(own, port, user) for user in users for port in (4243, 11112)}

    def wait(is_right: Callable[[], bool], what: str) -> None:
        own.machine.wait_for(is_right, limit=30, what=what)

    own.machine.run("useradd -m early; useradd -m late")
    assert is_refused("early", "late") == {True}
    # the second one while the table is made for the first
    own.machine.run("adduser early ddwd; adduser late ddwd")
    wait(lambda: is_refused("early", "late") == {False}, "new operators are not admitted")
    own.machine.run("gpasswd -d early ddwd")
    wait(lambda: is_refused("early") == {True}, "who has left is still admitted")
    assert is_refused("late") == {False}


HOLD = """
import socket, sys
held = []
for _ in range(60):
    one = socket.socket()
    one.settimeout(2)
    try:
        one.connect(("127.0.0.1", int(sys.argv[1])))
        one.sendall(b"GET / HTTP/1.1")
        held.append(one)
    except OSError:
        pass
print(len(held), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("node", "port"), [("gateway", 8042), ("storage", 8043)])
def test_all_strangers_together_hold_few_connections_to_a_rest_interface(
    own: Portal, node: str, port: int
) -> None:
    words = own.machine.argv([*STRANGER, "python3", "-c", HOLD, str(port)])
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        assert int(running.stdout.readline()) <= 16
        assert own.machine.http_status(node, login=own.machine.credentials(node)) == 200
        running.communicate(timeout=30)


def test_no_other_port_is_touched(own: Portal) -> None:
    own.machine.run("systemd-run --unit=another --uid=nobody python3 -m http.server 9999")
    ask = [
        "curl",
        "-s",
        "-m",
        "5",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        f"http://{MACHINE_ADDRESS}:9999/",
    ]
    own.machine.wait_for(
        lambda: own.modality.run(ask, check=False).stdout == "200",
        limit=20,
        what="another service is not reached",
    )
    assert own.machine.run("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:9999/").stdout == "200"
    own.machine.run("systemctl stop another")


def test_without_the_firewall_the_same_stranger_hears_the_portal(own: Portal) -> None:
    own.configure("network:\n  firewall: false\n")
    _back(own)
    with stranger(own, *LOGGED_IN, "user.slice") as said:
        _restart(own, 3)
    assert _said("\n".join(said), "heard")
    _back(own)
    for port in INNER:
        assert REFUSED not in _echo(own, port, "nobody")
