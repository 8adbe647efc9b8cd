"""Retention in the booted machine: what goes was proved downstream, what stays says why, and nothing is lost or doubled by it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.appliance.conftest import SETTINGS
from tests.studies import Study, is_complete, made_up_ct, published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.appliance.conftest import Portal

RULES = """
routes:
  - name: emptied
    when: {PatientID: "RETENTION-GATEWAY*"}
    keep_gateway: 0
  - name: archived
    when: {PatientID: "RETENTION-OUTPUT*"}
    keep_output: 0
  - name: on-disk
    when: {PatientID: "RETENTION-STORAGE*"}
    keep_gateway: 0
    keep_storage: 0
  - name: rest
"""
"""Rules of this module's own studies, so that nobody else's in the machine ever goes."""


@pytest.fixture(scope="module", autouse=True)
def rules(portal: Portal) -> Iterator[None]:
    """Days for the studies of this module; the settings are put back."""
    machine = portal.machine
    before = machine.path(SETTINGS).read_text(encoding="utf-8")
    portal.configure(before.replace("\nroutes: []\n", "\n") + RULES)
    portal.wait_active()
    yield
    portal.configure(before)
    portal.wait_active()


def _ddwd(portal: Portal, *words: str, status: int = 0) -> Any:
    answer = portal.machine.run(["ddwd", *words, "--json"], check=False)
    assert answer.returncode == status, answer.stdout + answer.stderr
    return json.loads(answer.stdout)


def _trace(portal: Portal, study: Study) -> dict[str, Any]:
    (told,) = json.loads(portal.machine.run(["ddwd", "trace", study.uid, "--json"], check=False).stdout)[
        "studies"
    ]
    found: dict[str, Any] = told
    return found


def _counts(portal: Portal, study: Study) -> dict[str, int]:
    """Images at each hop."""
    return {hop["name"]: hop["images"] for hop in _trace(portal, study)["hops"]}


def _deliver(portal: Portal, *studies: Study) -> None:
    """Deliver, and wait for the custody records, which come a moment after the files."""
    portal.deliver(*studies)
    for study in studies:
        portal.machine.wait_for(
            lambda study=study: "published" in _events(portal, study),  # type: ignore[misc]
            limit=60, every=0.5, what="no custody record",
        )  # fmt: skip


def _events(portal: Portal, study: Study) -> list[str]:
    return [step["event"] for step in _trace(portal, study)["steps"]]


def _round(portal: Portal) -> dict[str, Any]:
    """Have the extractor do a round now; what it says of it."""
    before = _last(portal)
    _ddwd(portal, "retention", "--now")
    portal.machine.wait_for(
        lambda: _last(portal) != before, limit=120, every=0.5, what="no round of retention has ended"
    )
    found = _last(portal)
    assert found["problem"] == ""
    return found


def _last(portal: Portal) -> dict[str, Any]:
    answer = portal.machine.run(["ddwd", "retention", "--json"], check=False)
    found: dict[str, Any] = json.loads(answer.stdout)["last"] or {}
    return found


def _doctor(portal: Portal) -> str:
    return " ".join(portal.machine.run("ddwd doctor", check=False).stdout.split())


def _part(study: Study, which: Callable[[int], bool]) -> Study:
    return replace(study, instances=tuple(one for at, one in enumerate(study.instances) if which(at)))


def _files(portal: Portal, study: Study) -> dict[str, tuple[int, float]]:
    """Inode and time of each file: what was written again has others."""
    there = published(study.uid, portal.output).items()
    return {uid: (path.stat().st_ino, path.stat().st_mtime) for uid, (path,) in there}


def test_the_gateway_is_emptied_and_storage_and_disk_keep_all(portal: Portal, tmp_path: Path) -> None:
    whole = made_up_ct(tmp_path / "ct", 30, seed=8801, size=64, patient_id="RETENTION-GATEWAY-1")
    study, late = _part(whole, lambda at: at < 29), _part(whole, lambda at: at == 29)
    _deliver(portal, study)
    planned = _ddwd(portal, "retention", "--dry-run")
    assert [(row["study_uid"], row["images"]) for row in planned["studies"]] == [(study.uid, 29)]
    assert _counts(portal, study) == {"gateway": 29, "storage": 29, "disk": 29}

    assert _round(portal)["places"]["gateway"]["images"] == 29
    assert _counts(portal, study) == {"gateway": 0, "storage": 29, "disk": 29}
    portal.assert_equal([study])
    assert _ddwd(portal, "verify", study.uid)["images"] == 29
    assert "retired" in _events(portal, study)
    assert "removed by retention" in portal.machine.run(["ddwd", "trace", study.uid]).stdout

    before = _files(portal, study)
    portal.send(late)
    portal.wait_complete(whole)
    portal.assert_equal([whole])
    assert before.items() <= _files(portal, whole).items()
    assert _counts(portal, whole) == {"gateway": 1, "storage": 30, "disk": 30}


def test_a_study_that_is_sent_again_changes_nothing_and_goes_again(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 12, seed=8802, size=64, patient_id="RETENTION-GATEWAY-2")
    _deliver(portal, study)
    _round(portal)
    before = _files(portal, study)
    portal.send(study)
    portal.machine.wait_for(
        lambda: _counts(portal, study)["gateway"] == 12, limit=30, every=0.5, what="not on the gateway again"
    )
    portal.machine.wait_for(
        lambda: not _ddwd(portal, "status")["in_flight"], limit=60, every=0.5, what="still in flight"
    )
    assert _files(portal, study) == before
    _round(portal)
    assert _counts(portal, study) == {"gateway": 0, "storage": 12, "disk": 12}
    portal.assert_equal([study])
    assert study.uid not in portal.machine.run("ddwd quarantine list --json").stdout


def test_nothing_goes_while_a_file_on_disk_is_damaged(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 6, seed=8803, size=64, patient_id="RETENTION-GATEWAY-3")
    _deliver(portal, study)
    (path,) = published(study.uid, portal.output)[study.instances[3].sop_uid]
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    try:
        planned = _ddwd(portal, "retention", "--dry-run", status=1)["studies"]
        kept = _round(portal)["places"]["gateway"]["kept"]
        assert _counts(portal, study) == {"gateway": 6, "storage": 6, "disk": 6}
        portal.machine.wait_for(  # the status is written when the extractor turns next
            lambda: f"as {study.uid}: a file of it" in _doctor(portal),
            limit=20, every=1, what="the doctor does not tell what has to stay",
        )  # fmt: skip
    finally:
        path.write_bytes(sound)
    (row,) = (row for row in planned if row["reason"])
    assert (row["study_uid"], row["place"]) == (study.uid, "gateway")
    assert "not as recorded" in row["reason"]
    assert [one["example"] for one in kept] == [study.uid]
    _round(portal)
    assert _counts(portal, study) == {"gateway": 0, "storage": 6, "disk": 6}


def test_the_output_goes_and_storage_keeps_and_a_retry_brings_it_back(portal: Portal, tmp_path: Path) -> None:
    whole = made_up_ct(tmp_path / "ct", 8, seed=8804, size=64, patient_id="RETENTION-OUTPUT-1")
    study, late = _part(whole, lambda at: at < 7), _part(whole, lambda at: at == 7)
    _deliver(portal, study)
    assert _round(portal)["places"]["output"]["images"] == 7
    assert not (portal.output / "RETENTION-OUTPUT-1").exists()
    assert _counts(portal, study) == {"gateway": 7, "storage": 7, "disk": 0}
    assert _ddwd(portal, "verify", study.uid)["removed"] == 7
    assert portal.machine.run(["ddwd", "reconcile", "--dry-run", study.uid]).returncode == 0

    portal.send(late)
    portal.machine.wait_for(
        lambda: is_complete(late, portal.output), limit=60, what="the late image did not come"
    )
    assert set(published(whole.uid, portal.output)) == {late.instances[0].sop_uid}
    portal.machine.run(["ddwd", "retry", study.uid])
    portal.wait_complete(whole)
    portal.assert_equal([whole])


def test_storage_goes_after_the_gateway_and_a_resend_is_known_by_the_disk(
    portal: Portal, tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path / "ct", 9, seed=8805, size=64, patient_id="RETENTION-STORAGE-1")
    _deliver(portal, study)
    _round(portal)
    assert _counts(portal, study) == {"gateway": 0, "storage": 0, "disk": 9}
    before = _files(portal, study)
    assert _ddwd(portal, "verify", study.uid, "--storage")["images"] == 9
    portal.send(study)
    portal.machine.wait_for(
        lambda: (
            _counts(portal, study) == {"gateway": 9, "storage": 9, "disk": 9}
            and not _ddwd(portal, "status")["in_flight"]
        ),
        limit=60, every=0.5, what="not everywhere again",
    )  # fmt: skip
    assert _files(portal, study) == before
    portal.assert_equal([study])
    assert _ddwd(portal, "verify", study.uid, "--storage")["images"] == 9
    _round(portal)
    assert _counts(portal, study) == {"gateway": 0, "storage": 0, "disk": 9}
