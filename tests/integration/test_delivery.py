"""The main job, on one machine in seconds: what is sent is on disk, all of it, unchanged, inside OUTPUT_DIR, once."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pydicom
import pytest
import requests

from tests.integration.trial import Trial, ddwd, wait_for
from tests.studies import Study, made_up_ct, published, read_studies, real_studies

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOSTILE = (
    "../../../../etc/evil", "..", ".", "/", "a/b", "a%2Fb", "", "   ", "-rf", ".ddwd", ".hidden", "x.", "X.",
    "ä" * 64, "患" * 64, "semi;$(reboot)`x`",
)  # fmt: skip


@pytest.fixture
def portal(quick: Trial) -> Trial:
    """Most tests here wait for a study to be complete; tests/integration/test_operator.py does with every setting at its default."""
    return quick


def test_a_study_sent_by_dcmsend_is_complete_on_disk_and_unchanged(portal: Trial, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path, 60, seed=10, size=128)
    portal.dcmsend(study.paths)
    portal.wait_complete(study)


def test_the_path_is_patient_study_series_instance(portal: Trial, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path, 1, seed=11, patient_id="ORDINARY-1", size=16)
    portal.send(study.paths)
    portal.wait_complete(study)
    assert (portal.output / f"ORDINARY-1/{study.uid}/{study.uid}.1/{study.uid}.1.1.dcm").is_file()


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_real_studies_of_every_kind_arrive_with_all_elements_and_pixel_data(portal: Trial) -> None:
    studies = real_studies(wider=True)
    instances = [instance for study in studies for instance in study.instances]
    assert len({one.sop_class for one in instances}) >= 10
    assert len({one.transfer_syntax for one in instances}) >= 8
    portal.send([one.path for one in instances])
    portal.wait_complete(*studies)


def test_the_same_study_again_changes_nothing_on_disk(portal: Trial, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 3, seed=12, size=16)
    portal.send(study.paths)
    portal.wait_complete(study)
    before = _listing(portal, study)
    portal.send(study.paths)
    later = made_up_ct(tmp_path / "next", 1, seed=13, size=16)
    portal.send(later.paths)
    portal.wait_complete(later)
    assert _listing(portal, study) == before


def test_the_same_study_under_another_patient_id_is_published_too_and_named_until_somebody_decides(
    portal: Trial, tmp_path: Path
) -> None:
    first = made_up_ct(tmp_path / "first", 2, seed=117, patient_id="WRONG-1", size=16)
    again = made_up_ct(tmp_path / "again", 2, seed=117, patient_id="RIGHT-1", size=16)
    assert first.uid == again.uid
    portal.send(first.paths)
    portal.wait_complete(first)
    portal.send(again.paths)
    wait_for(lambda: _two_patients(portal, first), "nobody noticed the second patient")
    (entry,) = _two_patients(portal, first)
    for study, patient in ((first, "WRONG-1"), (again, "RIGHT-1")):
        folder = portal.output / patient / study.uid
        assert len(list(folder.rglob("*.dcm"))) == len(study.paths)
    asked = ddwd(portal.folder, "quarantine", "release", entry["id"])
    assert (asked.returncode, "both studies stay" in asked.stdout) == (0, True)
    wait_for(lambda: not _two_patients(portal, first), "the decision was not recorded")


def _two_patients(portal: Trial, study: Study) -> list[dict[str, str]]:
    entries = json.loads(ddwd(portal.folder, "quarantine", "list", "--json").stdout)["entries"]
    return [one for one in entries if (one["kind"], one["study_uid"]) == ("two-patients", study.uid)]


def _listing(portal: Trial, study: Study) -> list[tuple[str, int, int]]:
    files = [path for paths in published(study.uid, portal.output).values() for path in paths]
    return sorted((path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in files)


def test_images_that_come_later_are_added_to_the_published_study(portal: Trial, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path, 6, seed=14, size=16)
    first = read_studies(study.paths[:3])[0]
    portal.send(first.paths)
    portal.wait_complete(first)
    portal.send(study.paths[3:])
    portal.wait_complete(study)


def test_a_study_put_straight_onto_storage_by_rest_arrives_too(portal: Trial, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path, 5, seed=15, size=16)
    for path in study.paths:
        url = f"{portal.url('storage')}/instances"
        assert requests.post(url, path.read_bytes(), auth=portal.login("storage", "admin"), timeout=30).ok
    portal.wait_complete(study)


def test_storage_takes_nothing_by_c_store_from_anyone(portal: Trial, tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        portal.dcmsend(made_up_ct(tmp_path, 1, seed=16, size=16).paths, "storage")


def test_several_senders_at_once_lose_nothing(portal: Trial, tmp_path: Path) -> None:
    studies = [made_up_ct(tmp_path / str(seed), 30, seed=seed, size=32) for seed in range(20, 24)]
    mixed = [path for group in zip(*(study.paths for study in studies), strict=True) for path in group]
    portal.dcmsend(mixed)
    portal.wait_complete(*studies)


def test_stable_mode_sends_a_study_once_it_is_stable_and_delivers(
    begin: Callable[..., Trial], tmp_path: Path
) -> None:
    # the default stable_age: one job means that no pause of the sender was that long
    portal = begin(extra="forward:\n  mode: stable\n")
    portal.wait_up()
    study = made_up_ct(tmp_path / "ct", 50, seed=16, size=16)
    portal.dcmsend(study.paths)
    portal.wait_complete(study)

    def states() -> list[str]:
        jobs = portal.orthanc("gateway").jobs().values()
        return [job.state for job in jobs if job.kind == "DicomWebStowClient"]

    # the images are on disk before the gateway has noted that its job is done
    wait_for(lambda: not {"Pending", "Running"} & set(states()), "the gateway's job did not end")
    assert states() == ["Success"]


@pytest.fixture
def hostile(tmp_path: Path) -> list[Study]:
    """One study for each hostile PatientID."""
    for number, patient_id in enumerate(HOSTILE):
        made = made_up_ct(tmp_path / "ct", 1, seed=100 + number, size=8)
        with pydicom.config.disable_value_validation():
            data_set = pydicom.dcmread(made.paths[0])
            data_set.SpecificCharacterSet = "ISO_IR 192"
            data_set.PatientID = patient_id
            data_set.save_as(tmp_path / f"{number:02}.dcm")
    return read_studies(sorted(tmp_path.glob("*.dcm")))


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_hostile_patient_ids_stay_inside_the_output_folder_each_in_its_own(
    portal: Trial, hostile: list[Study]
) -> None:
    assert len(hostile) == len(HOSTILE)
    portal.send([path for study in hostile for path in study.paths])
    portal.wait_complete(*hostile)
    patients: dict[str, set[str]] = {}
    for study in hostile:
        (path,) = next(iter(published(study.uid, portal.output).values()))
        assert path.resolve().relative_to(portal.output.resolve()).parts[1] == study.uid
        assert len(path.relative_to(portal.output).parts) == 4
        patients.setdefault(path.relative_to(portal.output).parts[0], set()).add(study.patient_id.strip(" "))
    assert {folder: ids for folder, ids in patients.items() if len(ids) > 1} == {}


def test_nothing_is_left_in_the_spool(portal: Trial, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path, 2, seed=17, size=16)
    portal.send(study.paths)
    portal.wait_complete(study)
    private = portal.output / ".ddwd"
    wait_for(lambda: not [path for path in private.rglob("*") if path.is_file()], "the spool was not empty")
