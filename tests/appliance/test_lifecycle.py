"""The package's life on a machine of its own: upgrade, remove, install again, purge; the studies stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import OUTPUT_DIR, UNITS, Portal
from tests.machine import Machine
from tests.studies import Study, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def own(deb: Path) -> Iterator[Portal]:
    """A fresh machine of this file alone; the tests below go through one life in order."""
    with Machine() as machine:
        portal = Portal(machine, deb)
        portal.install()
        yield portal


@pytest.fixture(scope="module")
def study(own: Portal, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study that is on disk before anything happens to the package."""
    made = made_up_ct(tmp_path_factory.mktemp("ct"), 5, seed=50, size=64)
    own.deliver(made)
    return made


def test_an_upgrade_keeps_studies_settings_and_passwords(own: Portal, study: Study) -> None:
    with own.machine.path("/etc/default/ddwd").open("a", encoding="utf-8") as file:
        file.write("\nSTABLE_AGE=2\n")
    passwords = own.machine.path("/etc/ddwd/credentials.json").read_text(encoding="utf-8")
    own.install()
    own.assert_equal([study])
    assert "STABLE_AGE=2" in own.machine.path("/etc/default/ddwd").read_text(encoding="utf-8")
    assert own.machine.path("/etc/ddwd/credentials.json").read_text(encoding="utf-8") == passwords
    assert len(own.machine.rest("storage", "/studies")) == 1


def test_after_remove_studies_stay_and_debians_orthanc_works_again(own: Portal, study: Study) -> None:
    own.machine.run(["apt-get", "remove", "-y", "ddwd"])
    own.assert_equal([study])
    assert not any(own.machine.is_active(unit) for unit in UNITS)
    assert own.machine.run("ip route show table all proto 221").stdout == ""
    own.machine.run(["systemctl", "start", "orthanc"])
    own.machine.wait_for(
        lambda: own.machine.http_status("gateway"), limit=30, what="Debian's orthanc does not answer"
    )
    own.machine.run(["systemctl", "stop", "orthanc"])


def test_installed_again_it_takes_up_where_it_was(own: Portal, study: Study, tmp_path: Path) -> None:
    own.install()
    assert len(own.machine.rest("storage", "/studies")) == 1
    own.deliver(made_up_ct(tmp_path, 3, seed=51, size=64))
    own.assert_equal([study])


def test_purge_asks_nothing_keeps_studies_and_says_where_they_are(own: Portal, study: Study) -> None:
    said = own.machine.run(["sh", "-c", "apt-get purge -y ddwd 2>&1"]).stdout
    assert OUTPUT_DIR in said
    own.assert_equal([study])
    assert not own.machine.path("/etc/ddwd").exists()
    assert not own.machine.path("/usr/lib/ddwd").exists()


def test_installed_after_purge_it_works_anew(own: Portal, study: Study, tmp_path: Path) -> None:
    own.install()
    own.deliver(made_up_ct(tmp_path, 3, seed=52, size=64))
    own.assert_equal([study])
