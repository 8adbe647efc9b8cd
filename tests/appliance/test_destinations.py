"""Studies reach other destinations too, by DICOMweb over HTTPS and by DIMSE: every image, over whatever breaks, and none waits for another."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests import certificates
from tests.appliance.conftest import SETTINGS
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.appliance.conftest import Portal
    from tests.studies import Study

FOLDER = "/srv/teaching"
HTTP_PORT, HTTPS_PORT, PACS_PORT = 8742, 8743, 11197
PASSWORD = "never-shown-4711"  # noqa: S105 - made up
ORTHANC = {
    "Name": "TEACHING",
    "HttpPort": HTTP_PORT,
    "DicomServerEnabled": False,
    "StorageDirectory": FOLDER,
    "IndexDirectory": FOLDER,
    "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
    "RegisteredUsers": {"ddwd": PASSWORD},
    "Warnings": {"W001_TagsBeingReadFromStorage": False},
}
TLS = f"""
foreground = yes
pid =
[teaching]
accept = 127.0.0.1:{HTTPS_PORT}
connect = 127.0.0.1:{HTTP_PORT}
cert = {FOLDER}/both.pem
"""
"""Orthanc 1.12.7 of Debian dies at its first request by HTTPS: stunnel stands before it."""
RULES = f"""
destinations:
  - {{name: teaching, url: "https://127.0.0.1:{HTTPS_PORT}/dicom-web", user: ddwd, password: {PASSWORD}, ca: {FOLDER}/ca.pem}}
  - {{name: pacs, aet: PACS, host: 10.99.0.2, port: {PACS_PORT}}}
routes:
  - {{name: elsewhere, when: {{PatientID: "ELSEWHERE*"}}, also: [teaching, pacs]}}
  - name: rest
"""


class Elsewhere:
    """Both destinations: Debian's Orthanc in the machine, DCMTK's storescp where the modality is."""

    def __init__(self, portal: Portal, folder: Path) -> None:
        self.portal = portal
        self._received = folder
        self._pacs: subprocess.Popen[bytes] | None = None
        machine = portal.machine
        place = machine.path(FOLDER)
        place.mkdir()
        made = certificates.own()
        (place / "ca.pem").write_bytes((made / "ca.pem").read_bytes())
        (place / "both.pem").write_bytes(
            (made / "storage.pem").read_bytes() + (made / "storage.key").read_bytes()
        )
        (place / "orthanc.json").write_text(json.dumps(ORTHANC), encoding="utf-8")
        (place / "tls.conf").write_text(TLS, encoding="utf-8")
        machine.run(f"chown -R orthanc:orthanc {FOLDER}")
        self.open_teaching()
        self.open_pacs()

    def open_teaching(self) -> None:
        """Start the one by DICOMweb."""
        for unit, *command in (
            ("teaching", "/usr/sbin/Orthanc", f"{FOLDER}/orthanc.json"),
            ("teaching-tls", "/usr/bin/stunnel4", f"{FOLDER}/tls.conf"),
        ):
            self.portal.machine.run(["systemd-run", "--collect", f"--unit={unit}", "--uid=orthanc", *command])
        self.portal.machine.wait_for(lambda: self._ask("/system"), limit=30, what="teaching does not answer")

    def close_teaching(self) -> None:
        """Stop it."""
        self.portal.machine.run("systemctl stop teaching teaching-tls")

    def open_pacs(self) -> None:
        """Start the one by DIMSE."""
        folder = f"/mnt{self._received}"
        command = ["storescp", "--aetitle", "PACS", "--output-directory", folder, str(PACS_PORT)]
        self._pacs = self.portal.modality.start(command).process

    def close_pacs(self) -> None:
        """Stop it."""
        if self._pacs is not None:
            self._pacs.send_signal(signal.SIGKILL)
            self._pacs.wait()
        self._pacs = None

    def at_teaching(self, study: Study) -> set[str]:
        """SOPInstanceUIDs that it has of the study."""
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study.uid}, "Expand": True}
        found = self._ask("/tools/find", json.dumps(query))
        return {one["MainDicomTags"]["SOPInstanceUID"] for one in found}

    def at_pacs(self, study: Study) -> set[str]:
        """The same of the other, by the names that storescp gives its files."""
        names = [path.name for path in self._received.iterdir()]
        return {
            one.sop_uid for one in study.instances if any(name.endswith(f".{one.sop_uid}") for name in names)
        }

    def _ask(self, path: str, body: str = "") -> Any:
        options = ["-d", body] if body else []
        url = f"http://127.0.0.1:{HTTP_PORT}{path}"
        said = self.portal.machine.run(
            ["curl", "-s", "-m", "10", "-u", f"ddwd:{PASSWORD}", *options, url], check=False
        )
        return json.loads(said.stdout) if said.stdout else None

    def told(self) -> dict[str, dict[str, Any]]:
        """`ddwd destinations list`."""
        said = self.portal.machine.run("ddwd destinations list --json", check=False).stdout
        return {row["name"]: row for row in json.loads(said)["destinations"]}

    def wait_served(self, study: Study, *names: str) -> None:
        """Wait until these have the whole study, and ddwd-courier knows."""
        uids = {one.sop_uid for one in study.instances}
        has = {"teaching": self.at_teaching, "pacs": self.at_pacs}
        for name in names:
            self.portal.machine.wait_for(
                lambda name=name: has[name](study) == uids and not self.told()[name]["studies"],  # type: ignore[misc]
                limit=60,
                what=f"{name} lacks images of {study.uid}",
            )


@pytest.fixture(scope="module")
def elsewhere(portal: Portal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """The portal with two destinations, and as it was afterwards."""
    machine = portal.machine
    both = Elsewhere(portal, tmp_path_factory.mktemp("pacs"))
    before = machine.path(SETTINGS).read_text(encoding="utf-8")
    try:
        portal.configure(RULES)
        portal.wait_active()
        machine.wait_for(
            lambda: machine.is_active("ddwd-courier"), limit=30, what="ddwd-courier is not active"
        )
        yield both
    finally:
        portal.configure(before)
        portal.wait_active()
        both.close_pacs()
        machine.run(f"systemctl stop teaching teaching-tls; rm -rf {FOLDER}", check=False)


def _made(folder: Path, slices: int, seed: int) -> Study:
    return made_up_ct(folder / str(seed), slices, seed=seed, patient_id=f"ELSEWHERE{seed}", size=32)


def test_without_destinations_the_unit_is_not_needed(portal: Portal) -> None:
    assert portal.machine.show("ddwd-courier", "Result") == "exec-condition"


def test_both_have_every_image_and_each_is_told_of(elsewhere: Elsewhere, tmp_path: Path) -> None:
    portal, study = elsewhere.portal, _made(tmp_path, 45, 9101)
    portal.deliver(study)
    elsewhere.wait_served(study, "teaching", "pacs")
    (traced,) = json.loads(portal.machine.run(f"ddwd trace --json {study.uid}").stdout)["studies"]
    hops = {hop["title"]: hop["images"] for hop in traced["hops"]}
    assert hops == {"ORTHANC1": 45, "ORTHANC2": 45, "disk": 45, "teaching": 45, "pacs": 45}
    audit = portal.machine.run("journalctl -t ddwd-audit -o cat DDWD_EVENT=delivered").stdout
    assert "45 images are at teaching" in audit
    assert "45 images are at pacs" in audit
    assert {row["state"] for row in elsewhere.told().values()} == {"ok"}


def test_a_study_of_another_rule_goes_nowhere_else(elsewhere: Elsewhere, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "rest", 3, seed=9102, patient_id="STAYS-HERE", size=32)
    elsewhere.portal.deliver(study)
    assert (elsewhere.at_teaching(study), elsewhere.at_pacs(study)) == (set(), set())


def test_one_that_is_away_delays_no_other_and_is_caught_up_with(elsewhere: Elsewhere, tmp_path: Path) -> None:
    portal, study = elsewhere.portal, _made(tmp_path, 30, 9103)
    elsewhere.close_teaching()
    portal.deliver(study)
    elsewhere.wait_served(study, "pacs")
    portal.machine.wait_for(
        lambda: elsewhere.told()["teaching"]["state"] == "away", limit=30, what="nobody sees that it is away"
    )
    waits = elsewhere.told()["teaching"]
    assert (waits["studies"], waits["images"]) == (1, 30)
    status = portal.machine.run("ddwd status", check=False)
    assert status.returncode == 1
    assert "teaching does not answer since" in status.stdout
    portal.machine.run("systemctl kill -s KILL ddwd-courier")
    elsewhere.open_teaching()
    elsewhere.wait_served(study, "teaching")


def test_late_images_and_a_gateway_that_dies_in_the_middle(elsewhere: Elsewhere, tmp_path: Path) -> None:
    portal, study = elsewhere.portal, _made(tmp_path, 40, 9104)
    elsewhere.close_pacs()
    portal.modality.dcmsend(*study.paths[:10])
    elsewhere.portal.machine.wait_for(
        lambda: elsewhere.told()["pacs"]["state"] == "away", limit=60, what="nobody sees that it is away"
    )
    portal.modality.dcmsend(*study.paths[10:])
    portal.machine.run("systemctl kill -s KILL ddwd-gateway")
    portal.wait_active()
    elsewhere.open_pacs()
    portal.machine.run("ddwd destinations retry")
    elsewhere.wait_served(study, "teaching", "pacs")
    portal.wait_complete(study)
    portal.assert_equal([study])


def test_its_password_is_shown_nowhere(elsewhere: Elsewhere) -> None:
    machine = elsewhere.portal.machine
    said = machine.run(
        "ddwd config show; ddwd destinations list; ddwd status; ddwd doctor", check=False
    ).stdout
    assert "teaching" in said
    assert PASSWORD not in said
    assert (
        machine.run(f"journalctl --no-pager -o verbose | grep -c {PASSWORD}", check=False).stdout.strip()
        == "0"
    )
    assert machine.run(f"grep -rl {PASSWORD} /var/lib/ddwd/state /run/ddwd/courier", check=False).stdout == ""
