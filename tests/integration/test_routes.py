"""Rules on real Orthancs: the gateway's Lua answers the cases of tests/routes.json as Python does, and each study goes where its rule says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
import pytest

from ddwd.config.loader import load
from ddwd.config.routing import choose, table
from ddwd.dicom import store_scu
from ddwd.dicom.nodes import gateway
from ddwd.dicom.store_scu import Outgoing
from tests.integration.conftest import write_settings
from tests.integration.trial import Trial, ddwd, wait_for
from tests.studies import made_up_ct, read_studies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.dicom.store_scu import Answer
    from tests.studies import Study

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "routes.json").read_text(encoding="utf-8")
)
RULES = """
stable_age: 1
forward:
  grace: 3600  # so that nobody but Lua decides and forwards
routes:
{cases}
  - name: nowhere
    when: {{PatientID: STAYS}}
    forward: false
    extract: false
  - name: archive
    when: {{StationName: "ARCHIVE?"}}
    extract: false
  - name: research
    when: {{CallingAET: ["RES*"], Modality: CT}}
    layout: research/{{PatientID}}_{{StudyInstanceUID}}/{{SeriesNumber}}-{{SeriesInstanceUID}}/{{SOPInstanceUID}}
    priority: high
    marker: study.done
  - name: routine
    when: {{PatientID: "ROUTINE*"}}
"""


def _rule(number: int, case: dict[str, Any]) -> str:
    when = {"PatientID": [f"CASE-{number}"]} | dict(case["when"])
    return f"  - {json.dumps({'name': f'case-{number}', 'when': when}, ensure_ascii=False)}"


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A portal with rules: one for each case, then those of a hospital."""
    folder = tmp_path_factory.mktemp("routes") / "portal"
    folder.mkdir()
    write_settings(
        folder, RULES.format(cases="\n".join(_rule(number, case) for number, case in enumerate(CASES)))
    )
    trial = Trial(folder)
    try:
        trial.wait_up()
        yield trial
    finally:
        trial.stop()


def _send(trial: Trial, aet: str, *studies: Study) -> None:
    """Send as the modality of that AE title; every image must be accepted."""
    config = load(trial.folder / "ddwd.yaml", {"DDWD_DEFAULTS": "/dev/null"})
    answers: list[Answer] = []
    found = [store_scu.examine(path) for study in studies for path in study.paths]
    outgoing = [one for one in found if isinstance(one, Outgoing)]
    store_scu.send(gateway(config, aet), outgoing, answers.append)
    assert {answer.status for answer in answers} == {0}


def _made(folder: Path, seed: int, patient: str, **tags: str) -> Study:
    study = made_up_ct(folder / str(seed), 2, seed=seed, size=16, patient_id=patient)
    for path in study.paths:
        data_set = pydicom.dcmread(path)
        data_set.SpecificCharacterSet = "ISO_IR 192"
        for keyword, value in tags.items():
            setattr(data_set, keyword, value.split("\\") if "\\" in value else value)
        data_set.save_as(path)
    return read_studies(study.paths)[0]


def _route(trial: Trial, study: Study) -> str | None:
    port = trial.orthanc("gateway")
    (found,) = port.find_study(study.uid)
    return port.route(found)


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
@pytest.mark.parametrize(("number", "case"), list(enumerate(CASES)), ids=[case["why"] for case in CASES])
def test_lua_and_python_answer_alike(ruled: Trial, tmp_path: Path, number: int, case: dict[str, Any]) -> None:
    tags = dict(case["tags"])
    aet = tags.pop("CallingAET", "SENDER")
    absent = dict.fromkeys({tag for tag, _ in case["when"]} - {"CallingAET"} - tags.keys(), "")
    study = _made(tmp_path, 8100 + number, f"CASE-{number}", **absent, **tags)
    _send(ruled, aet, study)
    wanted = f"case-{number}" if case["takes"] else "-"
    wait_for(lambda: _route(ruled, study) is not None, "Lua did not decide")
    assert _route(ruled, study) == wanted
    port = ruled.orthanc("gateway")
    (found,) = port.find_study(study.uid)
    config = load(ruled.folder / "ddwd.yaml", {"DDWD_DEFAULTS": "/dev/null"})
    assert (choose(table(config.routes), port.first_image(found)) or "-") == wanted


def test_a_study_that_was_deleted_and_comes_again_is_decided_anew(ruled: Trial, tmp_path: Path) -> None:
    first = _made(tmp_path / "first", 8300, "ROUTINE-8")
    _send(ruled, "CT1", first)
    wait_for(lambda: _route(ruled, first) == "routine", "Lua did not decide")
    ruled.wait_complete(first)
    for name in ("gateway", "storage"):
        port = ruled.orthanc("gateway" if name == "gateway" else "storage")
        for found in port.find_study(first.uid):
            port.delete_study(found)
    again = _made(tmp_path / "again", 8300, "ROUTINE-8", StationName="ARCHIVE1")
    _send(ruled, "CT1", again)
    wait_for(lambda: _route(ruled, again) == "archive", "Lua went by what it remembered")


def test_each_study_goes_where_its_rule_says(ruled: Trial, tmp_path: Path) -> None:
    stays = _made(tmp_path, 8201, "STAYS")
    archived = _made(tmp_path, 8202, "ANYBODY", StationName="ARCHIVE1")
    research = _made(tmp_path, 8203, "RES-1")
    routine = _made(tmp_path, 8204, "ROUTINE-1")
    held = _made(tmp_path, 8205, "NOBODY")
    _send(ruled, "CT1", stays, archived, routine, held)
    _send(ruled, "RESEARCH", research)
    ruled.wait_complete(routine)
    folder = ruled.output / "research" / f"RES-1_{research.uid}"
    wait_for((folder / "study.done").exists, "the marker is not there")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.dcm"))
    assert names == sorted(f"1-{research.uid}.1/{one.sop_uid}.dcm" for one in research.instances)
    storage = ruled.orthanc("storage")
    wait_for(lambda: storage.find_study(archived.uid), "the archive has nothing")
    assert {_route(ruled, one) for one in (stays, held)} == {"nowhere", "-"}
    wait_for(lambda: "held" in _status(ruled), "the held study is not shown")
    assert storage.find_study(stays.uid) == storage.find_study(held.uid) == []
    there = {path.name for path in ruled.output.rglob("*.dcm")}
    assert there.isdisjoint(
        {one.sop_uid + ".dcm" for study in (stays, archived, held) for one in study.instances}
    )
    for study in (routine, research, archived, stays):
        assert ddwd(ruled.folder, "verify", study.uid).returncode == 0


def _status(trial: Trial) -> str:
    return ddwd(trial.folder, "status").stdout
