"""One machine with the .deb installed for all tests that leave it as it was; the lifecycle tests boot their own."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import Machine, ensure_installed
from tests.machine.__main__ import newest_deb
from tests.machine.host import MachineError
from tests.machine.machine import HTTP_PORTS
from tests.studies import Study, faults, is_complete

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CUSTODY = ("ddwd-acceptor", "ddwd-gateway", "ddwd-storage", "ddwd-scp", "ddwd-extractor")
"""The daemons that images pass through."""
DAEMONS = (*CUSTODY, "ddwd-signer", "ddwd-monitor", "ddwd-inbox")
UNITS = ("ddwd", *DAEMONS)
SETTINGS = "/etc/ddwd/ddwd.yaml"
OUTPUT_DIR = "/var/lib/ddwd/received_dicom"
COMPLETE_LIMIT = 60.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder; its limit is generous, since no test here is about speed."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.appliance)
            item.add_marker(pytest.mark.timeout(300, func_only=True))


class Portal:
    """A machine with the portal in it, and the questions the tests ask of both."""

    def __init__(self, machine: Machine, deb: Path) -> None:
        self.machine = machine
        self.deb = deb
        self.modality = machine.modality
        self.active_after = 0.0
        self.apt_said = ""

    @property
    def output(self) -> Path:
        """OUTPUT_DIR as the host sees it."""
        return self.machine.path(OUTPUT_DIR)

    def install(self) -> str:
        """Install the package and wait until all units are active; note apt's output and how long the units took after it."""
        self.apt_said = self.machine.install(self.deb)
        self.active_after = self.wait_active()
        return self.apt_said

    def configure(self, settings: str) -> bool:
        """Check these settings (the whole ddwd.yaml) and restart with them; False where they are in force already."""
        path = self.machine.path(SETTINGS)
        if path.read_text(encoding="utf-8") == settings and self.machine.is_active(*UNITS):
            return False
        path.write_text(settings, encoding="utf-8")
        self.machine.run("ddwd config check && systemctl restart ddwd", timeout=300)
        return True

    def add_operator(self, name: str) -> None:
        """Have a user in group ddwd, whom the firewall admits; another module may have made them on a machine that is shared."""
        self.machine.run(f"id {name} 2>/dev/null || useradd --create-home --groups ddwd {name}")
        admitted = f"nft list chain inet ddwd output | grep -qw $(id -u {name})"
        self.machine.wait_for(
            lambda: self.machine.run(admitted, check=False).returncode == 0,
            limit=30,
            what=f"the firewall does not admit {name}",
        )

    def _units(self) -> list[str]:
        """Those of UNITS that the installed package has: an earlier release has fewer."""
        folder = self.machine.path("/usr/lib/systemd/system")
        return [unit for unit in UNITS if (folder / f"{unit}.service").exists()]

    def wait_active(self, limit: float = 60.0) -> float:
        """Wait until all units are active and the gateway answers a C-ECHO; return the seconds of the first."""
        took = self.machine.wait_for(
            lambda: self.machine.is_active(*self._units()), limit=limit, what="not all units active"
        )
        # an Orthanc is active, for systemd, a moment before it listens
        self.machine.wait_for(
            lambda: self.modality.echoscu("ORTHANC1", 4242, check=False),
            limit=limit,
            what="the gateway does not answer a C-ECHO",
        )
        self.machine.wait_for(
            lambda: self.machine.run(f"ss -Hltn sport = :{HTTP_PORTS['storage']}").stdout,
            limit=limit,
            what="storage does not listen",
        )
        return took

    def wait_complete(self, study: Study, limit: float = COMPLETE_LIMIT) -> float:
        """Wait until every image of a study is on disk; return the seconds it took."""
        try:
            return self.machine.wait_for(
                lambda: is_complete(study, self.output),
                limit=limit,
                what=f"study {study.uid} is not complete on disk",
            )
        except MachineError as error:
            told = self.machine.run(f"ddwd status; ddwd trace {study.uid}", check=False)
            raise MachineError(f"{error}\n{told.stdout}{told.stderr}") from None

    def send(self, *studies: Study) -> None:
        """Send with plain dcmsend; every image must be acknowledged."""
        self.modality.dcmsend(*(path for study in studies for path in study.paths))

    def deliver(self, *studies: Study, limit: float = COMPLETE_LIMIT) -> float:
        """Send, wait until all is on disk, compare each file with what was sent; return the seconds of the wait."""
        self.send(*studies)
        took = [self.wait_complete(study, limit) for study in studies]
        self.assert_equal(studies)
        return sum(took)

    def assert_equal(self, studies: Iterable[Study]) -> None:
        """Demand that what is on disk is exactly what was sent: none missing, doubled, extra or changed."""
        assert [line for study in studies for line in faults(study, self.output)] == []


@contextmanager
def installed(deb: Path, **options: Any) -> Iterator[Portal]:
    """A machine of its own with the portal installed and active; `options` are those of Machine."""
    with Machine(layer=ensure_installed(deb), **options) as machine:
        portal = Portal(machine, deb)
        portal.wait_active()
        yield portal


@pytest.fixture(scope="session")
def deb() -> Path:
    """The package `make deb` built."""
    if os.geteuid() != 0:
        pytest.fail(
            "the appliance tests boot a machine and need root: run `make test`, or this as root",
            pytrace=False,
        )
    return newest_deb()


@pytest.fixture(scope="session")
def portal(deb: Path) -> Iterator[Portal]:
    """The machine most tests share, with the portal installed and active."""
    with installed(deb) as shared:
        yield shared
