"""What a unit that was taken over could still do: as little as systemd lets one take away, held here unit by unit."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import CUSTODY, DAEMONS, OUTPUT_DIR, SETTINGS, Portal
from tests.studies import is_complete, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.machine import Machine

STRICTEST = 1.2
"""Exposure level of `systemd-analyze security` that a unit may have at most, unless it stands below."""
EXPOSURE = {"ddwd-gateway": 2.5, "ddwd-storage": 2.5, "ddwd-provision": 2.6}
NET_ADMIN, NET_BIND_SERVICE = 12, 10
NAMED = {
    "ddwd-firewall": "cap_net_admin",
    "ddwd-provision": "cap_chown cap_dac_override cap_fowner cap_setgid cap_setuid",
}
"""The exceptions: who makes a table of nftables, and who runs as root for a second at each start."""
SMALL_VM = 2 * 1024**3
IDLE = 1000
CONNECTIONS = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
held = [socket.create_connection(("127.0.0.1", 11112)) for _ in range(int(sys.argv[1]))]
print("held", flush=True)
sys.stdin.read()
"""


def _services(portal: Portal) -> list[str]:
    """Every service of the package, those that come later too; of a template one instance."""
    found = portal.machine.path("/usr/lib/systemd/system").glob("ddwd*.service")
    return sorted(path.stem.replace("@", "@gateway") for path in found)


# --- systemd's own judgement ------------------------------------------------------------------------------------------


def test_no_unit_is_more_exposed_than_it_must_be(portal: Portal) -> None:
    levels = {unit: _exposure(portal, unit) for unit in _services(portal)}
    table = [f"{unit:<16} {level:.1f} of {EXPOSURE.get(unit, STRICTEST)}" for unit, level in levels.items()]
    print("\n".join(table))  # noqa: T201 - the figures of docs/security.md
    assert [unit for unit, level in levels.items() if level > EXPOSURE.get(unit, STRICTEST)] == []
    assert set(levels) >= {*DAEMONS, "ddwd", "ddwd-doctor", "ddwd-provision"}


def _exposure(portal: Portal, unit: str) -> float:
    """Level from 0 (nothing left) to 10, as the machine's systemd has it for the unit with its drop-ins."""
    said = portal.machine.run(["systemd-analyze", "security", "--no-pager", f"{unit}.service"]).stdout
    return float(said.rpartition("Overall exposure level for")[2].split(":")[1].split()[0])


def test_a_unit_without_its_confinement_would_be_told(portal: Portal) -> None:
    folder = portal.machine.path("/etc/systemd/system/ddwd-scp.service.d")
    folder.mkdir(parents=True)
    (folder / "planted.conf").write_text("[Service]\nProtectSystem=no\nPrivateUsers=no\n", encoding="utf-8")
    portal.machine.run(["systemctl", "daemon-reload"])
    planted = _exposure(portal, "ddwd-scp")
    (folder / "planted.conf").unlink()
    folder.rmdir()
    portal.machine.run(["systemctl", "daemon-reload"])
    assert planted > STRICTEST >= _exposure(portal, "ddwd-scp")


# --- capabilities -----------------------------------------------------------------------------------------------------


def test_no_unit_may_have_a_capability_but_the_two_named_ones(portal: Portal) -> None:
    bounds = {unit: portal.machine.show(unit, "CapabilityBoundingSet") for unit in _services(portal)}
    assert {unit: bound for unit, bound in bounds.items() if bound} == NAMED


@pytest.mark.parametrize("unit", DAEMONS)
def test_no_running_daemon_has_a_capability_but_the_one_that_makes_routes(portal: Portal, unit: str) -> None:
    wanted: set[int] = set()
    assert _capabilities(portal, unit) == {
        "CapPrm": wanted,
        "CapEff": wanted,
        "CapBnd": wanted,
        "CapAmb": wanted,
    }


def _capabilities(portal: Portal, unit: str) -> dict[str, set[int]]:
    """Numbers of the capabilities in each set of the main process."""
    pid = portal.machine.show(unit, "MainPID")
    status = portal.machine.run(["cat", f"/proc/{pid}/status"]).stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    return {
        name: {bit for bit in range(64) if int(fields[name], 16) >> bit & 1}
        for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")
    }


@contextlib.contextmanager
def _setting(portal: Portal, before: str, after: str) -> Iterator[None]:
    """Another line in ddwd.yaml and the portal restarted with it, and back again."""
    path = portal.machine.path(SETTINGS)
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1
    path.write_text(text.replace(before, after), encoding="utf-8")
    try:
        portal.machine.run(["systemctl", "restart", "ddwd"])
        yield
    finally:
        path.write_text(text, encoding="utf-8")
        portal.machine.run(["systemctl", "restart", "ddwd"])
        portal.wait_active()


def test_the_gateway_gets_its_one_capability_with_port_104_and_loses_it_with_4242(
    portal: Portal, tmp_path: Path
) -> None:
    before, after = (
        made_up_ct(tmp_path / "before", 4, seed=781, size=64),
        made_up_ct(tmp_path / "after", 4, seed=782),
    )
    with _setting(portal, "dicom_port: 4242", "dicom_port: 104"):
        portal.machine.wait_for(
            lambda: portal.modality.echoscu("ORTHANC1", 104, check=False),
            limit=60,
            what="port 104 is not answered",
        )
        portal.modality.run(portal.modality.dcmsend_argv(*before.paths, port=104))
        portal.wait_complete(before)
        portal.assert_equal([before])
        assert _capabilities(portal, "ddwd-acceptor")["CapEff"] == {NET_BIND_SERVICE}
        assert _capabilities(portal, "ddwd-gateway")["CapBnd"] == set()
        assert _exposure(portal, "ddwd-acceptor") <= EXPOSURE["ddwd-gateway"]
        assert portal.machine.run(["ddwd", "config", "check"], user="ddwd").returncode == 0
    portal.deliver(after)
    assert _capabilities(portal, "ddwd-acceptor")["CapBnd"] == set()
    assert portal.machine.show("ddwd-acceptor", "DropInPaths") == ""


def test_a_port_below_1024_that_is_taken_is_told_before_anything_starts(portal: Portal) -> None:
    with _setting(portal, "dicom_port: 4242", "dicom_port: 104"):
        portal.machine.run(["systemctl", "stop", "ddwd"])
        listen = "import socket, time; held = socket.create_server(('', 104)); time.sleep(600)"
        portal.machine.run(["systemd-run", "--unit=holder", "python3", "-c", listen])
        portal.machine.wait_for(
            lambda: ":104 " in portal.machine.run(["ss", "-ltn"]).stdout,
            limit=20,
            what="nobody holds port 104",
        )
        started = portal.machine.run(["systemctl", "start", "ddwd"], check=False)
        said = portal.machine.journal("ddwd", lines=10)
        portal.machine.run(["systemctl", "stop", "holder"])
        assert started.returncode != 0
        assert "gateway.dicom_port: port 104 is taken" in said


# --- files and folders ------------------------------------------------------------------------------------------------


def test_delivered_studies_are_for_user_and_group_ddwd_alone(portal: Portal, tmp_path: Path) -> None:
    portal.deliver(made_up_ct(tmp_path, 3, seed=785, size=64, patient_id="Modes-1", series=2))
    listing = portal.machine.run(
        ["find", OUTPUT_DIR, "-name", ".ddwd", "-prune", "-o", "-printf", "%y %m %u:%g\\n"]
    )
    assert set(listing.stdout.splitlines()) == {"d 750 ddwd:ddwd", "f 640 ddwd:ddwd"}


@pytest.mark.parametrize("unit", CUSTODY)
def test_even_root_could_write_only_where_the_unit_must(portal: Portal, unit: str) -> None:
    own = {
        "ddwd-acceptor": {"/run/ddwd/acceptor"},
        "ddwd-gateway": {"/var/lib/ddwd/gateway", "/var/lib/ddwd/conflicts/gateway", "/run/ddwd/gateway"},
        "ddwd-storage": {"/var/lib/ddwd/storage", "/var/lib/ddwd/conflicts/storage"},
        "ddwd-scp": {OUTPUT_DIR, "/run/ddwd/scp"},
        "ddwd-extractor": {
            f"/var/lib/ddwd/{name}" for name in ("state", "quarantine", "gateway", "received_dicom")
        },
    }[unit]
    closed = [
        "/",
        "/etc",
        "/etc/ddwd",
        "/usr/lib/ddwd",
        "/run",
        "/run/ddwd/orthanc",
        "/var/lib/postgresql",
        "/srv",
    ]
    closed += [] if unit == "ddwd-extractor" else ["/var/lib/ddwd/state"]
    pid = portal.machine.show(unit, "MainPID")
    probe = 'for at in "$@"; do touch "$at/probe" 2>/dev/null && rm "$at/probe" && echo "$at"; done; true'
    inside = ["nsenter", "-t", pid, "-m", "--", "sh", "-c", probe, "sh", *closed, *sorted(own)]
    assert set(portal.machine.run(inside).stdout.split()) == own


# --- tasks and memory -------------------------------------------------------------------------------------------------


@dataclass
class _Load:
    """The most that was seen of each unit: threads, and bytes that were resident."""

    tasks: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def look(self, machine: Machine) -> None:
        """Look once."""
        script = (
            "for unit in $0 $@; do pid=$(systemctl show --value -p MainPID $unit); echo $unit"
            " $(wc -l < /sys/fs/cgroup/system.slice/$unit.service/cgroup.threads)"
            " $(sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\) kB/\\1/p' /proc/$pid/status); done"
        )
        for line in machine.run(["sh", "-c", script, *DAEMONS]).stdout.splitlines():
            unit, tasks, kilobytes = line.split()
            self.tasks[unit] = max(self.tasks.get(unit, 0), int(tasks))
            self.memory[unit] = max(self.memory.get(unit, 0), int(kilobytes) * 1024)


@contextlib.contextmanager
def _idle_connections(portal: Portal) -> Iterator[None]:
    """Connections to the C-STORE receiver from the machine itself, on which nothing is ever said."""
    inside = [
        "nsenter",
        f"--net={portal.machine.network.machine}",
        sys.executable,
        "-c",
        CONNECTIONS,
        str(IDLE),
    ]
    with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.kill()


def test_tasks_and_memory_have_head_room_with_four_senders_and_a_thousand_idle_connections(
    portal: Portal, tmp_path: Path
) -> None:
    studies = [made_up_ct(tmp_path / str(number), 60, seed=786 + number, size=256) for number in range(4)]
    restarts = {unit: portal.machine.show(unit, "NRestarts") for unit in DAEMONS}
    load = _Load()

    def all_there() -> bool:
        load.look(portal.machine)
        return all(is_complete(study, portal.output) for study in studies)

    with _idle_connections(portal):
        for study in studies:
            portal.modality.start(portal.modality.dcmsend_argv(*study.paths))
        portal.machine.wait_for(all_there, limit=120, what="the studies are not on disk")
    limits = {unit: _limits(portal.machine, unit) for unit in DAEMONS}
    for unit in DAEMONS:
        tasks, memory = limits[unit]
        print(  # noqa: T201 - the figures of docs/security.md
            f"{unit:<16} {load.tasks[unit]:>4} of {tasks:>5} tasks, {load.memory[unit] / 1e6:>4.0f} of {memory / 1e6:>5.0f} MB"
        )
    assert [unit for unit in DAEMONS if load.tasks[unit] * 1.5 > limits[unit][0]] == []
    assert [unit for unit in DAEMONS if load.memory[unit] * 1.5 > limits[unit][1]] == []
    assert {unit: portal.machine.show(unit, "NRestarts") for unit in DAEMONS} == restarts


def _limits(machine: Machine, unit: str) -> tuple[int, float]:
    """TasksMax, and what MemoryMax would be in a machine of 2 GiB."""
    total = int(machine.run("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").stdout) * 1024
    return int(machine.show(unit, "TasksMax")), int(machine.show(unit, "MemoryMax")) * SMALL_VM / total


def test_every_unit_has_limits_of_its_own(portal: Portal) -> None:
    default = int(portal.machine.run(["systemctl", "show", "--value", "-p", "DefaultTasksMax"]).stdout)
    services = _services(portal)
    assert [
        unit for unit in services if int(portal.machine.show(unit, "TasksMax")) >= min(default, 1025)
    ] == []
    assert [unit for unit in services if portal.machine.show(unit, "MemoryMax") == "infinity"] == []
