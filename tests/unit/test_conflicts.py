"""What a door put aside ends in quarantine, unless Orthanc holds the same elements already."""

from __future__ import annotations

import hashlib
import io
import os
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread

from ddwd.core.audit import Audit, Event
from ddwd.core.errors import PeerDownError
from ddwd.extractor.orphans import Conflicts
from ddwd.extractor.quarantine import Quarantine
from tests.unit.fakes import FakeClock, FakeOrthanc, Image, image
from tests.unit.planted import PLANTED

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.config.schema import NodeName


class Site:
    """Both doors' folders and Orthancs, and the quarantine."""

    def __init__(self, folder: Path) -> None:
        clock = FakeClock()
        self.peers: dict[NodeName, FakeOrthanc] = {
            "gateway": FakeOrthanc("gateway", clock),
            "storage": FakeOrthanc("storage", clock),
        }
        self.folders = {node: folder / node for node in self.peers}
        for one in self.folders.values():
            one.mkdir()
        self.events: list[Event] = []
        audit = Audit(lambda event, _message, _fields: self.events.append(event))
        self.quarantine = Quarantine(folder / "quarantine", clock, audit)
        self.conflicts = Conflicts(self.folders, self.peers, self.quarantine)

    def put(self, node: NodeName, one: Image) -> Path:
        digest = hashlib.md5(one.content).hexdigest()  # noqa: S324
        path = self.folders[node] / f"{one.orthanc_id}.{digest}.dcm"
        path.write_bytes(one.content)
        return path


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("node", ["gateway", "storage"])
def test_other_content_goes_to_quarantine_with_its_bytes_and_reason(site: Site, node: NodeName) -> None:
    first, other = image(), image(pixels=b"\2" * 64)
    site.peers[node].store(first)
    path = site.put(node, other)
    assert site.conflicts.collect() == 1
    (entry,) = site.quarantine.entries()
    subject = entry.subject
    assert (subject.kind, subject.study, subject.instance) == ("conflict", first.study_id, first.orthanc_id)
    assert (subject.study_uid, subject.sop_uid) == (first.study_uid, first.sop_uid)
    assert node in subject.reason
    assert "(7fe0,0010)" in subject.reason.lower()
    assert entry.file is not None
    assert entry.file.read_bytes() == other.content
    assert not path.exists()
    assert site.events == [Event.CONFLICT]


def test_the_same_again_is_the_same_entry(site: Site) -> None:
    site.peers["gateway"].store(image())
    for _ in range(3):
        site.put("gateway", image(pixels=b"\2" * 64))
        site.conflicts.collect()
    assert site.quarantine.count() == 1


def test_equal_elements_encoded_otherwise_are_dropped(site: Site) -> None:
    one = image()
    data = dcmread(io.BytesIO(one.content))
    data.preamble = b"\1" * 128
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    again = Image(one.patient_id, one.study_uid, one.series_uid, one.sop_uid, buffer.getvalue())
    assert again.content != one.content
    site.peers["gateway"].store(one)
    path = site.put("gateway", again)
    assert site.conflicts.collect() == 0
    assert not path.exists()
    assert site.quarantine.count() == 0


def test_what_is_stored_no_more_leaves_the_newcomer_in_quarantine(site: Site) -> None:
    site.put("storage", image())
    assert site.conflicts.collect() == 1
    (entry,) = site.quarantine.entries()
    assert (entry.subject.study, entry.subject.study_uid) == ("", image().study_uid)


def test_while_an_orthanc_is_down_everything_stays(site: Site) -> None:
    site.peers["gateway"].store(image())
    path = site.put("gateway", image(pixels=b"\2" * 64))
    site.peers["gateway"].down = True
    with pytest.raises(PeerDownError):
        site.conflicts.collect()
    assert path.exists()
    assert site.quarantine.count() == 0


def test_unfinished_and_foreign_files_are_not_touched(site: Site) -> None:
    for name in (".x.dcm.part", "x.dcm", "x"):
        (site.folders["gateway"] / name).write_bytes(b"x")
    assert site.conflicts.collect() == 0
    assert len(list(site.folders["gateway"].iterdir())) == 3


@pytest.mark.parametrize("planted", PLANTED)
def test_what_the_orthanc_s_user_planted_is_put_aside_and_keeps_nobody_waiting(
    site: Site, planted: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{image(number=2).orthanc_id}.{'0' * 32}.dcm"
    PLANTED[planted](site.folders["gateway"] / name)
    site.put("gateway", image())
    assert site.conflicts.collect() == 1
    left = {path.name for path in site.folders["gateway"].iterdir()} - {"elsewhere"}
    assert left == {name.replace(".dcm", ".bad")}
    assert "renamed to *.bad" in caplog.text
    assert site.conflicts.collect() == 0


def test_an_empty_object_is_no_crash(site: Site) -> None:
    site.peers["gateway"].store(image())
    (site.folders["gateway"] / f"{image().orthanc_id}.{'0' * 32}.dcm").touch()
    assert site.conflicts.collect() == 1


def test_what_cannot_be_renamed_is_told_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    name = f"{image(number=2).orthanc_id}.{'0' * 32}"
    os.mkfifo(site.folders["gateway"] / f"{name}.dcm")
    (site.folders["gateway"] / f"{name}.bad").mkdir()
    for _ in range(3):
        assert site.conflicts.collect() == 0
    assert len(caplog.records) == 1
