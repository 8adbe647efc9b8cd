"""The door of both Orthancs: other content under a known UID is kept, and without room the modality keeps its images."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pydicom
import pytest

from tests.machine.machine import HTTP_PORTS
from tests.problems import causes
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.appliance.conftest import Portal
    from tests.studies import Study

CONFLICTS = "/var/lib/ddwd/conflicts"
RENDERED = "/run/ddwd/orthanc/gateway/00-ddwd.json"
REFUSED = "Refused: OutOfResources"


def corrected(study: Study, folder: Path, patient_name: str = "Corrected^Name") -> Path:
    """The first image of a study again, with the same UIDs and another name in it."""
    folder.mkdir()
    data_set = pydicom.dcmread(study.paths[0])
    data_set.PatientName = patient_name
    data_set.save_as(folder / "corrected.dcm", enforce_file_format=True)
    return folder / "corrected.dcm"


def kept_aside(portal: Portal) -> list[str]:
    """Names of the files in quarantine that hold an object the doors put aside, once all of those are judged."""
    await_judged(portal)
    found = portal.machine.run(
        "find /var/lib/ddwd/quarantine -ignore_readdir_race -name '*.dcm' -newer /srv/began | sort"
    )
    return found.stdout.split()


def await_judged(portal: Portal) -> None:
    """Wait until the extractor has taken away what the doors put aside."""
    portal.machine.wait_for(
        lambda: not portal.machine.run(f"find {CONFLICTS} -ignore_readdir_race -name '*.dcm'").stdout,
        limit=60,
        what="what was put aside is not judged",
    )


@pytest.fixture
def began(portal: Portal) -> None:
    """Note the time, so that a test sees only what was put aside since."""
    await_judged(portal)
    portal.machine.run("touch /srv/began; sleep 0.05")


@pytest.fixture
def reconfigure(portal: Portal) -> Iterator[Callable[..., None]]:
    """Change what the gateway's door is told and restart it; put back as it was afterwards."""
    before = portal.machine.run(["cat", RENDERED]).stdout

    def change(**values: Any) -> None:
        tree = json.loads(before)
        tree["Ddwd"] |= values
        restart(json.dumps(tree))

    def restart(text: str) -> None:
        portal.machine.run(f"cat > {RENDERED} && systemctl restart ddwd-gateway", stdin=text)
        portal.wait_active()

    yield change
    restart(before)


def answer(portal: Portal, path: Path) -> str:
    """What storescu says the gateway answered."""
    said = portal.modality.run(portal.modality.storescu_argv(path), check=False).stdout
    return next(line.rpartition("(")[2].rstrip(")") for line in said.splitlines() if "Store Response" in line)


@pytest.mark.usefixtures("began")
def test_a_corrected_image_under_the_same_uid_changes_nothing_on_disk_and_is_kept(
    portal: Portal, tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path / "ct", 3, seed=80, size=64)
    portal.deliver(study)
    other = corrected(study, tmp_path / "other")
    portal.modality.dcmsend(other)
    (kept,) = kept_aside(portal)
    assert pydicom.dcmread(portal.machine.path(kept)).PatientName == "Corrected^Name"
    for _ in range(3):
        portal.modality.dcmsend(other)
        portal.send(study)
    assert len(kept_aside(portal)) == 1
    portal.assert_equal([study])


@pytest.mark.usefixtures("began")
def test_ten_resends_put_nothing_aside(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 3, seed=81, size=64)
    portal.deliver(study)
    for _ in range(10):
        portal.send(study)
    assert kept_aside(portal) == []
    portal.assert_equal([study])


@pytest.mark.usefixtures("began")
def test_a_corrected_image_by_stow_or_rest_is_kept_too(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 1, seed=82, size=64)
    portal.deliver(study)
    portal.machine.copy_in(corrected(study, tmp_path / "other"), "/srv/other.dcm")
    for node, port in (("gateway", 8042), ("storage", 8043)):
        login = portal.machine.credentials(node)
        portal.machine.run(
            f"curl -s --fail -u '{login}' --data-binary @/srv/other.dcm http://127.0.0.1:{port}/instances"
        )
    assert kept_aside(portal) != []
    portal.assert_equal([study])


@pytest.mark.usefixtures("began")
def test_the_same_uids_under_two_patient_ids_are_two_studies(portal: Portal, tmp_path: Path) -> None:
    first = made_up_ct(tmp_path / "a", 3, seed=83, size=64, patient_id="DOOR-A")
    second = made_up_ct(tmp_path / "b", 3, seed=83, size=64, patient_id="DOOR-B")
    portal.send(first, second)
    for patient in ("DOOR-A", "DOOR-B"):
        _wait_for_files(portal, portal.output / patient / first.uid, 3)
    assert kept_aside(portal) == []
    machine = portal.machine
    machine.wait_for(lambda: _undecided(portal, first), limit=60, what="nobody is asked about two patients")
    (entry,) = _undecided(portal, first)
    assert any("the UID of another patient's study" in line for line in _wrong(portal))
    told = machine.run(f"journalctl -t ddwd-audit -o json DDWD_EVENT=two-patients DDWD_ENTRY={entry}").stdout
    assert first.uid in told
    assert "DOOR-" not in told
    machine.run(["ddwd", "quarantine", "release", entry])
    machine.wait_for(lambda: not _undecided(portal, first), limit=60, what="the decision is not recorded")
    assert not any("the UID of another patient's study" in line for line in _wrong(portal))
    assert machine.run(f"journalctl -t ddwd-audit -o json DDWD_EVENT=released DDWD_ENTRY={entry}").stdout


def _undecided(portal: Portal, study: Study) -> list[str]:
    listed = portal.machine.run(["ddwd", "quarantine", "list", "--json"]).stdout
    entries = json.loads(listed)["entries"]
    return [one["id"] for one in entries if (one["kind"], one["study_uid"]) == ("two-patients", study.uid)]


def _wrong(portal: Portal) -> list[str]:
    return causes(json.loads(portal.machine.run(["ddwd", "status", "--json"], check=False).stdout))


def _wait_for_files(portal: Portal, folder: Path, count: int) -> None:
    portal.machine.wait_for(
        lambda: len(list(folder.rglob("*.dcm"))) == count, limit=60, what=f"{folder} is not complete"
    )


def test_without_the_reserve_the_modality_keeps_its_images(
    portal: Portal, tmp_path: Path, reconfigure: Callable[..., None]
) -> None:
    study = made_up_ct(tmp_path / "ct", 1, seed=84, size=64)
    portal.machine.run(
        "mkdir -p /srv/small && mount -t tmpfs -o size=4m tmpfs /srv/small && chmod 755 /srv /srv/small"
    )
    try:
        reconfigure(Volumes=["/srv/small"])
        portal.machine.run("fallocate -l 4000K /srv/small/full")
        assert answer(portal, study.paths[0]) == REFUSED
        refused = "journalctl -t ddwd-audit DDWD_EVENT=image-refused -o cat --no-pager"
        portal.machine.wait_for(
            lambda: "less free space than disk.reserve" in portal.machine.run(refused, check=False).stdout,
            limit=30,
            what="the audit does not have the reason",
        )
        portal.machine.run("rm /srv/small/full")
        assert answer(portal, study.paths[0]) == "Success"
    finally:
        portal.machine.run("umount /srv/small", check=False)
    portal.deliver(study)


@pytest.mark.usefixtures("began")
def test_what_cannot_be_kept_aside_is_not_acknowledged(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 1, seed=85, size=64)
    portal.deliver(study)
    other = corrected(study, tmp_path / "other")
    portal.machine.run(f"chmod 0550 {CONFLICTS}/gateway")
    try:
        assert answer(portal, other) == REFUSED
        assert kept_aside(portal) == []
    finally:
        portal.machine.run(f"chmod 0770 {CONFLICTS}/gateway")
    assert answer(portal, other) == "Success"
    assert len(kept_aside(portal)) == 1
    assert portal.machine.is_active("ddwd-gateway")


def lose_file(portal: Portal, node: str, instance: str) -> None:
    """Remove the stored file of one instance, as a database killed in mid-commit makes Orthanc do; its row stays."""
    uuid = portal.machine.rest(node, f"/instances/{instance}/attachments/dicom/info")["Uuid"]
    portal.machine.path(f"/var/lib/ddwd/{node}/{uuid[:2]}/{uuid[2:4]}/{uuid}").unlink()


def whole(portal: Portal, node: str, instance: str) -> bool:
    """Orthanc reads the file and compares its MD5."""
    login = portal.machine.credentials(node)
    url = f"http://127.0.0.1:{HTTP_PORTS[node]}/instances/{instance}/attachments/dicom/verify-md5"
    return (
        portal.machine.run(["curl", "-s", "--fail", "-u", login, "-d", "", url], check=False).returncode == 0
    )


@pytest.mark.usefixtures("began")
def test_an_object_whose_file_the_gateway_lost_is_stored_anew_when_it_comes_again(
    portal: Portal, tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path / "ct", 2, seed=86, size=64)
    portal.deliver(study)
    (instance,) = orthanc_instances(portal, "gateway", study.instances[0].sop_uid)
    lose_file(portal, "gateway", instance)
    assert not whole(portal, "gateway", instance)
    assert answer(portal, study.paths[0]) == "Success"
    assert whole(portal, "gateway", instance)
    portal.assert_equal([study])


def test_an_image_whose_file_storage_lost_is_sent_again_by_the_gateway(
    portal: Portal, tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path / "ct", 3, seed=87, size=64)
    portal.machine.run(["systemctl", "stop", "ddwd-extractor"])
    portal.send(study)
    portal.machine.wait_for(
        lambda: all(orthanc_instances(portal, "storage", one.sop_uid) for one in study.instances),
        limit=60,
        what="the study is not on storage",
    )
    (instance,) = orthanc_instances(portal, "storage", study.instances[0].sop_uid)
    lose_file(portal, "storage", instance)
    # Orthanc would still serve it from memory
    portal.machine.run(["systemctl", "restart", "ddwd-storage"])
    portal.machine.run(["systemctl", "start", "ddwd-extractor"])
    portal.wait_complete(study)
    portal.assert_equal([study])
    assert whole(portal, "storage", instance)


def orthanc_instances(portal: Portal, node: str, sop_uid: str) -> list[str]:
    """The Orthanc IDs under which a SOPInstanceUID is stored."""
    rows = portal.machine.rest(node, "/tools/lookup", method="POST", body=sop_uid)
    return [row["ID"] for row in rows if row["Type"] == "Instance"]
