"""Images with deeply nested sequences, as in structured reports, pass both Orthancs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.studies import made_up_ct, read_studies

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.trial import Trial

IMAGES = 30
"""Orthanc 1.10.1 and 1.12.7 ended after 1 to 15 such images while a script defined OnStoredInstance."""


@pytest.mark.parametrize("depth", [9, 40])
def test_deeply_nested_sequences_end_no_orthanc(quick: Trial, tmp_path: Path, depth: int) -> None:
    study = made_up_ct(tmp_path / "ct", IMAGES, seed=7200 + depth, size=16)
    for path in study.paths:
        data_set = pydicom.dcmread(path)
        data_set.ContentSequence = _nested(depth)
        data_set.save_as(path)
    before = {name: quick.pid(f"orthanc/{name}") for name in ("gateway", "storage")}
    quick.dcmsend(study.paths)
    quick.wait_complete(read_studies(study.paths)[0])
    assert {name: quick.pid(f"orthanc/{name}") for name in before} == before


def _nested(depth: int) -> Sequence:
    item = Dataset()
    item.CodeMeaning = str(depth)
    if depth > 1:
        item.ContentSequence = _nested(depth - 1)
    return Sequence([item])
