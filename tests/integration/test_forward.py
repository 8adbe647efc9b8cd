"""An image that ORTHANC2's STOW-RS refuses gets through the whole portal all the same, and every view says how."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.integration.trial import ddwd, wait_for
from tests.studies import made_up_ct, write_unknown_vrs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.trial import Trial


def test_standard_elements_of_vr_un_are_published_with_the_images_beside_them(
    quick: Trial, tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path / "ct", 4, seed=4712, size=64, patient_id="MADEUPUN")
    unknown = study.instances[2]
    write_unknown_vrs(unknown.path)
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
    assert ddwd(quick.folder, "status").returncode == 0
