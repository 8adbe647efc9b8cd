"""The bill of materials names what is in the .deb, the same each time; `make audit` fails on what is known against it and not accepted."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
import zipfile
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from tests.readme import REPO

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def _load(name: str) -> ModuleType:
    """A program of packaging/supply, which is no package."""
    spec = importlib.util.spec_from_file_location(
        f"supply_{name}", REPO / "packaging" / "supply" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


sbom, audit = _load("sbom"), _load("audit")
CARRIED: dict[str, Any] = json.loads((REPO / "packaging" / "supply" / "advisories.json").read_text())
TODAY = date.fromisoformat(CARRIED["checked"])
LIBRARY = "Name: Some_Library\nVersion: 1.2\nClassifier: License :: OSI Approved :: MIT License\nRequires-Dist: other>=1\n"
OTHER = (
    "Name: other\nVersion: 3.0\nLicense-Expression: BSD-2-Clause\nRequires-Dist: pytest; extra == 'test'\n"
)


def _wheel(folder: Path, name: str, version: str, metadata: str) -> str:
    """A wheel with nothing in it but what it says of itself; its SHA-256."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(zipfile.ZipInfo(f"{name}-{version}.dist-info/METADATA"), metadata)
    return str(sbom.read_wheel(path).digest)


@pytest.fixture
def lock(tmp_path: Path) -> str:
    """Two wheels in a folder, and the list that pins them."""
    digests = [
        _wheel(tmp_path / "wheels", "some_library", "1.2", LIBRARY),
        _wheel(tmp_path / "wheels", "other", "3.0", OTHER),
    ]
    pins = zip(("some-library==1.2", "other==3.0"), digests, strict=True)
    return "".join(
        f"{pin} \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{digest}\n" for pin, digest in pins
    )


@pytest.fixture
def bill(tmp_path: Path, lock: str) -> dict[str, Any]:
    assert lock
    found: dict[str, Any] = sbom.bill(tmp_path / "wheels", REPO / "packaging" / "debian")
    return found


# --- the bill of materials --------------------------------------------------------------------------------------------


def test_every_library_is_named_with_version_hash_licence_and_what_it_needs(
    bill: dict[str, Any], lock: str
) -> None:
    library = next(one for one in bill["components"] if one["name"] == "some-library")
    assert library["purl"] == "pkg:pypi/some-library@1.2"
    assert library["licenses"] == [{"license": {"id": "MIT"}}]
    assert library["hashes"][0]["content"] in lock
    assert {"ref": "pkg:pypi/some-library@1.2", "dependsOn": ["pkg:pypi/other@3.0"]} in bill["dependencies"]
    assert {"ref": "pkg:pypi/other@3.0", "dependsOn": []} in bill["dependencies"]


def test_every_package_that_the_deb_depends_on_is_named(bill: dict[str, Any]) -> None:
    control = (REPO / "packaging" / "debian" / "control").read_text()
    named = {
        one["name"]: one["scope"] for one in bill["components"] if one["purl"].startswith("pkg:deb/debian/")
    }
    assert {
        "orthanc",
        "orthanc-dicomweb",
        "orthanc-python",
        "postgresql",
        "python3",
        "systemd",
    } <= named.keys()
    assert {name for name, scope in named.items() if scope == "optional"} == {
        "nftables",
        "python3-psycopg",
        "stunnel4",
    }
    assert all(re.search(rf"^[ ,A-Za-z:]*\b{re.escape(name)}\b", control, re.MULTILINE) for name in named)


def test_the_same_sources_give_the_same_bill(bill: dict[str, Any], tmp_path: Path) -> None:
    assert sbom.bill(tmp_path / "wheels", REPO / "packaging" / "debian") == bill
    _wheel(tmp_path / "wheels", "other", "3.0", OTHER + "Summary: changed\n")
    assert (
        sbom.bill(tmp_path / "wheels", REPO / "packaging" / "debian")["serialNumber"] != bill["serialNumber"]
    )


def test_a_library_without_a_licence_stops_the_build(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bare-1\.0.*names no licence"):
        _wheel(tmp_path / "wheels", "bare", "1.0", "Name: bare\nVersion: 1.0\n")


# --- against the vendored list ----------------------------------------------------------------------------------------


def test_a_bill_that_names_what_is_pinned_is_sound(bill: dict[str, Any], lock: str) -> None:
    assert [one.level for one in audit.by_lock(bill, lock)] == ["ok"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda bill: bill["components"].pop(0),
        lambda bill: bill["components"][0].update(version="9.9"),
        lambda bill: bill["components"][0]["hashes"][0].update(content="f" * 64),
        lambda bill: bill["components"].append({"name": "sneaked", "purl": "pkg:pypi/sneaked@1", "version": "1", "hashes": [{"content": ""}]}),
    ],
    ids=["one missing", "another version", "another file", "one more"],
)  # fmt: skip
def test_a_bill_that_differs_from_the_vendored_list_fails(
    bill: dict[str, Any], lock: str, spoil: Any
) -> None:
    spoil(bill)
    assert [one.level for one in audit.by_lock(bill, lock)] == ["FAIL"]


# --- against advisories -----------------------------------------------------------------------------------------------


def _carried(*vendored: dict[str, str]) -> dict[str, Any]:
    return {"checked": CARRIED["checked"], "against": "a test", "vendored": list(vendored), "debian": {}}


@pytest.mark.parametrize(
    ("affected", "accepted", "level"),
    [("<1.2", None, None), (">=1.2,<2", None, "FAIL"), (">=1.2,<2", "nobody calls it", "note")],
)
def test_an_advisory_on_a_vendored_version_fails_unless_it_is_accepted_with_a_reason(
    bill: dict[str, Any], affected: str, accepted: str | None, level: str | None
) -> None:
    known = {"id": "CVE-0", "package": "some-library", "affected": affected, "what": "made up"}
    known |= {"accepted": accepted} if accepted else {}
    found = audit.by_carried(bill, _carried(known), TODAY)
    assert [one.level for one in found[1:]] == ([level] if level else [])


def test_how_old_the_carried_advisories_are_is_said(bill: dict[str, Any]) -> None:
    fresh, old = (
        audit.by_carried(bill, _carried(), date.fromordinal(TODAY.toordinal() + days))[0] for days in (3, 61)
    )
    assert (fresh.level, "3 days old" in fresh.text) == ("ok", True)
    assert (old.level, "61 days old" in old.text) == ("note", True)


def test_an_open_advisory_of_debians_must_say_what_shields_from_it() -> None:
    carried = copy.deepcopy(CARRIED)
    assert "FAIL" not in {one.level for one in audit.by_debian(carried)}
    del carried["debian"]["orthanc"]["advisories"][0]["shield"]
    assert [one.text for one in audit.by_debian(carried) if one.level == "FAIL"] == [
        "says not what shields from CVE-2026-10528"
    ]


def test_what_a_service_knows_fails_unless_it_is_accepted_and_what_it_was_not_asked_is_not_taken_for_sound() -> (
    None
):
    known = {"name": "some-library", "version": "1.2", "vulns": [{"id": "PYSEC-0", "aliases": ["CVE-0"]}]}
    assert [one.level for one in audit.answers([known], set())] == ["FAIL"]
    assert [one.level for one in audit.answers([known], {"CVE-0"})] == ["note"]
    assert [one.level for one in audit.answers([known | {"vulns": []}], set())] == ["ok"]
    assert [one.level for one in audit.answers([{"name": "other", "skip_reason": "not found"}], set())] == [
        "FAIL"
    ]


def test_the_carried_advisories_are_on_parts_that_there_are() -> None:
    pinned = (REPO / "packaging" / "vendor.lock").read_text()
    assert {one["package"] for one in CARRIED["vendored"]} <= set(
        re.findall(r"^([a-z0-9-]+)==", pinned, re.MULTILINE)
    )


def test_the_table_names_every_open_advisory_with_what_shields_from_it() -> None:
    table = audit.table(CARRIED)
    for known in CARRIED["debian"].values():
        for one in known["advisories"]:
            assert one["id"] in table
            assert one.get("shield", "") in table
