"""The faults: each breaks one thing in the booted machine, holds for a while, and heals what does not heal by itself.

A fault that may fail to bite (a rule past which the traffic goes, a clock that nobody reads) waits for the sign that it did,
and raises MachineError where there is none: a round that broke nothing proves nothing.

The clock is stepped for our own daemons alone (libfaketime in a drop-in), the network is cut by nftables inside the machine,
the disk that fills up is OUTPUT_DIR's own (a tmpfs that the host lends, so that it outlives the machine's restarts).
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.appliance.conftest import CUSTODY, OUTPUT_DIR
from tests.machine.host import REPO, MachineError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.machine import Machine

    Fault = Callable[[Machine, random.Random], AbstractContextManager[None]]

STOPPED_SECONDS = 30
STARTED_SECONDS = 60
STOPPED_ALL_SECONDS = 150
"""What depends on a unit is stopped before it starts anew, and an Orthanc without its database takes its time."""
BITE_SECONDS = 90
UNREACHABLE_SECONDS = (20, 150)
_CLUSTER = "17 main"
_PROVISION = "ddwd-provision"
_HEARTBEATS = {"scp": "at", "extractor": "updated"}
"""Daemon: the key of its heart beat that says what time it thinks it is."""
_PROXY = "/srv/swallow.py"
_PROXY_PORT = 18043
_TOLERATED_HOURS = 0.25
_DROP_IN = """[Service]
Environment=LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE=/etc/ddwd-faketime FAKETIME_NO_CACHE=1 DONT_FAKE_MONOTONIC=1
"""


def _kill(unit: str) -> Fault:
    @contextmanager
    def fault(machine: Machine, chance: random.Random) -> Iterator[None]:
        for _ in range(chance.randint(1, 3)):
            machine.run(["systemctl", "kill", "--signal=KILL", unit], check=False)
            time.sleep(chance.uniform(0.2, 3))
        yield

    return fault


def _stop(unit: str) -> Fault:
    @contextmanager
    def fault(machine: Machine, _chance: random.Random) -> Iterator[None]:
        # 0 while the unit is between two starts: `kill -STOP 0` would stop the command that sends it
        machine.wait_for(
            lambda: machine.show(unit, "MainPID") != "0", limit=STARTED_SECONDS, what=f"{unit} has no process"
        )
        pid = machine.show(unit, "MainPID")
        machine.run(["kill", "-STOP", pid], check=False)
        time.sleep(STOPPED_SECONDS)
        yield
        machine.run(["kill", "-CONT", pid], check=False)  # the watchdog may have ended it meanwhile

    return fault


@contextmanager
def kill_provision(machine: Machine, _chance: random.Random) -> Iterator[None]:
    """Everything below the umbrella starts anew, and what renders its configuration is killed at work."""
    machine.run(["systemctl", "restart", "--no-block", _PROVISION])

    def killed() -> bool:
        pid = machine.show(_PROVISION, "MainPID")
        return pid != "0" and machine.run(["kill", "-KILL", pid], check=False).returncode == 0

    machine.wait_for(
        killed, limit=STOPPED_ALL_SECONDS, every=0.01, what=f"{_PROVISION} was not caught at work"
    )
    yield


@contextmanager
def kill_postgresql(machine: Machine, chance: random.Random) -> Iterator[None]:
    """kill -9 of the server and all its children."""
    machine.run(["pkill", "-KILL", "-u", "postgres"], check=False)
    try:
        time.sleep(chance.uniform(1, 10))
        yield
    finally:
        machine.run(["systemctl", "restart", "postgresql@17-main"])


@contextmanager
def stop_postgresql(machine: Machine, chance: random.Random) -> Iterator[None]:
    """An immediate stop, which leaves recovery to the next start."""
    machine.run(f"pg_ctlcluster {_CLUSTER} stop -m immediate", check=False)
    try:
        time.sleep(chance.uniform(1, 20))
        yield
    finally:
        machine.run(["systemctl", "restart", "postgresql@17-main"])


@contextmanager
def reboot(machine: Machine, _chance: random.Random) -> Iterator[None]:
    """Shut down in order and boot."""
    machine.reboot()
    yield


@contextmanager
def crash(machine: Machine, _chance: random.Random) -> Iterator[None]:
    """Every process of the machine is gone at one blow."""
    machine.crash()
    yield


@contextmanager
def full_output(machine: Machine, chance: random.Random) -> Iterator[None]:
    """OUTPUT_DIR's file system has not a byte left."""
    filler = f"{OUTPUT_DIR}/.filler"
    filled = machine.run(f"dd if=/dev/zero of={filler} bs=1M status=none", check=False)
    try:
        if "No space left" not in filled.stderr:
            msg = f"OUTPUT_DIR did not fill up: {filled.stderr}"
            raise MachineError(msg)
        time.sleep(chance.uniform(5, 15))
        yield
    finally:
        machine.run(["rm", "-f", filler])


@contextmanager
def swallowing_peer(machine: Machine, chance: random.Random) -> Iterator[None]:
    """STOW-RS reads the whole body and answers 503; everyone else reaches storage."""
    machine.copy_in(REPO / "tests" / "faults" / "swallow.py", _PROXY)
    machine.run(["systemd-run", "--unit=swallow", "--collect", "python3", _PROXY, str(_PROXY_PORT)])
    try:
        with _rules(
            machine,
            "swallow",
            "add chain inet swallow nat { type nat hook output priority -100; }",
            f"add rule inet swallow nat meta skuid ddwd-gateway tcp dport 8043 counter redirect to :{_PROXY_PORT}",
        ):
            # connections that are kept alive would go past the rule
            machine.run("ss -K dst 127.0.0.1 dport = 8043", check=False)
            time.sleep(chance.uniform(5, 15))
            bitten = _met_packets(machine, "swallow")
            yield
            if (
                not bitten
            ):  # with storage stopped as well, the gateway's next connection comes with the next image
                _await_packets(machine, "swallow")
    finally:
        machine.run(["systemctl", "stop", "swallow"], check=False)


@contextmanager
def unreachable_storage(machine: Machine, chance: random.Random) -> Iterator[None]:
    """ORTHANC2 answers nobody, by HTTP or DICOM: packets vanish."""
    with _rules(
        machine,
        "unreachable",
        "add chain inet unreachable input { type filter hook input priority 0; }",
        "add rule inet unreachable input tcp dport { 8043, 4243 } counter drop",
    ):
        _await_packets(machine, "unreachable")
        time.sleep(chance.uniform(*UNREACHABLE_SECONDS))
        yield


@contextmanager
def _rules(machine: Machine, table: str, *commands: str) -> Iterator[None]:
    """Rules of nftables in a table of their own, so that two faults at once do not heal one another."""
    machine.run(["nft", "-f", "-"], stdin="\n".join((f"add table inet {table}", *commands)) + "\n")
    try:
        yield
    finally:
        machine.run(["nft", "delete", "table", "inet", table], check=False)  # a reboot has taken it along


def _await_packets(machine: Machine, table: str) -> None:
    machine.wait_for(
        lambda: _met_packets(machine, table), limit=BITE_SECONDS, what=f"no packet met the rule of {table}"
    )


def _met_packets(machine: Machine, table: str) -> bool:
    """Tell whether the rule of a table has met a packet; a table that a reboot took along has not."""
    listing = machine.run(["nft", "list", "table", "inet", table], check=False).stdout
    return "counter packets" in listing and "counter packets 0 " not in listing


@contextmanager
def stepped_clock(machine: Machine, chance: random.Random) -> Iterator[None]:
    """The wall clock of our two Python daemons jumps by an hour and back."""
    rc = machine.path("/etc/ddwd-faketime")
    rc.write_text("+0\n", encoding="ascii")
    library = machine.run("ls /usr/lib/*/faketime/libfaketime.so.1").stdout.strip()
    folders = [machine.path(f"/etc/systemd/system/{unit}.service.d") for unit in CUSTODY[-2:]]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "faketime.conf").write_text(_DROP_IN.format(library=library), encoding="ascii")
        _restart_our_daemons(machine)
        for hours in chance.sample([1, -1], 2):
            rc.write_text(f"{hours * 3600:+}\n", encoding="ascii")
            _await_step(machine, hours)
            time.sleep(chance.uniform(1, 4))
        if chance.random() < 0.5:  # back to the true time under way, or at the next start
            rc.write_text("+0\n", encoding="ascii")
        yield
    finally:
        for folder in folders:
            (folder / "faketime.conf").unlink(missing_ok=True)
        _restart_our_daemons(machine)


def _restart_our_daemons(machine: Machine) -> None:
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "restart", *CUSTODY[-2:]])


def _await_step(machine: Machine, hours: int) -> None:
    """Wait until both daemons say that it is so many hours later than it is."""

    def off(daemon: str, key: str) -> float:
        answer = machine.run(["cat", f"/run/ddwd/{daemon}/status.json"], check=False).stdout
        says = json.loads(answer)[key] if answer else ""
        return (datetime.fromisoformat(says) - datetime.now(UTC)).total_seconds() / 3600 if says else 0.0

    def stepped() -> bool:
        return all(abs(off(*heartbeat) - hours) < _TOLERATED_HOURS for heartbeat in _HEARTBEATS.items())

    machine.wait_for(stepped, limit=BITE_SECONDS, what=f"the daemons' clocks did not step by {hours} h")


NEEDS_TRAFFIC = ("swallowing peer",)
FAULTS: dict[str, Fault] = {
    **{f"kill {unit}": _kill(unit) for unit in CUSTODY},
    f"kill {_PROVISION}": kill_provision,
    "kill postgresql": kill_postgresql,
    **{f"stop {unit} for {STOPPED_SECONDS} s": _stop(unit) for unit in CUSTODY},
    "stop postgresql at once": stop_postgresql,
    "reboot": reboot,
    "crash": crash,
    "full output": full_output,
    "swallowing peer": swallowing_peer,
    "unreachable storage": unreachable_storage,
    "stepped clock": stepped_clock,
}
