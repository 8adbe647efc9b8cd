"""The support bundle in the booted machine: it holds what helps, and after deliveries nothing of the patient and no secret."""

from __future__ import annotations

import gzip
import json
import secrets
import stat
import tarfile
from typing import TYPE_CHECKING, Any

import pydicom
import pytest

from tests.appliance.conftest import SETTINGS, UNITS
from tests.machine.machine import INBOX
from tests.studies import Study, made_up_ct, read_studies

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.appliance.conftest import Portal

PATIENT = {
    "PatientName": "QBNAMETOKEN^MADEUP",
    "PatientID": "QBPIDTOKEN/7",
    "AccessionNumber": "QBACCTOKEN",
    "PatientBirthDate": "19010203",
    "ReferringPhysicianName": "QBREFTOKEN^MADEUP",
    "StudyDescription": "QBDESCTOKEN",
}
TOKENS = {name: value.partition("^")[0].partition("/")[0] for name, value in PATIENT.items()}
ADDITION = {"HttpTimeout": 61, "OrthancPeers": {"far": ["http://127.0.0.1:9/", "someone", "{peer}"]}}
PLANTED = "/usr/bin/sh -c 'echo planted of QBPIDTOKEN/7; echo QBNAMETOKEN^MADEUP; echo {out}/QBPIDTOKEN%%2F7/1.2/3.dcm; echo {peer}; exec sleep 600'"
NAMES = {
    *("MANIFEST.json", "settings.json", "orthanc/gateway.d/peer.json", "status.json", "doctor.json", "units.txt", "versions.txt"),
    *("counts.json", "disks.txt", "memory.txt", "network.txt", "clock.txt", "certificates.json", "journal/audit.log"),
    *(f"journal/{unit}.service.log" for unit in UNITS),
}  # fmt: skip


class Bundle:
    """A bundle on the host, taken apart."""

    def __init__(self, portal: Portal, path: str) -> None:
        self.packed = portal.machine.path(path).read_bytes()
        with tarfile.open(portal.machine.path(path)) as tar:
            members = [one for one in tar if one.isfile()]
            self.files = {
                one.name.partition("/")[2]: file.read() for one in members if (file := tar.extractfile(one))
            }

    def json(self, name: str) -> Any:
        """One of its files."""
        return json.loads(self.files[name])

    def found(self, texts: Mapping[str, str]) -> list[str]:
        """The places in which one of the texts is, in the name or the content of a file or in the unpacked whole."""
        places = {**self.files, **{f"name {name}": name.encode() for name in self.files}}
        places["the archive"] = gzip.decompress(self.packed)
        return [f"{place}: {name}" for place, content in places.items() for name, text in texts.items() if text.encode() in content]  # fmt: skip


def _of_patient(folder: Path, seed: int) -> Study:
    for path in made_up_ct(folder, 3, seed=seed, size=32).paths:
        image = pydicom.dcmread(path)
        for keyword, value in PATIENT.items():
            setattr(image, keyword, value)
        image.save_as(path)
    (study,) = read_studies(sorted(folder.iterdir()))
    return study


@pytest.fixture(scope="module")
def words() -> dict[str, str]:
    """The secrets that are set."""
    return {name: f"{name}-{secrets.token_hex(12)}" for name in ("webhook", "mail", "peer")}


@pytest.fixture(scope="module")
def study(portal: Portal, words: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Delivered, and sent again with other content; with every kind of secret set, and a unit that prints what it should not."""
    settings = portal.machine.path(SETTINGS)
    before = settings.read_text(encoding="utf-8")
    changed = before.replace("  webhook:\n", f"  webhook: http://127.0.0.1:9/hook/{words['webhook']}\n")
    changed = changed.replace("  server:\n", "  server: 127.0.0.1\n").replace(
        "  tls: starttls\n", "  tls: none\n"
    )
    changed = changed.replace("  # Its password.\n  password:\n", f"  password: {words['mail']}\n")
    changed = changed.replace("  patient_id: false\n", "  patient_id: true\n")
    settings.write_text(changed, encoding="utf-8")
    addition = portal.machine.path("/etc/ddwd/orthanc/gateway.d/peer.json")
    addition.write_text(json.dumps(ADDITION).replace("{peer}", words["peer"]), encoding="utf-8")
    portal.machine.run(["ddwd", "tls", "init"])
    portal.machine.run(["systemctl", "restart", "ddwd"])
    portal.wait_active()
    good, again = (_of_patient(tmp_path_factory.mktemp(name) / "ct", 981) for name in ("good", "again"))
    portal.deliver(good)
    for path in again.paths:
        image = pydicom.dcmread(path)
        image.PixelData = bytes(len(image.PixelData))
        image.save_as(path)
    portal.modality.dcmsend(*again.paths, check=False)
    command = PLANTED.format(out="/var/lib/ddwd/received_dicom", peer=words["peer"])
    portal.machine.run(f"systemd-run --quiet --unit=ddwd-planted {command}")
    portal.machine.run("journalctl --sync")
    yield good
    portal.machine.run("systemctl stop ddwd-planted")
    settings.write_text(before, encoding="utf-8")
    addition.unlink()
    portal.machine.run(["systemctl", "restart", "ddwd"])
    portal.wait_active()


@pytest.fixture(scope="module")
def made(portal: Portal, study: Study) -> Bundle:
    """A bundle made by root."""
    assert study.instances
    said = json.loads(portal.machine.run(f"cd {INBOX} && ddwd support-bundle --json").stdout)
    assert said["file"].startswith(f"{INBOX}/ddwd-support-ddwd-")
    assert said["not_collected"] == []
    return Bundle(portal, said["file"])


def test_it_holds_each_named_part(made: Bundle) -> None:
    assert set(made.files) >= NAMES
    listed = {row["file"] for row in made.json("MANIFEST.json")["files"]}
    assert listed == set(made.files) - {"MANIFEST.json"}
    assert b"ii  orthanc " in made.files["versions.txt"]
    assert b"ActiveState=active" in made.files["units.txt"]
    assert b":4242" in made.files["network.txt"]
    assert {one["role"] for one in made.json("certificates.json")} >= {"gateway", "senders-ca"}
    assert made.json("counts.json")["custody"]["records"] >= 1
    assert made.json("status.json")["servers"][0]["version"]


def test_the_search_finds_what_is_in_it(made: Bundle, study: Study) -> None:
    found = made.found({"uid": study.uid, "unit": "planted of"})
    assert {"journal/audit.log: uid", "journal/ddwd-planted.service.log: unit", "the archive: unit"} <= set(
        found
    )


def test_nothing_of_the_patient_is_in_it(portal: Portal, made: Bundle) -> None:
    assert made.found(TOKENS) == []
    trail = portal.machine.run("journalctl -t ddwd-audit -o export").stdout
    assert "DDWD_PATIENT_ID=QBPIDTOKEN/7" in trail  # it was there to be left out
    assert "DDWD_ACCESSION=QBACCTOKEN" in trail
    planted = made.files["journal/ddwd-planted.service.log"].decode()
    assert [line.partition(": ")[2] for line in planted.splitlines()[-4:]] == [
        "planted of (patient)",
        "(name)",
        "OUTPUT_DIR/(left out)",
        "(hidden)",
    ]


def test_no_secret_is_in_it(portal: Portal, made: Bundle, words: dict[str, str]) -> None:
    logins = json.loads(portal.machine.path("/etc/ddwd/credentials.json").read_text(encoding="utf-8"))
    known = words | {f"{node} {user}": word for node, users in logins.items() for user, word in users.items()}
    assert made.found(known | {"a private key": "PRIVATE KEY-----"}) == []
    shown = made.json("settings.json")["settings"]
    assert shown["mail.password"]["value"] == shown["alerts.webhook"]["value"] == "(hidden)"
    assert made.json("orthanc/gateway.d/peer.json")["HttpTimeout"] == 61


@pytest.mark.usefixtures("study")
def test_it_comes_while_the_portal_is_stopped_and_its_settings_are_wrong(
    portal: Portal, words: dict[str, str]
) -> None:
    settings = portal.machine.path(SETTINGS)
    sound = settings.read_text(encoding="utf-8")
    portal.machine.run(["systemctl", "stop", "ddwd"])
    settings.write_text(sound + "nonsense: 1\n", encoding="utf-8")
    try:
        path = f"{INBOX}/stopped.tar.gz"
        said = portal.machine.run(["ddwd", "support-bundle", "--output", path])
        again = portal.machine.run(["ddwd", "support-bundle", "--output", path], check=False)
    finally:
        settings.write_text(sound, encoding="utf-8")
        portal.machine.run(["systemctl", "start", "ddwd"])
        portal.wait_active()
    assert said.stderr == ""
    assert said.stdout.startswith(f"{path} (")
    assert (again.returncode, len(again.stderr.splitlines())) == (65, 1)
    stopped = Bundle(portal, path)
    assert "nonsense" in stopped.json("settings.json")["problems"][0]
    assert stopped.found(TOKENS | words) == []
    assert b"ActiveState=inactive" in stopped.files["units.txt"]
    assert stat.S_IMODE(portal.machine.path(path).stat().st_mode) == 0o600


@pytest.mark.usefixtures("study")
def test_an_operator_gets_one_too_and_is_told_what_root_would_see(portal: Portal) -> None:
    portal.add_operator("helpdesk")
    said = portal.machine.run(["ddwd", "support-bundle", "--output", "/home/helpdesk"], user="helpdesk")
    (path,) = portal.machine.path("/home/helpdesk").glob("ddwd-support-*.tar.gz")
    bundle = Bundle(portal, f"/home/helpdesk/{path.name}")
    assert bundle.json("status.json")["units"]
    assert bundle.found(TOKENS) == []
    missed = {row["file"] for row in bundle.json("MANIFEST.json")["not_collected"]}
    assert {
        line.split(": ")[1] for line in said.stdout.splitlines() if line.startswith("not collected: ")
    } == missed
