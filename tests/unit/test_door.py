"""Nothing that Orthanc would drop with Success gets past the door: other content is kept aside, and a failure is a failure."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ddwd.core import durable
from ddwd.core.disk_space import Space
from ddwd.dicom import head
from ddwd.dicom.head import UnreadableError
from ddwd.orthanc.plugin import admission as door_module
from ddwd.orthanc.plugin.admission import Admission, AdmissionFilter, NotDicomError, Settings, orthanc_ids
from tests.unit.fakes import FakeClock, Image, image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLENTY, RESERVE = 10**12, 10**6


@dataclass
class FakeIndex:
    """An Orthanc's index: what it stores, by ID; `down` makes it raise as with its database away."""

    stored: dict[str, bytes] = field(default_factory=dict)
    down: bool = False
    fileless: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)
    questions: int = 0

    def store(self, one: Image) -> None:
        self.stored.setdefault(one.orthanc_id, one.content)

    def instances_of(self, series: str) -> list[str]:
        self.questions += 1
        if self.down:
            raise RuntimeError("database")
        return [key for key, content in self.stored.items() if _series(content) == series]

    def md5(self, instance: str) -> str | None:
        self.questions += 1
        if self.down:
            raise RuntimeError("database")
        content = self.stored.get(instance)
        return hashlib.md5(content).hexdigest() if content is not None else None  # noqa: S324

    def is_whole(self, instance: str) -> bool:
        return instance not in self.fileless

    def forget(self, instance: str) -> None:
        del self.stored[instance]
        self.fileless.discard(instance)

    def identify(self, content: bytes) -> tuple[str, str, str, str]:
        try:
            found = dcmread(io.BytesIO(content))
            uids = found.StudyInstanceUID, found.SeriesInstanceUID, found.SOPInstanceUID
        except Exception as error:
            raise NotDicomError from error
        return str(found["PatientID"].value), *uids

    def log(self, text: str) -> None:
        self.lines.append(text)


def _series(content: bytes) -> str:
    found = orthanc_ids(content)
    return found.series if found else ""


class Site:
    """A door with its folder, index and clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = FakeIndex()
        self.clock = FakeClock()
        self.door = AdmissionFilter(Settings(folder, (folder,), RESERVE), self.index, self.clock.monotonic)

    def bring(self, one: Image, *, fails: bool = False) -> Admission:
        """One object through the door and, if let in, into Orthanc, unless that `fails` to store it."""
        verdict = self.door.judge(one.content)
        if verdict is Admission.KEEP and not fails:
            self.index.store(one)
        return verdict

    def aside(self) -> list[bytes]:
        return sorted(path.read_bytes() for path in self.folder.iterdir())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def elsewhere(work: Callable[[], Admission]) -> Admission:
    """Run in a thread of its own, as another association does."""
    found: list[Admission] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_new_objects_and_resends_go_in(site: Site) -> None:
    images = [image(number=n) for n in range(1, 4)]
    verdicts = [site.bring(one) for one in images * 10]
    assert set(verdicts) == {Admission.KEEP}
    assert site.aside() == []


@pytest.mark.parametrize("other_association", [False, True])
def test_an_object_whose_file_was_lost_is_stored_anew_when_it_comes_again(
    site: Site, other_association: bool
) -> None:
    one = image()
    site.bring(one)
    site.index.fileless.add(one.orthanc_id)
    again = elsewhere(lambda: site.bring(one)) if other_association else site.bring(one)
    assert again is Admission.KEEP
    assert site.index.stored == {one.orthanc_id: one.content}
    assert site.index.fileless == set()
    assert site.aside() == []


def test_the_index_is_asked_once_a_series(site: Site) -> None:
    for number in range(1, 51):
        site.bring(image(number=number))
    assert site.index.questions == 1


def test_after_a_restart_what_is_stored_is_still_known(site: Site, tmp_path: Path) -> None:
    site.bring(image())
    again = Site(tmp_path)
    again.index = site.index
    again.door = AdmissionFilter(Settings(tmp_path, (), RESERVE), site.index, again.clock.monotonic)
    assert again.bring(image(number=2)) is Admission.KEEP
    assert again.bring(image(pixels=b"\2" * 64)) is Admission.ASIDE


def test_a_series_that_was_forgotten_is_asked_for_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "_REMEMBERED", 3)
    for number in range(1, 4):
        site.bring(image(number=number))
    site.bring(image(study=2))
    assert site.bring(image(number=4)) is Admission.KEEP
    assert site.bring(image(number=1, pixels=b"\2" * 64)) is Admission.ASIDE
    assert site.aside() == [image(number=1, pixels=b"\2" * 64).content]


def test_other_content_under_a_known_uid_is_kept_aside_once(site: Site) -> None:
    first, other = image(), image(pixels=b"\2" * 64)
    assert site.bring(first) is Admission.KEEP
    assert [site.bring(other) for _ in range(10)] == [Admission.ASIDE] * 10
    assert site.aside() == [other.content]
    (path,) = site.folder.iterdir()
    assert path.name == f"{first.orthanc_id}.{hashlib.md5(other.content).hexdigest()}.dcm"  # noqa: S324
    assert path.stat().st_mode & 0o777 == 0o644
    assert site.index.stored[first.orthanc_id] == first.content


def test_the_same_uids_under_another_patient_are_another_object(site: Site) -> None:
    assert site.bring(image(patient="A")) is Admission.KEEP
    assert site.bring(image(patient="B", pixels=b"\2" * 64)) is Admission.KEEP
    assert site.aside() == []


def test_of_two_at_the_same_moment_the_second_is_kept_aside(site: Site) -> None:
    first, other = image(), image(pixels=b"\2" * 64)
    assert site.door.judge(first.content) is Admission.KEEP  # and Orthanc is still at it
    assert elsewhere(lambda: site.door.judge(other.content)) is Admission.ASIDE
    assert elsewhere(lambda: site.door.judge(first.content)) is Admission.KEEP
    assert site.aside() == [other.content]


def test_an_object_that_orthanc_failed_to_store_bars_no_other_for_long(site: Site) -> None:
    assert site.bring(image(), fails=True) is Admission.KEEP
    other = image(pixels=b"\2" * 64)
    assert site.bring(other) is Admission.KEEP  # the same association: it is done with the first


def test_a_deleted_object_bars_nobody(site: Site) -> None:
    one = image()
    site.bring(one)
    site.index.stored.clear()
    site.clock.advance(121)
    assert elsewhere(lambda: site.door.judge(image(pixels=b"\2" * 64).content)) is Admission.KEEP


@pytest.mark.parametrize("patient", ["Jürgen", " lead", "A\\B", "~"])
def test_where_the_id_depends_on_a_character_set_orthanc_is_asked_for_it(site: Site, patient: str) -> None:
    one = image(patient=patient)
    assert orthanc_ids(one.content) is None
    assert site.bring(one) is Admission.KEEP
    assert elsewhere(lambda: site.bring(one)) is Admission.KEEP
    assert elsewhere(lambda: site.bring(image(patient=patient, pixels=b"\2" * 64))) is Admission.ASIDE
    assert site.bring(image(patient="Käthe", pixels=b"\2" * 64)) is Admission.KEEP


@pytest.mark.parametrize("patient", ["", "A", "PAT 1", "trail  ", "a-b_c.d^e"])
def test_the_id_is_orthancs_own(patient: str) -> None:
    one = image(patient=patient)
    stripped = Image(patient.rstrip(), one.study_uid, one.series_uid, one.sop_uid, b"")
    assert orthanc_ids(one.content) == (stripped.orthanc_id, stripped.series_id)


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 128 + b"DICM", image().content[:150]])
def test_what_is_no_dicom_is_left_to_orthanc(site: Site, content: bytes) -> None:
    assert site.door.judge(content) is Admission.KEEP
    assert site.aside() == []


def test_a_silent_database_is_no_answer(site: Site) -> None:
    site.index.down = True
    with pytest.raises(RuntimeError):
        site.bring(image())


@pytest.mark.parametrize("at", ["write", "fsync", "rename", "fsync_dir"])
def test_what_cannot_be_kept_aside_is_not_acknowledged(
    site: Site, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def fail(name: str, path: Path) -> None:
        if name == at:
            raise OSError(5, "Input/output error", str(path))

    site.bring(image())
    other = image(pixels=b"\2" * 64)
    monkeypatch.setattr(durable, "step", fail)
    with pytest.raises(OSError, match="Input/output"):
        site.bring(other)
    monkeypatch.undo()
    assert site.bring(other) is Admission.ASIDE
    assert site.aside() == [other.content]


def test_leftovers_of_a_kill_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".x.dcm.part").write_bytes(b"half")
    Site(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_room_everything_is_refused_until_there_is_some(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 2 * RESERVE
    monkeypatch.setattr(door_module, "space_of", lambda _path: Space(1, free, PLENTY, 0, 0))
    assert site.bring(image(number=1)) is Admission.KEEP
    free = RESERVE
    assert [site.bring(image(number=n)) for n in (1, 2)] == [Admission.NO_SPACE] * 2
    free = 2 * RESERVE
    assert site.bring(image(number=2)) is Admission.KEEP
    assert [line.partition(" of ")[0] for line in site.index.lines] == [
        "too little space on the volume",
        "enough space again: objects are accepted",
    ]


def test_a_volume_that_cannot_be_looked_at_refuses_nothing(tmp_path: Path) -> None:
    door = AdmissionFilter(
        Settings(tmp_path, (tmp_path / "none",), RESERVE), FakeIndex(), FakeClock().monotonic
    )
    assert door.judge(image().content) is Admission.KEEP


SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]


def encoded(syntax: str, patient: str) -> bytes:
    """A file of 100 kB in that transfer syntax."""
    one = dcmread(io.BytesIO(image(patient="A").content))
    one.SpecificCharacterSet = "ISO_IR 100"
    one.PatientID = patient
    one.PixelData = bytes(100_000)
    one["PixelData"].VR = "OB"
    one.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = io.BytesIO()
    dcmwrite(
        buffer,
        one,
        enforce_file_format=True,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    return buffer.getvalue()


@pytest.mark.parametrize("patient", ["PLAIN", "M\u00fcller"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_orthanc_is_asked_to_read_the_identifiers_alone_and_only_if_they_are_not_plain(
    site: Site, monkeypatch: pytest.MonkeyPatch, syntax: str, patient: str
) -> None:
    asked: list[bytes] = []
    identify = site.index.identify

    def noted(part: bytes) -> tuple[str, str, str, str]:
        asked.append(part)
        return identify(part)

    monkeypatch.setattr(site.index, "identify", noted)
    assert site.door.judge(encoded(syntax, patient)) is Admission.KEEP
    assert len(asked) == (patient != "PLAIN")
    for part in asked:
        assert len(part) < 2000
        assert str(dcmread(io.BytesIO(part)).PatientID) == patient


def test_a_deflated_object_with_no_end_of_elements_before_its_identifiers_is_refused_unread(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "_ELEMENTS", 3)
    content = encoded(DeflatedExplicitVRLittleEndian, "M\u00fcller")
    with pytest.raises(UnreadableError, match="too many elements"):
        site.door.judge(content)


@pytest.mark.parametrize("inflated", range(200, 400, 7))
def test_a_deflated_object_whose_identifiers_are_not_all_inflated_is_refused_unread(
    site: Site, monkeypatch: pytest.MonkeyPatch, inflated: int
) -> None:
    content = encoded(DeflatedExplicitVRLittleEndian, "PLAIN")
    whole = len(head.identifying_part(content)) - len(head._EXPLICIT_META)
    monkeypatch.setattr(head, "_INFLATED", whole * inflated // 400)
    with pytest.raises(UnreadableError):
        site.door.judge(content)


@pytest.mark.parametrize("inflated", range(200, 400, 7))
def test_the_receiver_takes_no_identifier_of_a_deflated_object_that_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inflated: int
) -> None:
    content = encoded(DeflatedExplicitVRLittleEndian, "PLAIN")
    whole = len(head.identifying_part(content)) - len(head._EXPLICIT_META)
    (tmp_path / "object").write_bytes(content)
    with (tmp_path / "object").open("rb") as file:
        start = head._read_meta(content)[1]
        head.read_head(file.fileno(), start, DeflatedExplicitVRLittleEndian)
        monkeypatch.setattr(head, "_INFLATED", whole * inflated // 400)
        monkeypatch.setattr(os, "pread", lambda *_: content[start:])
        with pytest.raises(UnreadableError):
            head.read_head(file.fileno(), start, DeflatedExplicitVRLittleEndian)
