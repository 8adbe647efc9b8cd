"""The main job: what a modality sends by C-STORE is on disk, all of it, unchanged, and inside OUTPUT_DIR."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydicom
import pytest

from tests.appliance.conftest import OUTPUT_DIR, Portal
from tests.machine.machine import INBOX
from tests.studies import Study, made_up_ct, published, read_studies, real_studies

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOSTILE = (
    "../../../../etc/evil", "..", ".", "/", "a/b", "a%2Fb", "a\x00b", "", "   ", "-rf", ".ddwd", ".hidden", "x.", "X.",
    "ä" * 64, "患" * 64, "new\nline", "con\\sole", "semi;$(reboot)`x`",
)  # fmt: skip


def test_a_study_sent_by_plain_dcmsend_is_complete_on_disk_and_unchanged(
    portal: Portal, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    study = made_up_ct(tmp_path / "ct", 60, seed=10)
    record_property("seconds from last image to complete", round(portal.deliver(study), 1))


def test_the_path_is_patient_study_series_instance(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 1, seed=11, patient_id="ORDINARY-1", size=16)
    portal.deliver(study)
    assert (portal.output / f"ORDINARY-1/{study.uid}/{study.uid}.1/{study.uid}.1.1.dcm").is_file()


def test_real_studies_of_every_kind_arrive_with_all_elements_and_pixel_data(portal: Portal) -> None:
    studies = real_studies()
    assert sum(len(study.instances) for study in studies) > 100
    assert len({instance.transfer_syntax for study in studies for instance in study.instances}) > 8
    portal.deliver(*studies)


def test_the_same_study_again_changes_nothing_on_disk(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 3, seed=12, size=16)
    portal.deliver(study)
    before = _listing(portal, study)
    portal.deliver(study)
    portal.deliver(made_up_ct(tmp_path / "next", 1, seed=13, size=16))
    assert _listing(portal, study) == before


def _listing(portal: Portal, study: Study) -> list[tuple[str, int, int]]:
    files = [path for paths in published(study.uid, portal.output).values() for path in paths]
    return sorted((path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in files)


def test_a_study_put_straight_onto_storage_by_rest_arrives_too(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 5, seed=14, size=16)
    portal.machine.copy_in(tmp_path / "ct", f"{INBOX}/to-post")
    login = f'user = "{portal.machine.credentials("storage")}"\n'
    command = (
        f"find {INBOX}/to-post -type f | xargs -I FILE curl -sSf -o /dev/null -K /run/post.conf --data-binary @FILE"
        " -H Expect: http://127.0.0.1:8043/instances"
    )
    portal.machine.run("umask 077; cat > /run/post.conf", stdin=login)
    portal.machine.run(f"{command}; rm /run/post.conf")
    portal.wait_complete(study)
    portal.assert_equal([study])


def test_a_command_line_send_from_the_machine_itself_arrives(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 4, seed=15, size=16)
    portal.machine.copy_in(tmp_path / "ct", f"{INBOX}/to-send")
    portal.machine.run(["ddwd", "send", f"{INBOX}/to-send"])
    portal.wait_complete(study)
    portal.assert_equal([study])


@pytest.fixture
def hostile(tmp_path: Path) -> list[Study]:
    """One study for each hostile PatientID."""
    for number, patient_id in enumerate(HOSTILE):
        made = made_up_ct(tmp_path / "ct", 1, seed=100 + number, size=8)
        with pydicom.config.disable_value_validation():
            data_set = pydicom.dcmread(made.paths[0])
            data_set.SpecificCharacterSet = "ISO_IR 192"
            data_set.PatientID = patient_id
            data_set.save_as(tmp_path / f"{number}.dcm")
    return read_studies(sorted(tmp_path.glob("*.dcm")))


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_hostile_patient_ids_stay_inside_the_output_folder(portal: Portal, hostile: list[Study]) -> None:
    portal.send(*hostile)
    for study in hostile:
        portal.wait_complete(study)
        # the extractor removes folders while they are walked
        found = portal.machine.run(
            ["find", "/", "-ignore_readdir_race", "-xdev", "-path", "/proc", "-prune", "-o", "-name", study.uid, "-print"]
        )  # fmt: skip
        assert [line for line in found.stdout.split() if not line.startswith(OUTPUT_DIR)] == []
    portal.assert_equal(hostile)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_two_patients_never_share_a_folder(portal: Portal, hostile: list[Study]) -> None:
    portal.deliver(*hostile)
    sent: dict[str, set[str]] = {}
    for study in hostile:
        path = next(iter(published(study.uid, portal.output).values()))[0]
        as_stored = str(pydicom.dcmread(path, stop_before_pixels=True).get("PatientID") or "")
        sent.setdefault(path.relative_to(portal.output).parts[0], set()).add(as_stored.strip(" "))
    assert {folder: ids for folder, ids in sent.items() if len(ids) > 1} == {}
