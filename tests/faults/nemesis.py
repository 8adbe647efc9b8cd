"""The faults: each breaks one thing in the booted machine, holds for a while, and heals what does not heal by itself.

The clock is stepped for our own daemons alone (libfaketime in a drop-in), the network is cut by nftables inside the machine,
the disk that fills up is OUTPUT_DIR's own (a tmpfs that the host lends, so that it outlives the machine's restarts).
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.appliance.conftest import DAEMONS, OUTPUT_DIR
from tests.machine.host import REPO

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.machine import Machine

    Fault = Callable[[Machine, random.Random], AbstractContextManager[None]]

STOPPED_SECONDS = 30
STARTED_SECONDS = 60
UNREACHABLE_SECONDS = (20, 150)
_CLUSTER = "17 main"
_PROXY = "/srv/swallow.py"
_PROXY_PORT = 18043
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
def kill_postgresql(machine: Machine, chance: random.Random) -> Iterator[None]:
    """kill -9 of the server and all its children."""
    machine.run(["pkill", "-KILL", "-u", "postgres"], check=False)
    time.sleep(chance.uniform(1, 10))
    yield
    machine.run(["systemctl", "restart", "postgresql@17-main"])


@contextmanager
def stop_postgresql(machine: Machine, chance: random.Random) -> Iterator[None]:
    """An immediate stop, which leaves recovery to the next start."""
    machine.run(f"pg_ctlcluster {_CLUSTER} stop -m immediate", check=False)
    time.sleep(chance.uniform(1, 20))
    yield
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
    machine.run(f"dd if=/dev/zero of={filler} bs=1M status=none", check=False)
    time.sleep(chance.uniform(5, 15))
    yield
    machine.run(["rm", "-f", filler])


@contextmanager
def swallowing_peer(machine: Machine, chance: random.Random) -> Iterator[None]:
    """STOW-RS reads the whole body and answers 503; everyone else reaches storage."""
    machine.copy_in(REPO / "tests" / "faults" / "swallow.py", _PROXY)
    machine.run(["systemd-run", "--unit=swallow", "--collect", "python3", _PROXY, str(_PROXY_PORT)])
    _nft(
        machine,
        "add chain inet faults nat { type nat hook output priority -100; }",
        f"add rule inet faults nat meta skuid ddwd-gateway tcp dport 8043 redirect to :{_PROXY_PORT}",
    )
    # connections that are kept alive would go past the rule
    machine.run("ss -K dst 127.0.0.1 dport = 8043", check=False)
    time.sleep(chance.uniform(5, 15))
    yield
    _nft_clear(machine)
    machine.run(["systemctl", "stop", "swallow"], check=False)


@contextmanager
def unreachable_storage(machine: Machine, chance: random.Random) -> Iterator[None]:
    """ORTHANC2 answers nobody, by HTTP or DICOM: packets vanish."""
    _nft(
        machine,
        "add chain inet faults input { type filter hook input priority 0; }",
        "add rule inet faults input tcp dport { 8043, 4243 } drop",
    )
    time.sleep(chance.uniform(*UNREACHABLE_SECONDS))
    yield
    _nft_clear(machine)


@contextmanager
def stepped_clock(machine: Machine, chance: random.Random) -> Iterator[None]:
    """The wall clock of our two Python daemons jumps by an hour and back."""
    rc = machine.path("/etc/ddwd-faketime")
    rc.write_text("+0\n", encoding="ascii")
    library = machine.run("ls /usr/lib/*/faketime/libfaketime.so.1").stdout.strip()
    folders = [machine.path(f"/etc/systemd/system/{unit}.service.d") for unit in DAEMONS[2:]]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "faketime.conf").write_text(_DROP_IN.format(library=library), encoding="ascii")
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "restart", *DAEMONS[2:]])
    for step in chance.sample(["+3600", "-3600", "+0"], 3):
        time.sleep(chance.uniform(2, 5))
        rc.write_text(f"{step}\n", encoding="ascii")
    yield
    for folder in folders:
        (folder / "faketime.conf").unlink()
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "restart", *DAEMONS[2:]])


def _nft(machine: Machine, *commands: str) -> None:
    machine.run(["nft", "-f", "-"], stdin="\n".join(("add table inet faults", *commands)) + "\n")


def _nft_clear(machine: Machine) -> None:
    machine.run(["nft", "delete", "table", "inet", "faults"], check=False)


FAULTS: dict[str, Fault] = {
    **{f"kill {unit}": _kill(unit) for unit in DAEMONS},
    "kill postgresql": kill_postgresql,
    **{f"stop {unit} for {STOPPED_SECONDS} s": _stop(unit) for unit in DAEMONS},
    "stop postgresql at once": stop_postgresql,
    "reboot": reboot,
    "crash": crash,
    "full output": full_output,
    "swallowing peer": swallowing_peer,
    "unreachable storage": unreachable_storage,
    "stepped clock": stepped_clock,
}
