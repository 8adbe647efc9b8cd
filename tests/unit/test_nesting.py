"""How deep an object is nested is told in every encoding, and the door refuses what Orthanc would crash on."""

from __future__ import annotations

import io
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from ddwd.dicom.head import UnreadableError, is_nested_deeper
from ddwd.orthanc.plugin.admission import Admission
from tests.studies import real_studies
from tests.unit.test_door import SYNTAXES, Site

MOST = 32


def nested(
    depth: int, syntax: str = ExplicitVRLittleEndian, *, undefined: bool = True, wide: int = 1
) -> bytes:
    """A file with `wide` items side by side at the top, the last of which is nested `depth` levels of items deep."""
    inner = Dataset()
    inner.CodeValue = "innermost"
    for _ in range(depth):
        outer = Dataset()
        outer.ContentSequence = Sequence([inner])
        outer["ContentSequence"].is_undefined_length = undefined
        inner.is_undefined_length_sequence_item = undefined
        inner = outer
    if wide > 1:
        inner.ContentSequence = Sequence(
            [Dataset() for _ in range(wide - 1)] + list(inner.get("ContentSequence", []))
        )
    inner.SOPClassUID, inner.SOPInstanceUID = CTImageStorage, "1.2.3.4"
    inner.StudyInstanceUID, inner.SeriesInstanceUID, inner.PatientID = "1.2.3", "1.2.3.1", "PAT1"
    inner.file_meta = FileMetaDataset()
    inner.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = io.BytesIO()
    dcmwrite(buffer, inner, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("syntax", SYNTAXES)
@settings(max_examples=10)
@given(depth=st.integers(1, 60), wide=st.integers(1, 50))
def test_the_depth_is_told_whichever_way_it_is_encoded(
    syntax: str, depth: int, wide: int, *, undefined: bool
) -> None:
    content = nested(depth, syntax, undefined=undefined, wide=wide)
    assert is_nested_deeper(content, MOST) is (depth > MOST)


def test_many_items_side_by_side_are_no_depth() -> None:
    assert not is_nested_deeper(nested(3, wide=5000), MOST)


def test_the_fragments_of_encapsulated_pixels_are_no_depth() -> None:
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, "1.2.3.4"
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    fragment = b"\xfe\xff\x00\xe0\x04\x00\x00\x00abcd"
    one.PixelData = fragment * 500
    one["PixelData"].VR = "OB"
    one["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    dcmwrite(buffer, one, enforce_file_format=True)
    assert not is_nested_deeper(buffer.getvalue(), MOST)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_real_object_is_too_deep() -> None:
    for study in real_studies():
        for path in study.paths:
            assert not is_nested_deeper(path.read_bytes(), MOST), path


@given(st.binary(max_size=400))
def test_nonsense_has_a_depth_or_is_unreadable(body: bytes) -> None:
    content = nested(1)[:300] + b"\xfe\xff\x00\xe0" * 40 + body
    with suppress(UnreadableError):
        assert is_nested_deeper(content, MOST) in {True, False}


def test_the_door_refuses_what_is_too_deep(site: Site) -> None:
    assert site.door.judge(nested(MOST)) is Admission.KEEP
    assert site.door.judge(nested(MOST + 1)) is Admission.TOO_DEEP
    assert site.index.lines == [f"an object with sequences nested more than {MOST} deep is refused"]


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("door"))
