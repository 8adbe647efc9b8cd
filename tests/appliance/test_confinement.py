"""What a unit that was taken over could still do: as little as systemd lets one take away, held here unit by unit."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import CUSTODY, DAEMONS, OUTPUT_DIR, SETTINGS, Portal
from tests.machine.machine import INBOX as HANDED_IN
from tests.studies import is_complete, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.machine import Machine

STRICTEST = 1.1
"""Exposure level of `systemd-analyze security` that a unit may have at most."""
LOW_PORT = 1.5
"""Of a unit with a port below 1024."""
NET_ADMIN, NET_BIND_SERVICE = 12, 10
NAMED = {
    "ddwd-firewall": "cap_net_admin",
    "ddwd-folders": "cap_chown cap_dac_override cap_fowner cap_fsetid",
    "ddwd-operators": "cap_net_admin",
    "ddwd-provision": "cap_chown cap_dac_override cap_fowner",
}
"""The exceptions: who makes a table of nftables, and who makes folders and files for other users at each start."""
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
    return sorted(path.stem.replace("@", "@storage") for path in found)


# --- systemd's own judgement ------------------------------------------------------------------------------------------


def test_no_unit_is_more_exposed_than_it_must_be(portal: Portal) -> None:
    levels = {unit: _exposure(portal, unit) for unit in _services(portal)}
    table = [f"{unit:<16} {level:.1f}" for unit, level in levels.items()]
    print("\n".join(table))  # noqa: T201 - the figures of docs/security.md
    assert [unit for unit, level in levels.items() if level > STRICTEST] == []
    assert set(levels) >= {*DAEMONS, *NAMED, "ddwd", "ddwd-doctor", "ddwd-databases"}


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


def test_no_unit_may_have_a_capability_but_the_named_ones(portal: Portal) -> None:
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
        assert _exposure(portal, "ddwd-acceptor") <= LOW_PORT
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
        [
            "find",
            OUTPUT_DIR,
            "-ignore_readdir_race",
            "-name",
            ".ddwd",
            "-prune",
            "-o",
            "-printf",
            "%y %m %u:%g\\n",
        ]
    )
    assert set(listing.stdout.splitlines()) == {"d 750 ddwd:ddwd", "f 640 ddwd:ddwd"}


def test_a_folder_that_is_missing_or_has_an_owner_of_0_2_0_at_a_start_is_as_it_was_afterwards(
    portal: Portal,
) -> None:
    def folders() -> str:
        places = "/var/lib/ddwd/* /var/lib/ddwd/hooks/* /var/lib/ddwd/state/requests /run/ddwd/courier"
        return portal.machine.run(f"stat -c '%n %a %U:%G' {places}").stdout

    before = folders()
    portal.machine.run(
        "systemctl stop ddwd; cd /var/lib/ddwd; rm -r courier hooks/told state/requests /run/ddwd/courier;"
        " chown -R ddwd:ddwd monitor; chmod 750 monitor; systemctl start ddwd"
    )
    portal.wait_active()
    assert folders() == before


@pytest.mark.parametrize("unit", CUSTODY)
def test_even_root_could_write_only_where_the_unit_must(portal: Portal, unit: str) -> None:
    own = {
        "ddwd-acceptor": {"/run/ddwd/acceptor"},
        "ddwd-gateway": {"/var/lib/ddwd/gateway", "/var/lib/ddwd/conflicts/gateway", "/run/ddwd/gateway"},
        "ddwd-storage": {"/var/lib/ddwd/storage", "/var/lib/ddwd/conflicts/storage"},
        "ddwd-scp": {f"{OUTPUT_DIR}/.ddwd", "/run/ddwd/scp"},
        "ddwd-extractor": {f"/var/lib/ddwd/{name}" for name in ("state", "quarantine", "received_dicom")},
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
        "/var/lib/ddwd/monitor",
        "/var/lib/ddwd/inbox",
    ]
    closed += ["/var/lib/ddwd/gateway"] if unit == "ddwd-extractor" else ["/var/lib/ddwd/state"]
    closed = [folder for folder in closed if folder not in own]
    pid = portal.machine.show(unit, "MainPID")
    probe = 'for at in "$@"; do touch "$at/probe" 2>/dev/null && rm "$at/probe" && echo "$at"; done; true'
    inside = ["nsenter", "-t", pid, "-m", "--", "sh", "-c", probe, "sh", *closed, *sorted(own)]
    assert set(portal.machine.run(inside).stdout.split()) == own


# --- users ------------------------------------------------------------------------------------------------------------

WRITES = {
    "ddwd": {OUTPUT_DIR},
    "ddwd-acceptor": {"/run/ddwd/acceptor"},
    "ddwd-commitment": {"/var/lib/ddwd/commitment"},
    "ddwd-courier": {"/var/lib/ddwd/courier", "/run/ddwd/courier"},
    "ddwd-databases": set(),
    "ddwd-doctor": {"/var/lib/ddwd/state/requests", "/run/ddwd/doctor"},
    "ddwd-extractor": {
        *(f"/var/lib/ddwd/{name}" for name in ("state", "quarantine", "received_dicom", "hooks/waiting")),
        *(f"/var/lib/ddwd/conflicts/{node}" for node in ("gateway", "storage")),
        "/run/ddwd/extractor",
    },
    "ddwd-firewall": set(),
    "ddwd-folders": {"/var/lib/ddwd", "/run/ddwd"},
    "ddwd-gateway": {
        *(f"/var/lib/ddwd/{name}" for name in ("gateway", "conflicts/gateway", "commitment")),
        "/run/ddwd/gateway",
    },
    "ddwd-hooks": {
        *(f"/var/lib/ddwd/hooks/{name}" for name in ("waiting", "told", "output")),
        "/run/ddwd/hooks",
    },
    "ddwd-inbox": {"/var/lib/ddwd/inbox"},
    "ddwd-monitor": {"/var/lib/ddwd/monitor", "/run/ddwd/monitor"},
    "ddwd-operators": set(),
    "ddwd-scp": {f"{OUTPUT_DIR}/.ddwd", "/run/ddwd/scp"},
    "ddwd-signer": {"/var/lib/ddwd/chain", "/var/lib/ddwd/signer", "/run/ddwd/signer"},
    "ddwd-storage": {"/var/lib/ddwd/storage", "/var/lib/ddwd/conflicts/storage"},
    "ddwd-tls@storage": set(),
}
"""The folders of the portal in which each unit, taken over, could make a file; what lies below one is not named again."""
READ_CREDENTIALS = {"ddwd"}
SHARED_USER = {"ddwd", "ddwd-scp", "ddwd-extractor"}
PROBE = """
head -c 1 /etc/ddwd/credentials.json >/dev/null 2>&1 && echo reads credentials
while read -r unit pid; do
    kill -0 "$pid" 2>/dev/null && echo "signals $unit"
    ls "/proc/$pid/root/" >/dev/null 2>&1 && echo "enters $unit"
done <{inbox}/probe-pids
while read -r folder; do
    if touch "$folder/.probe" 2>/dev/null; then rm "$folder/.probe"; echo "writes $folder"; fi
done <{inbox}/probe-folders
true
"""


@pytest.fixture(scope="module")
def could(portal: Portal) -> dict[str, set[str]]:
    """What each unit could do, by a program that runs in its place: as its user, in its confinement."""
    machine, folder = portal.machine, portal.machine.path(HANDED_IN)
    pids = [f"{unit} {machine.show(unit, 'MainPID')}" for unit in DAEMONS]
    places = machine.run(
        "find /var/lib/ddwd /run/ddwd /etc/ddwd -ignore_readdir_race -maxdepth 4 -type d"
    ).stdout
    (folder / "probe-pids").write_text("\n".join([*pids, ""]), encoding="utf-8")
    (folder / "probe-folders").write_text(places, encoding="utf-8")
    (folder / "probe").write_text(PROBE.format(inbox=HANDED_IN), encoding="utf-8")
    machine.run(f"chmod -R a+rX {HANDED_IN}")
    return {unit: _done_in_place_of(portal, unit) for unit in _services(portal) if unit != "ddwd-provision"}


def _done_in_place_of(portal: Portal, unit: str) -> set[str]:
    """Run the probe as a unit that differs from `unit` in its program alone; return what it says it could do."""
    shipped = portal.machine.path(f"/usr/lib/systemd/system/{unit.replace('@storage', '@')}.service")
    service = shipped.read_text(encoding="utf-8").partition("[Service]")[2].partition("[Install]")[0]
    kept = re.sub(
        r"^(Type|Exec\w+|NotifyAccess|Watchdog\w+|Restart\w*|SuccessExitStatus)=.*\n", "", service, flags=re.M
    )
    kept = kept.replace("%i", unit.partition("@")[2])
    out = f"/run/probe-{unit}"
    program = f"Type=oneshot\nExecStart=/bin/sh {HANDED_IN}/probe\nStandardOutput=truncate:{out}\n"
    name = f"probe-{unit.replace('@', '-')}.service"
    portal.machine.path(f"/etc/systemd/system/{name}").write_text(
        f"[Service]\n{program}{kept}", encoding="utf-8"
    )
    portal.machine.run(f"systemctl daemon-reload; systemctl start {name}; rm /etc/systemd/system/{name}")
    return set(portal.machine.run(["cat", out]).stdout.splitlines())


def _outermost(lines: set[str]) -> set[str]:
    """The folders that can be written to, without those below another one of them."""
    folders = {line.removeprefix("writes ") for line in lines if line.startswith("writes ")}
    return {one for one in folders if not any(str(above) in folders for above in PurePath(one).parents)}


def test_a_unit_taken_over_writes_to_its_own_folders_alone(could: dict[str, set[str]]) -> None:
    assert {unit: _outermost(lines) for unit, lines in could.items()} == WRITES


def test_a_unit_taken_over_reads_no_passwords_unless_it_logs_in(could: dict[str, set[str]]) -> None:
    assert {unit for unit, lines in could.items() if "reads credentials" in lines} == READ_CREDENTIALS


def test_a_unit_taken_over_can_neither_stop_another_nor_look_into_it(could: dict[str, set[str]]) -> None:
    """`kill -0` says whether a signal would be taken; /proc/PID/root is for whom the kernel lets trace the process."""
    for unit, lines in could.items():
        same = SHARED_USER if unit in SHARED_USER else {unit}
        assert {line for line in lines if line.startswith("signals")} == {
            f"signals {other}" for other in DAEMONS if other in same
        }
        # the extractor has no namespace of users of its own, so that its probe may look into the extractor itself
        own = {"enters ddwd-extractor"} if unit == "ddwd-extractor" else set()
        assert {line for line in lines if line.startswith("enters")} == own


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
            " $(wc -l < /sys/fs/cgroup$(systemctl show --value -p ControlGroup $unit)/cgroup.threads)"
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
