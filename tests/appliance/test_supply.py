"""The bill of materials in the machine is that of the machine: the libraries that are there, and Debian's packages as the table has them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.readme import REPO

if TYPE_CHECKING:
    from tests.appliance.conftest import Portal

ADVISORIES = json.loads((REPO / "packaging" / "supply" / "advisories.json").read_text(encoding="utf-8"))


def test_the_bill_names_exactly_the_libraries_that_are_installed(portal: Portal) -> None:
    bill = json.loads(portal.machine.path("/usr/share/ddwd/sbom.cdx.json").read_text(encoding="utf-8"))
    named = {
        f"{one['name']}-{one['version']}" for one in bill["components"] if one["purl"].startswith("pkg:pypi/")
    }
    installed = portal.machine.path("/usr/lib/ddwd/vendor").glob("*.dist-info")
    assert {path.stem.replace("_", "-") for path in installed} == named


def test_the_example_programs_that_can_be_made_to_write_anywhere_are_not_there(portal: Portal) -> None:
    assert not portal.machine.path("/usr/lib/ddwd/vendor/pynetdicom/apps").exists()
    assert portal.machine.path("/usr/lib/ddwd/vendor/pynetdicom/ae.py").exists()


@pytest.mark.parametrize(("package", "known"), ADVISORIES["debian"].items())
def test_debians_packages_are_at_least_those_that_were_looked_up(
    portal: Portal, package: str, known: dict[str, str]
) -> None:
    installed = portal.machine.run(["dpkg-query", "-W", "-f", "${Version}", package]).stdout
    compared = portal.machine.run(
        ["dpkg", "--compare-versions", installed, "ge", known["version"]], check=False
    )
    assert compared.returncode == 0, (
        f"{package} {installed} is older than {known['version']} of advisories.json"
    )
