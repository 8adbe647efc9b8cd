"""An image that ORTHANC2's STOW-RS refuses gets through the whole portal all the same, and every view says how."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.integration.conftest import write_settings
from tests.integration.trial import Trial, ddwd, wait_for
from tests.problems import causes
from tests.studies import made_up_ct, published, write_unknown_vrs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FILTER = """
_G['Received' .. 'InstanceFilter'] = function (dicom, origin, info)
  return dicom.InstanceNumber ~= '3'
end
"""
"""Written so that `ddwd config check` does not see it: it stands for whatever else an ORTHANC2 may refuse an image for."""


@pytest.fixture
def picky(tmp_path: Path) -> Iterator[Trial]:
    """A portal whose ORTHANC2 keeps out each third image of a series."""
    folder = tmp_path / "portal"
    additions = folder / "orthanc" / "storage.d"
    additions.mkdir(parents=True)
    write_settings(folder, "stable_age: 1\nretrieve:\n  tries: 2\n")
    (folder / "filter.lua").write_text(_FILTER)
    (additions / "filter.json").write_text(json.dumps({"LuaScripts": [str(folder / "filter.lua")]}))
    trial = Trial(folder)
    try:
        trial.wait_up()
        yield trial
    finally:
        trial.stop()


def _wrong(trial: Trial) -> set[str]:
    """What is wrong, without when it was seen last."""
    wrong = causes(json.loads(ddwd(trial.folder, "status", "--json").stdout))
    return {line.partition("; last ")[0] for line in wrong}


def test_standard_elements_of_vr_un_are_published_with_the_images_beside_them(
    quick: Trial, tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path / "ct", 4, seed=4712, size=64, patient_id="MADEUPUN")
    unknown = study.instances[2]
    write_unknown_vrs(unknown.path)
    before = _wrong(quick)  # other tests have images refused
    quick.dcmsend(study.paths)
    quick.wait_complete(study)
    gateway, storage = quick.orthanc("gateway"), quick.orthanc("storage")
    (found,) = storage.find_study(study.uid)
    uids = storage.sop_uids(storage.instances([found])[found])
    (instance,) = (one for one, uid in uids.items() if uid == unknown.sop_uid)
    assert storage.file(instance) == gateway.file(instance)
    assert instance in storage.received(found)

    def is_recorded() -> bool:
        return ddwd(quick.folder, "trace", study.uid).returncode == 0

    wait_for(is_recorded, "the study was not finished")
    told = json.loads(ddwd(quick.folder, "trace", "--json", study.uid).stdout)["studies"][0]
    assert next(hop["by_rest"] for hop in told["hops"] if hop["name"] == "storage") >= 1
    events = {step["event"]: step["text"] for step in told["steps"]}
    assert "by STOW-RS (Bad request)" in events["forward-failed"]
    assert "by its REST interface" in events["copied"]
    assert "by REST, since STOW-RS failed" in ddwd(quick.folder, "trace", study.uid).stdout
    assert _wrong(quick) <= before


def test_what_orthanc2_refuses_either_way_is_named_and_then_set_aside_and_the_rest_is_published(
    picky: Trial, tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path / "ct", 4, seed=4713, size=64)
    refused = study.instances[2]
    picky.dcmsend(study.paths)

    def is_named() -> bool:
        return "1 study has images that ORTHANC2 does not take" in ddwd(picky.folder, "status").stdout

    wait_for(is_named, "no view named the study")
    assert "storage: FilteredOut" in ddwd(picky.folder, "trace", study.uid).stdout
    wait_for(lambda: len(published(study.uid, picky.output)) == 3, "the others were not published")
    assert refused.sop_uid not in published(study.uid, picky.output)
    listed = ddwd(picky.folder, "quarantine", "list", "--json")
    (entry,) = json.loads(listed.stdout)["entries"]
    assert (entry["sop_uid"], entry["reason"]) == (refused.sop_uid, "storage: FilteredOut")
    wait_for(lambda: not is_named(), "it was still named")
