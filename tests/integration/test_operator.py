"""The operator's verbs on a running portal, as any user has it by `ddwd try`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.integration.trial import Trial, ddwd, wait_for
from tests.studies import made_up_ct, published

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_deleted_from_the_output_is_named_and_fetched_again(portal: Trial, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path, 3, seed=80, size=16)
    portal.send(study.paths)
    portal.wait_complete(study)

    def agrees() -> bool:
        return ddwd(portal.folder, "reconcile", "--dry-run", study.uid).returncode == 0

    wait_for(agrees, "gateway, storage and disk did not agree")
    (path,) = published(study.uid, portal.output)[study.instances[0].sop_uid]
    path.unlink()
    told = ddwd(portal.folder, "reconcile", "--dry-run", "--json", study.uid)
    assert told.returncode == 1, told.stderr
    assert json.loads(told.stdout)["totals"]["gone_from_disk"] == 1
    assert ddwd(portal.folder, "retry", study.uid).returncode == 0
    portal.wait_complete(study)
    wait_for(agrees, "gateway, storage and disk did not agree again")
    proof = ddwd(portal.folder, "verify", study.uid, "--storage")
    assert (proof.returncode, proof.stderr) == (0, "")
