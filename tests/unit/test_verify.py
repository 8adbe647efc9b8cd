"""Verification: identical bytes cheaply, equal elements when encoded otherwise, and any real difference is found."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from ddwd.extractor.steps.verify import (
    DIFFERENT,
    EQUAL,
    IDENTICAL,
    Known,
    Verdict,
    Verifier,
    meta_end,
    predicted_head,
)
from tests.unit.fakes import FakeClock, FakeOrthanc, Image, image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydicom.dataset import FileDataset

ONE = image(1)


def changed(base: Image, change: Callable[[FileDataset], object]) -> Image:
    data = dcmread(io.BytesIO(base.content))
    change(data)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return replace(base, content=buffer.getvalue())


def verdict(folder: Path, received: Image, stored: Image) -> Verdict:
    node = FakeOrthanc("storage", FakeClock())
    node.store(stored)
    path = folder / "received.dcm"
    path.write_bytes(received.content)
    return Verifier(node, node).compare(path, stored.orthanc_id)


def test_the_same_file_is_identical(tmp_path: Path) -> None:
    assert verdict(tmp_path, ONE, ONE).kind == IDENTICAL


def test_another_file_meta_over_the_same_data_set_is_identical(tmp_path: Path) -> None:
    def other_meta(data: FileDataset) -> None:
        data.file_meta.ImplementationVersionName = "SOMEONE ELSE"
        data.file_meta.SourceApplicationEntityTitle = "GATEWAY"

    assert verdict(tmp_path, ONE, changed(ONE, other_meta)).kind == IDENTICAL


def test_a_very_long_file_meta_is_no_obstacle(tmp_path: Path) -> None:
    def long_meta(data: FileDataset) -> None:
        data.file_meta.PrivateInformationCreatorUID = UID("1.2.3")
        data.file_meta.PrivateInformation = b"x" * 5000

    assert verdict(tmp_path, ONE, changed(ONE, long_meta)).kind == IDENTICAL


def with_sequence(data: Dataset, *, undefined: bool) -> None:
    item = Dataset()
    item.CodeValue = "1"
    data.ConceptNameCodeSequence = Sequence([item])
    data["ConceptNameCodeSequence"].is_undefined_length = undefined


def test_a_sequence_encoded_with_another_kind_of_length_is_equal(tmp_path: Path) -> None:
    defined = changed(ONE, lambda data: with_sequence(data, undefined=False))
    undefined = changed(ONE, lambda data: with_sequence(data, undefined=True))
    assert defined.content != undefined.content
    assert verdict(tmp_path, defined, undefined).kind == EQUAL


@pytest.mark.parametrize(
    "change",
    [
        lambda data: setattr(data, "PixelData", b"\2" * 64),
        lambda data: setattr(data, "PixelData", b"\1" * 63 + b"\0"),
        lambda data: setattr(data, "InstanceNumber", 77),
        lambda data: delattr(data, "InstanceNumber"),
        lambda data: setattr(data, "SeriesDescription", "added"),
        lambda data: with_sequence(data, undefined=False),
    ],
)
def test_any_changed_element_is_different(tmp_path: Path, change: Callable[[FileDataset], object]) -> None:
    found = verdict(tmp_path, changed(ONE, change), ONE)
    assert found.kind == DIFFERENT
    assert found.reason


def test_a_change_deep_in_a_sequence_is_different(tmp_path: Path) -> None:
    one = changed(ONE, lambda data: with_sequence(data, undefined=False))

    def deep(data: FileDataset) -> None:
        data.ConceptNameCodeSequence[0].CodeValue = "2"

    assert verdict(tmp_path, changed(one, deep), one).kind == DIFFERENT


def test_every_flipped_byte_of_the_data_set_is_noticed(tmp_path: Path) -> None:
    stored = ONE
    pixels = stored.content.rindex(b"\1" * 64)
    for place in range(pixels, pixels + 64, 9):
        flipped = bytearray(stored.content)
        flipped[place] ^= 0x10
        assert not verdict(tmp_path, replace(stored, content=bytes(flipped)), stored).is_sound, place


def test_what_is_no_dicom_at_all_is_different_and_no_crash(tmp_path: Path) -> None:
    assert verdict(tmp_path, replace(ONE, content=b"x" * 300), ONE).kind == DIFFERENT


def test_the_reason_names_no_value(tmp_path: Path) -> None:
    found = verdict(tmp_path, changed(ONE, lambda data: setattr(data, "PatientID", "SECRET")), ONE)
    assert "SECRET" not in found.reason
    assert "(0010,0020)" in found.reason


def head_of(content: bytes) -> bytes:
    return content[: meta_end(content)]


@pytest.mark.parametrize("number", [2, 22, 333], ids=["as long", "longer by one", "longer by two"])
def test_the_head_of_one_file_foretells_that_of_another_of_the_series(number: int) -> None:
    other = image(number=number)
    assert predicted_head(head_of(ONE.content), other.sop_uid) == head_of(other.content)


def test_a_head_without_an_instance_uid_foretells_nothing() -> None:
    assert predicted_head(b"\0" * 200, "1.2.3") == b""


def test_what_is_known_beforehand_is_proved_without_a_question(tmp_path: Path) -> None:
    node = FakeOrthanc("storage", FakeClock())
    node.store(ONE)
    stored = node.md5(ONE.orthanc_id)
    node.down = True
    path = tmp_path / "received.dcm"
    path.write_bytes(ONE.content)
    known = Known(stored, head_of(ONE.content), "the SHA-256 of the name")
    found = Verifier(node, node).compare(path, ONE.orthanc_id, known=known)
    assert (found.kind, found.sha256, found.md5) == (IDENTICAL, "the SHA-256 of the name", stored)


@pytest.mark.parametrize("foreseen", ["head", "md5"])
def test_what_was_foreseen_wrongly_is_asked_for(tmp_path: Path, foreseen: str) -> None:
    node = FakeOrthanc("storage", FakeClock())
    node.store(ONE)
    path = tmp_path / "received.dcm"
    path.write_bytes(ONE.content)
    head = head_of(ONE.content) if foreseen == "md5" else head_of(image(number=7).content)
    known = Known(node.md5(ONE.orthanc_id) if foreseen == "head" else "0" * 32, head)
    found = Verifier(node, node).compare(path, ONE.orthanc_id, known=known)
    assert (found.kind, found.head) == (IDENTICAL, head_of(ONE.content))


def test_a_flipped_bit_is_found_whatever_the_spool_file_is_called(tmp_path: Path) -> None:
    node = FakeOrthanc("storage", FakeClock())
    node.store(ONE)
    path = tmp_path / "received.dcm"
    path.write_bytes(ONE.content[:-1] + b"\x7f")
    known = Known(node.md5(ONE.orthanc_id), head_of(ONE.content), "0" * 64)
    assert Verifier(node, node).compare(path, ONE.orthanc_id, known=known).kind == DIFFERENT
