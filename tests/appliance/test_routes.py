"""Rules in the booted machine: each study goes where its rule says, and a finished one speaks, by a hook under its own confinement."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import SETTINGS
from tests.studies import Study, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.appliance.conftest import Portal

HOOK = "/opt/ris/finished"
TOLD = "/srv/told"
OPERATOR = "dispatcher"
RULES = f"""
routes:
  - name: spoken
    when: {{PatientID: "HOOK*"}}
    run: {HOOK}
    marker: study.done
  - name: research
    when: {{CallingAET: RESEARCH, Modality: CT}}
    layout: research/{{PatientID}}_{{StudyInstanceUID}}/{{SOPInstanceUID}}
    priority: high
  - name: archive
    when: {{PatientID: ARCHIVE-1}}
    extract: false
  - name: stays
    when: {{PatientID: STAYS-1}}
    forward: false
    extract: false
  - name: rest
    when: {{PatientID: "MADEUP*"}}
finished:
  timeout: 20
"""
SCRIPT = """#!/bin/sh
# Fails where the test says so; tells what it can do, and what it was told.
[ -e /srv/told/broken ] && { echo "out of order: $DDWD_PATH"; exit 7; }
touch /var/lib/ddwd/received_dicom/x 2>/dev/null && echo "the output can be written" >> /srv/told/sins
cat /etc/ddwd/ddwd.yaml >/dev/null 2>&1 && echo "the settings can be read" >> /srv/told/sins
cat /etc/ddwd/credentials.json >/dev/null 2>&1 && echo "the passwords can be read" >> /srv/told/sins
ls "$DDWD_PATH" > "/srv/told/$DDWD_STUDY_UID.$DDWD_REVISION.files"
cat > "/srv/told/$DDWD_STUDY_UID.$DDWD_REVISION.json"
"""


@pytest.fixture(scope="module", autouse=True)
def rules(portal: Portal) -> Iterator[None]:
    """A rule with a hook; the settings are put back."""
    machine = portal.machine
    machine.run(f"install -d {HOOK.rsplit('/', 1)[0]} && install -d -o ddwd-hooks -m 0750 {TOLD}")
    machine.path(HOOK).write_text(SCRIPT, encoding="utf-8")
    machine.path(HOOK).chmod(0o755)
    drop_in = machine.path("/etc/systemd/system/ddwd-hooks.service.d/told.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(f"[Service]\nReadWritePaths={TOLD}\n", encoding="utf-8")
    before = machine.path(SETTINGS).read_text(encoding="utf-8")
    kept = (
        before.replace("\nroutes: []\n", "\n")
        .replace("\nfinished:\n", "\n")
        .replace("\n  timeout: 600\n", "\n")
    )
    machine.run(["systemctl", "daemon-reload"])
    portal.configure(kept + RULES)
    portal.wait_active()
    yield
    drop_in.unlink()
    machine.run(["systemctl", "daemon-reload"])
    portal.configure(before)
    portal.wait_active()


def _said(portal: Portal, name: str) -> Path:
    path = portal.machine.path(f"{TOLD}/{name}")
    portal.machine.wait_for(path.exists, limit=60, what=f"the hook did not write {name}")
    return path


def test_the_executable_is_told_of_each_revision_and_can_do_nothing_else(
    portal: Portal, tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path, 5, seed=7301, size=32, patient_id="HOOK-1")
    first, late = replace(study, instances=study.instances[:4]), replace(study, instances=study.instances[4:])
    portal.deliver(first)
    told = json.loads(_said(portal, f"{study.uid}.1.json").read_text(encoding="utf-8"))
    assert (told["route"], told["revision"], told["instances"]) == ("spoken", 1, 4)
    assert len(told["custody"]["images"]) == 4
    marker = portal.output / "HOOK-1" / study.uid / "study.done"
    assert json.loads(marker.read_text())["instances"] == 4
    portal.send(late)
    _said(portal, f"{study.uid}.2.json")
    portal.machine.wait_for(
        lambda: json.loads(marker.read_text())["revision"] == 2, limit=30, what="the marker is the old one"
    )
    assert not portal.machine.path(f"{TOLD}/sins").exists()
    assert portal.machine.run("ddwd hooks list").stdout == "no hook waits\n"
    assert (
        "hook-done"
        in portal.machine.run(f"journalctl -t ddwd-audit -o verbose DDWD_STUDY_UID={study.uid}").stdout
    )
    portal.machine.run(f"ddwd verify {study.uid}")


def _deliver_with_a_failing_hook(portal: Portal, study: Study) -> None:
    """Until `broken` is removed the hook fails; the study is on disk, and the failure is shown."""
    portal.machine.run(f"touch {TOLD}/broken")
    portal.deliver(study)
    portal.machine.wait_for(
        lambda: "ended with exit status 7" in portal.machine.run("ddwd hooks list", check=False).stdout,
        limit=60,
        what="the failure is not shown",
    )


def test_a_hook_that_fails_is_shown_and_told_over_a_restart(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path, 2, seed=7302, size=32, patient_id="HOOK-2")
    machine = portal.machine
    _deliver_with_a_failing_hook(portal, study)
    assert "the hook of 1 published study failed" in machine.run("ddwd status", check=False).stdout
    log = machine.run("journalctl -u ddwd-hooks -t ddwd-audit --no-pager").stdout
    assert "HOOK-2" not in log
    assert "HOOK-2" in machine.run("cat /var/lib/ddwd/hooks/output/*.txt").stdout
    machine.run(f"systemctl kill --signal=KILL ddwd-hooks; rm {TOLD}/broken; ddwd hooks retry")
    _said(portal, f"{study.uid}.1.json")
    machine.wait_for(
        lambda: machine.run("ddwd hooks list", check=False).returncode == 0, limit=30, what="it still waits"
    )


def test_an_operator_s_drop_of_a_hook_is_done_and_recorded_by_the_extractor(
    portal: Portal, tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path, 2, seed=7303, size=32, patient_id="HOOK-3")
    machine = portal.machine
    portal.add_operator(OPERATOR)
    _deliver_with_a_failing_hook(portal, study)
    machine.run(["ddwd", "hooks", "drop", study.uid], user=OPERATOR)
    machine.wait_for(
        lambda: machine.run("ddwd hooks list", check=False).stdout == "no hook waits\n",
        limit=30,
        what="it still waits",
    )
    machine.run(f"rm {TOLD}/broken")
    trail = machine.run("journalctl -t ddwd-audit -o json DDWD_EVENT=requested _UID=$(id -u ddwd)").stdout
    record = json.loads(trail.splitlines()[-1])
    assert (record["MESSAGE"], record["DDWD_REVISION"]) == ("the operator asks: drop-hook", "1")
    assert record["DDWD_BY"] == OPERATOR


def test_each_study_goes_where_its_rule_says_and_what_none_takes_is_held_and_shown(
    portal: Portal, tmp_path: Path
) -> None:
    machine = portal.machine
    research, archived, stays, held, rest = (
        made_up_ct(tmp_path / patient, 3, seed=7310 + number, size=32, patient_id=patient)
        for number, patient in enumerate(("MADEUP-R", "ARCHIVE-1", "STAYS-1", "NOBODY-1", "MADEUP-REST"))
    )
    argv = portal.modality.storescu_argv(*research.paths, options=["-aet", "RESEARCH"])
    portal.modality.run(argv, timeout=120)
    portal.send(archived, stays, held, rest)
    portal.wait_complete(rest)
    folder = portal.output / "research" / f"MADEUP-R_{research.uid}"
    machine.wait_for(folder.is_dir, limit=60, what="the study of the rule with a layout is not there")
    assert {path.name for path in folder.iterdir()} == {f"{one.sop_uid}.dcm" for one in research.instances}
    machine.wait_for(
        lambda: "1 study is held" in _status(portal), limit=60, what="what no rule takes is not shown"
    )
    assert "ddwd routes list" in _status(portal)
    machine.wait_for(
        lambda: "route archive does not extract it" in _traced(portal, archived),
        limit=60,
        what="what is not extracted is not finished",
    )
    there = {path.name for path in portal.output.rglob("*.dcm")}
    unseen = {f"{one.sop_uid}.dcm" for study in (archived, stays, held) for one in study.instances}
    assert there.isdisjoint(unseen)
    for study in (research, rest, archived, stays):
        machine.run(f"ddwd verify {study.uid}")
    told = machine.run("journalctl -t ddwd-audit -o verbose DDWD_EVENT=held").stdout
    assert f"DDWD_STUDY_UID={held.uid}" in told
    machine.copy_in(held.paths[0], f"{TOLD}/held.dcm")
    said = machine.run(f"ddwd routes test {TOLD}/held.dcm", check=False)
    assert (said.returncode, "no route matches" in said.stdout) == (1, True)


def _status(portal: Portal) -> str:
    return portal.machine.run("ddwd status", check=False).stdout


def _traced(portal: Portal, study: Study) -> str:
    return portal.machine.run(f"ddwd trace {study.uid}", check=False).stdout
