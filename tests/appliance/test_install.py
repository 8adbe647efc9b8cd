"""What `apt install` promises: everything runs, hardened, closed, and Debian's own Orthanc stays away."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest

from ddwd.core.model import OrthancId
from ddwd.store.operator_requests import Request, Requests
from tests.appliance.conftest import DAEMONS, SETTINGS, UNITS, Portal
from tests.machine import Machine
from tests.machine.machine import INBOX
from tests.machine.network import MACHINE_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def portal(deb: Path) -> Iterator[Portal]:
    """A machine of its own, on which the package was just installed."""
    with Machine() as machine:
        fresh = Portal(machine, deb)
        fresh.install()
        yield fresh


def test_all_units_are_active_within_a_minute_of_apt_install(portal: Portal) -> None:
    assert portal.active_after < 60
    assert portal.machine.is_active(*UNITS)


def test_apt_install_ends_with_what_to_do_next(portal: Portal) -> None:
    lines = [
        line.removeprefix("ddwd: ") for line in portal.apt_said.splitlines() if line.startswith("ddwd: ")
    ]
    at_the_modality, *commands = [line.strip() for line in lines if line.startswith("  ")]
    assert lines[0] == "The portal runs, and starts at each boot. What to do next:"
    assert f"AE title ORTHANC1, address {MACHINE_ADDRESS}, port 4242" in at_the_modality
    assert [re.split(r" {2,}", line)[0] for line in commands] == ["ddwd status", "ddwd-top", "man ddwd"]
    assert lines[-1].startswith(
        "Any host that reaches port 4242 can send until 'senders' in /etc/ddwd/ddwd.yaml"
    )
    after = portal.apt_said.rpartition("\nddwd: ")[2].splitlines()[1:]
    assert [line for line in after if not line.startswith("Processing triggers for ")] == []


@pytest.mark.parametrize("page", ["ddwd", "ddwd-top", "ddwd.yaml"])
def test_the_manual_that_apt_names_is_installed(portal: Portal, page: str) -> None:
    assert portal.machine.run(["sh", "-c", f"ls /usr/share/man/man*/{page}.[0-9].gz"]).stdout != ""


def test_nothing_failed_in_the_machine(portal: Portal) -> None:
    assert portal.machine.run(["systemctl", "--failed", "--no-legend", "--plain"]).stdout == ""


def test_the_portal_is_enabled_for_the_next_boot(portal: Portal) -> None:
    assert portal.machine.run(["systemctl", "is-enabled", "ddwd"]).stdout.strip() == "enabled"


@pytest.mark.parametrize("unit", [*UNITS, "ddwd-operators"])
def test_systemd_analyze_finds_no_fault_in_the_unit(portal: Portal, unit: str) -> None:
    done = portal.machine.run(["systemd-analyze", "verify", f"{unit}.service"], check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "ddwd" in line]) == (0, [])


@pytest.mark.parametrize("unit", DAEMONS)
def test_no_daemon_runs_as_root(portal: Portal, unit: str) -> None:
    assert portal.machine.show(unit, "User") not in {"", "root"}
    pid = portal.machine.show(unit, "MainPID")
    # the owner of /proc/PID would be root for any process that is not dumpable
    assert portal.machine.run(["ps", "-o", "user=", "-p", pid]).stdout.strip() != "root"


@pytest.mark.parametrize("unit", ["ddwd-scp", "ddwd-extractor"])
def test_the_python_daemons_are_watched_and_say_what_they_do(portal: Portal, unit: str) -> None:
    assert portal.machine.show(unit, "Type") == "notify"
    assert portal.machine.show(unit, "WatchdogUSec") not in {"", "0", "infinity"}
    assert portal.machine.show(unit, "StatusText") != ""


@pytest.mark.parametrize("node", ["gateway", "storage"])
def test_the_default_login_of_orthanc_is_refused(portal: Portal, node: str) -> None:
    assert portal.machine.http_status(node) == 401
    assert portal.machine.http_status(node, login="orthanc:orthanc") == 401


@pytest.mark.parametrize("node", ["gateway", "storage"])
def test_the_generated_login_opens_the_web_page_on_the_machine_itself(portal: Portal, node: str) -> None:
    assert portal.machine.http_status(node, login=portal.machine.credentials(node)) == 200
    assert (
        portal.machine.http_status(node, "/app/explorer.html", login=portal.machine.credentials(node)) == 200
    )


@pytest.mark.parametrize(("node", "port"), [("gateway", 8042), ("storage", 8043)])
def test_http_from_the_lan_is_refused_even_with_the_right_login(portal: Portal, node: str, port: int) -> None:
    assert portal.modality.http_status(port, user=portal.machine.credentials(node)) == 0


def test_the_scp_cannot_be_reached_from_the_lan(portal: Portal) -> None:
    assert not portal.modality.echoscu("PYTHON_SCP", 11112, check=False)


def test_the_gateway_answers_to_its_own_name_only(portal: Portal) -> None:
    assert portal.modality.echoscu("ORTHANC1", 4242)
    assert not portal.modality.echoscu("SOMEONE", 4242, check=False)


@pytest.mark.parametrize("who", ["daemon", "ddwd-gateway"])
def test_the_passwords_are_not_for_everyone(portal: Portal, who: str) -> None:
    assert portal.machine.run(["cat", "/etc/ddwd/credentials.json"], user=who, check=False).returncode != 0


def test_status_tells_the_same_to_a_program(portal: Portal) -> None:
    # what tests before had refused is a problem for a quarter of an hour
    status = json.loads(portal.machine.run(["ddwd", "status", "--json"], check=False).stdout)
    text = json.dumps(status)
    assert all(unit in text for unit in DAEMONS)


def test_debians_own_orthanc_stays_away(portal: Portal) -> None:
    portal.machine.run(["systemctl", "start", "orthanc"], check=False)
    assert not portal.machine.is_active("orthanc")
    assert portal.machine.is_active(*UNITS)


def test_lintian_finds_nothing(portal: Portal) -> None:
    package = f"{INBOX}/{portal.deb.name}"
    command = ["lintian", "--fail-on", "error,warning", "--tag-display-limit", "0", package]
    done = portal.machine.run(command, user="daemon", env={"HOME": "/nonexistent"}, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def broken_configuration(portal: Portal) -> Iterator[None]:
    """A misspelt key and an impossible port in ddwd.yaml, for the time of one test."""
    path = portal.machine.path(SETTINGS)
    before = path.read_text(encoding="utf-8")
    path.write_text(before + "\nstabel_age: 3\npoll_interval: often\n", encoding="utf-8")
    yield
    path.write_text(before, encoding="utf-8")
    portal.machine.run(["systemctl", "reset-failed"])
    portal.machine.run(["systemctl", "start", "ddwd"])
    portal.wait_active()


@pytest.mark.usefixtures("broken_configuration")
def test_systemctl_status_shows_every_mistake_in_the_configuration(portal: Portal) -> None:
    assert portal.machine.run(["systemctl", "restart", "ddwd"], check=False).returncode != 0
    shown = portal.machine.run(["systemctl", "status", "--no-pager", "-l", "ddwd"], check=False).stdout
    assert "stabel_age" in shown
    assert "stable_age" in shown
    assert "poll_interval" in shown
    assert "/etc/ddwd/ddwd.yaml:" in shown


@pytest.mark.parametrize("unit", ["commitment", "courier", "hooks", "inbox"])
def test_a_stop_while_a_unit_still_asks_whether_it_is_wanted_fails_nothing(portal: Portal, unit: str) -> None:
    """`systemctl restart ddwd` twice in a row, or a change of the role right after a boot."""
    name = f"ddwd-{unit}"
    portal.machine.run(f"systemctl stop {name}; systemctl start --no-block {name}")
    seen = portal.machine.wait_for(
        lambda: portal.machine.show(name, "SubState") == "condition",
        limit=10,
        every=0.01,
        what="no condition",
    )
    portal.machine.run(["systemctl", "stop", name])
    assert (portal.machine.show(name, "Result"), portal.machine.show(name, "ActiveState")) == (
        "success",
        "inactive",
    ), seen
    portal.machine.run(["systemctl", "start", name])


def test_a_folder_that_root_makes_belongs_to_the_owner_of_the_one_above(tmp_path: Path) -> None:
    """Here and not among the unit tests: only root gives files away, and those run as anyone."""
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 12, 34)
    request = Request("retry", OrthancId("-".join(["0123abcd"] * 5)))
    made = Requests(state / "requests").submit(request).parent.stat()
    assert (made.st_uid, made.st_gid) == (12, 34)
