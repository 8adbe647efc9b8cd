"""The drop folder: nothing is sent before it is complete, nothing is moved before all of it was taken, nothing is lost."""

from __future__ import annotations

import os
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

from ddwd.core import watchdog
from ddwd.core.audit import Audit, Event
from ddwd.core.errors import InvalidValueError, PeerDownError, StorageFullError
from ddwd.dicom.store_scu import Answer
from ddwd.inbox import classify
from ddwd.inbox.processor import InboxProcessor, Stopped
from ddwd.inbox.scanner import InboxScanner, OpenFileTracker
from tests.studies import made_up_ct, write_disc
from tests.unit.fakes import FakeClock, power_cut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ddwd.dicom.store_scu import Outgoing

SETTLE = 10.0
RESERVE = 1024**2


@dataclass
class FakeGateway:
    """Takes what is sent, by SOPInstanceUID, unless it is down or refuses."""

    taken: list[str] = field(default_factory=list)
    down: bool = False
    refuses: set[str] = field(default_factory=set)
    during: Callable[[], None] = lambda: None

    def send(self, outgoing: Sequence[Outgoing], answered: Callable[[Answer], None]) -> None:
        if self.down:
            raise PeerDownError("ORTHANC1 does not answer")
        for one in outgoing:
            uid = str(pydicom.dcmread(one.path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
            self.during()
            if uid in self.refuses:
                answered(Answer(one.path, 0xA700, "0xA700 Failure: out of resources"))
                continue
            self.taken.append(uid)
            answered(Answer(one.path, 0, ""))


class Inbox:
    """A drop folder with a keeper; `restart` throws all memory away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.clock = FakeClock()
        self.gateway = FakeGateway()
        self.writing: frozenset[Path] = frozenset()
        self.events: list[tuple[Event, str, dict[str, str]]] = []
        self.stopping = False
        self.restart()

    def restart(self) -> None:
        scanner = InboxScanner(self.folder, SETTLE, self.clock, lambda: self.writing)
        audit = Audit(lambda *record: self.events.append(record))
        self.processor = InboxProcessor(self.folder, scanner, self.gateway.send, self.clock, audit, RESERVE)
        self.processor.begin()

    def turn(self) -> str:
        watchdog.install(self._alive)
        return self.processor.turn()

    def _alive(self, _wait: float) -> None:
        if self.stopping:
            raise Stopped

    def settle(self) -> str:
        """See what is there, let it settle, and take it."""
        self.turn()
        self.clock.advance(SETTLE)
        return self.turn()

    def tree(self) -> set[str]:
        """Every file, below the drop folder."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if not path.is_dir()}

    def today(self, name: str) -> str:
        return f"sent/{self.clock.utc():%Y-%m-%d}/{name}"


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "inbox")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Three images of one study."""
    return [one.path for one in made_up_ct(tmp_path / "ct", 3, seed=90, size=16).instances]


def _uids(paths: Sequence[Path]) -> list[str]:
    return sorted(str(pydicom.dcmread(path).SOPInstanceUID) for path in paths)


def _folder(inbox: Inbox, images: Sequence[Path], name: str = "study") -> Path:
    made = inbox.folder / name
    (made / "a").mkdir(parents=True)
    for path in images:
        shutil.copy(path, made / "a" / path.name)
    return made


def _zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


# --- when it is complete ----------------------------------------------------------------------------------------------


def test_a_file_is_sent_once_it_has_not_changed_for_the_time_of_settling(
    inbox: Inbox, images: list[Path]
) -> None:
    target = inbox.folder / "one.dcm"
    content = images[0].read_bytes()
    target.write_bytes(content[:500])
    inbox.turn()
    inbox.clock.advance(SETTLE - 1)
    with target.open("ab") as file:
        file.write(content[500:])
    inbox.turn()
    inbox.clock.advance(SETTLE - 1)
    inbox.turn()
    assert inbox.gateway.taken == []
    inbox.clock.advance(1)
    assert inbox.turn() == "1 items sent, 0 rejected, 0 arriving, 0 waiting"
    assert inbox.gateway.taken == _uids(images[:1])
    assert inbox.tree() == {inbox.today("one.dcm")}


def test_a_file_that_somebody_has_open_for_writing_waits_however_long(
    inbox: Inbox, images: list[Path]
) -> None:
    study = _folder(inbox, images)
    inbox.writing = frozenset({study / "a" / images[0].name})
    inbox.settle()
    inbox.settle()
    assert inbox.gateway.taken == []
    inbox.writing = frozenset()
    inbox.turn()
    assert sorted(inbox.gateway.taken) == _uids(images)


@pytest.mark.parametrize("name", [".one.dcm", "one.dcm.part", "folder/one.part", "empty/"])
def test_hidden_names_unfinished_ones_and_empty_folders_wait(
    inbox: Inbox, images: list[Path], name: str
) -> None:
    target = inbox.folder / name
    (target if name.endswith("/") else target.parent).mkdir(exist_ok=True)
    if not name.endswith("/"):
        shutil.copy(images[0], target)
    before = inbox.tree()
    inbox.settle()
    assert (inbox.gateway.taken, inbox.tree()) == ([], before)


def test_the_kernel_tells_who_writes_and_a_changed_mode_is_no_writing(tmp_path: Path) -> None:
    open_files = OpenFileTracker(tmp_path, FakeClock(), lambda: None)
    (tmp_path / "below").mkdir()
    open_files.watch([tmp_path / "below"])
    targets = [tmp_path / "one", tmp_path / "below" / "two"]
    files = [target.open("wb", buffering=0) for target in targets]
    for file in files:
        file.write(b"x")
    _until(lambda: open_files.writing() == set(targets))
    for file in files:
        file.close()
    _until(lambda: not open_files.writing())
    targets[0].chmod(0o600)
    with (tmp_path / "last").open("wb", buffering=0) as last:  # what comes after it was seen, so it was too
        last.write(b"x")
        _until(lambda: open_files.writing() == {tmp_path / "last"})
    open_files.watch([])
    with targets[0].open("wb", buffering=0) as again:
        again.write(b"x")
        _until(lambda: targets[0] in open_files.writing())


def _until(holds: Callable[[], bool]) -> None:
    """For what another thread brings about; the test's own limit ends it."""
    while not holds():
        os.sched_yield()


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_a_folder_is_sent_whole_and_moved_as_it_is_with_what_is_no_dicom_named_beside_it(
    inbox: Inbox, images: list[Path]
) -> None:
    study = _folder(inbox, images)
    (study / "README.txt").write_text("viewer", encoding="utf-8")
    (study / "link.dcm").symlink_to(images[0])
    inbox.settle()
    assert sorted(inbox.gateway.taken) == _uids(images)
    moved = {
        inbox.today(f"study/{name}")
        for name in ("README.txt", "link.dcm", *(f"a/{one.name}" for one in images))
    }
    assert inbox.tree() == moved | {inbox.today("study.txt")}
    note = (inbox.folder / inbox.today("study.txt")).read_text(encoding="utf-8")
    assert "study/README.txt: not a DICOM file\n" in note
    assert "study/link.dcm: not a file: links are not followed\n" in note
    assert [(event, fields["DDWD_INSTANCES"]) for event, _, fields in inbox.events] == [
        (Event.INBOX_SENT, "3"),
        (Event.INBOX_REJECTED, "2"),
    ]
    assert inbox.events[0][2]["DDWD_STUDY_UID"] == str(pydicom.dcmread(images[0]).StudyInstanceUID)


def test_a_dicomdir_is_not_sent_its_images_are_and_those_missing_are_named(
    inbox: Inbox, images: list[Path], tmp_path: Path
) -> None:
    write_disc(images, tmp_path / "disc")
    lost = next(path for path in (tmp_path / "disc").rglob("*") if path.is_file() and path.name != "DICOMDIR")
    gone = _uids([lost])
    lost.unlink()
    (tmp_path / "disc").rename(inbox.folder / "disc")
    inbox.settle()
    assert sorted(inbox.gateway.taken) == sorted(set(_uids(images)) - set(gone))
    note = (inbox.folder / inbox.today("disc.txt")).read_text(encoding="utf-8")
    assert note.endswith(f"{lost.relative_to(tmp_path / 'disc')}: named in the DICOMDIR, and missing\n")


def test_a_zip_is_sent_from_inside_and_moved_as_it_is(inbox: Inbox, images: list[Path]) -> None:
    files = {f"x/{one.name}": one.read_bytes() for one in images}
    _zip(inbox.folder / "study.zip", files | {"../../escaped.dcm": images[0].read_bytes(), "x/a.txt": b"no"})
    inbox.settle()
    assert sorted(set(inbox.gateway.taken)) == _uids(images)
    assert inbox.tree() == {inbox.today("study.zip"), inbox.today("study.zip.txt")}
    assert not list(inbox.folder.parent.rglob("escaped*"))


def test_the_same_name_again_replaces_nothing(inbox: Inbox, images: list[Path]) -> None:
    for _ in range(2):
        shutil.copy(images[0], inbox.folder / "one.dcm")
        inbox.settle()
    assert inbox.tree() == {inbox.today("one.dcm"), inbox.today("2-one.dcm")}


def test_a_name_as_long_as_can_be_is_no_trouble(inbox: Inbox, images: list[Path]) -> None:
    for content in (images[0].read_bytes(), b"rubbish"):
        (inbox.folder / ("x" * 255)).write_bytes(content)
        inbox.settle()
    assert {path.split("/")[0] for path in inbox.tree()} == {"sent", "rejected"}


# --- what is rejected -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path, _: path.write_bytes(b"no"), "not a DICOM file"),
        (lambda path, _: path.symlink_to("/etc/passwd"), "not a file: links are not followed"),
        (lambda path, _: os.mkfifo(path), "not a file: links are not followed"),
        (lambda path, _: _zip(path, {"a": b"no", "b": b"neither"}), "no DICOM file among its 2 files"),
        (lambda path, image: path.write_bytes(_torn(path, image)), "the zip is damaged"),
        (lambda path, _: _zip(path, {"a": b"no"}, zipfile.ZIP_LZMA), "uses an unsupported compression"),
        (lambda path, image: _zip(path, {"a/DICOMDIR": _dicomdir(image)}), "a DICOMDIR without the images"),
        (lambda path, image: path.write_bytes(_dicomdir(image)), "a DICOMDIR without the images"),
    ],
    ids=[
        "rubbish",
        "link",
        "pipe",
        "zip of rubbish",
        "torn zip",
        "unknown zip",
        "zipped dicomdir",
        "dicomdir",
    ],
)
def test_what_holds_no_dicom_is_rejected_with_the_reason_beside_it(
    inbox: Inbox, images: list[Path], make: Callable[[Path, Path], None], reason: str
) -> None:
    make(inbox.folder / "DOE.bin", images[0])
    said = inbox.settle()
    assert said == "0 items sent, 1 rejected, 0 arriving, 0 waiting"
    assert {path.name for path in (inbox.folder / "rejected").iterdir()} == {"DOE.bin", "DOE.bin.txt"}
    assert reason in (inbox.folder / "rejected/DOE.bin.txt").read_text(encoding="utf-8")
    ((event, message, fields),) = inbox.events
    assert event == Event.INBOX_REJECTED
    assert "DOE" not in message + str(fields)


def _torn(path: Path, image: Path) -> bytes:
    content = bytearray(_zip(path, {"a": image.read_bytes()}, zipfile.ZIP_STORED).read_bytes())
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def _dicomdir(image: Path) -> bytes:
    write_disc([image], image.parent / "disc")
    return (image.parent / "disc" / "DICOMDIR").read_bytes()


def test_a_zip_is_unpacked_with_signs_of_life_and_a_stop_leaves_nothing(
    tmp_path: Path, images: list[Path]
) -> None:
    packed = _zip(tmp_path / "x.zip", {"a": images[0].read_bytes() + bytes(3 * 1024**2)})
    signs: list[int] = []
    watchdog.install(lambda _wait: signs.append(1))
    classify.unpack(packed, tmp_path, RESERVE)
    assert len(signs) >= 4
    (tmp_path / "000001.dcm").unlink()

    left = iter(signs[:-1])

    def stop(_wait: float) -> None:
        if next(left, None) is None:
            raise Stopped

    watchdog.install(stop)
    with pytest.raises(Stopped):
        classify.unpack(packed, tmp_path, RESERVE)
    assert not list(tmp_path.glob("*.dcm"))


def test_a_zip_that_lists_millions_is_not_read(tmp_path: Path) -> None:
    names = {f"{number:>0200}": b"" for number in range(40_000)}
    with pytest.raises(InvalidValueError, match="lists more files"):
        classify.unpack(_zip(tmp_path / "many.zip", names, zipfile.ZIP_STORED), tmp_path, RESERVE)


def test_of_a_bomb_only_the_first_bytes_are_unpacked(tmp_path: Path) -> None:
    bomb = _zip(tmp_path / "bomb.zip", {"zeros": bytes(64 * 1024**2)})
    (tmp_path / "work").mkdir()
    assert classify.unpack(bomb, tmp_path / "work", RESERVE) == ([], ["zeros"])
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("free", "total", "error"), [(10, 9000, StorageFullError), (10, 1000, InvalidValueError)]
)
def test_a_zip_for_which_there_is_no_room_waits_and_one_larger_than_the_disk_is_rejected(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: list[Path],
    free: int,
    total: int,
    error: type[Exception],
) -> None:
    packed = _zip(tmp_path / "x.zip", {"a": images[0].read_bytes()})
    facts = os.statvfs_result((4096, 1, total, 0, free, 0, 0, 1000, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: facts)
    with pytest.raises(error):
        classify.unpack(packed, tmp_path, RESERVE)
    assert not list(tmp_path.glob("*.dcm"))


# --- what waits -------------------------------------------------------------------------------------------------------


def test_while_the_gateway_is_down_it_stays_is_told_and_goes_later(inbox: Inbox, images: list[Path]) -> None:
    study = _folder(inbox, images)
    inbox.gateway.down = True
    assert inbox.settle() == "0 items sent, 0 rejected, 0 arriving, 1 waiting: see waiting"
    assert study.is_dir()
    assert "ORTHANC1 does not answer" in (inbox.folder / "waiting/study.txt").read_text(encoding="utf-8")
    inbox.gateway.down = False
    inbox.turn()
    assert inbox.gateway.taken == []  # not at once again
    inbox.clock.advance(10)
    inbox.turn()
    assert sorted(inbox.gateway.taken) == _uids(images)
    assert not (inbox.folder / "waiting/study.txt").exists()
    assert not study.exists()


def test_where_one_image_is_refused_nothing_is_moved_and_all_is_sent_again(
    inbox: Inbox, images: list[Path]
) -> None:
    study = _folder(inbox, images)
    inbox.gateway.refuses = set(_uids(images[1:2]))
    inbox.settle()
    note = (inbox.folder / "waiting/study.txt").read_text(encoding="utf-8")
    assert "1 of 3 images were not accepted: 0xA700" in note
    assert len(list(study.rglob("*.dcm"))) == 3
    inbox.gateway.refuses = set()
    inbox.clock.advance(10)
    inbox.turn()
    assert sorted(set(inbox.gateway.taken)) == _uids(images)
    assert not study.exists()


def test_what_changes_while_it_is_sent_is_sent_again(inbox: Inbox, images: list[Path]) -> None:
    study = _folder(inbox, images[:2])

    def add() -> None:
        shutil.copy(images[2], study / "late.dcm")

    inbox.gateway.during = add
    inbox.settle()
    assert study.is_dir()
    inbox.gateway.during = lambda: None
    inbox.settle()
    assert set(inbox.gateway.taken) == set(_uids(images))
    assert not study.exists()


def test_what_may_not_be_read_or_moved_is_not_sent_and_goes_once_it_may(
    inbox: Inbox, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _folder(inbox, images)
    usual = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != study and usual(path, mode)
    )  # root may anything
    inbox.settle()
    assert inbox.gateway.taken == []
    assert "chmod -R g+rwX" in (inbox.folder / "waiting/study.txt").read_text(encoding="utf-8")
    monkeypatch.setattr(os, "access", usual)
    study.chmod(0o777)  # a change is reason enough to look again
    inbox.settle()
    assert len(inbox.gateway.taken) == 3


def test_what_was_taken_away_waits_no_longer(inbox: Inbox, images: list[Path]) -> None:
    inbox.gateway.down = True
    study = _folder(inbox, images)
    inbox.settle()
    shutil.rmtree(study)
    assert inbox.turn() == "0 items sent, 0 rejected, 0 arriving, 0 waiting"
    assert inbox.tree() == set()


def test_a_stop_in_the_middle_leaves_the_item_for_the_next_start(inbox: Inbox, images: list[Path]) -> None:
    _folder(inbox, images)

    def stop() -> None:
        inbox.stopping = True

    inbox.gateway.during = stop
    with pytest.raises(Stopped):
        inbox.settle()
    assert len(inbox.gateway.taken) == 1
    inbox.stopping, inbox.gateway.during = False, lambda: None
    inbox.restart()
    inbox.settle()
    assert set(inbox.gateway.taken) == set(_uids(images))
    assert not (inbox.folder / ".work").exists()


def test_a_power_cut_at_any_step_loses_nothing_and_leaves_nothing_half_moved(
    tmp_path: Path, images: list[Path]
) -> None:
    for steps in range(100):
        inbox = Inbox(tmp_path / f"inbox{steps}")
        _zip(inbox.folder / "a.zip", {one.name: one.read_bytes() for one in images} | {"x.txt": b"x"})
        (inbox.folder / "b").write_bytes(b"rubbish")
        was_cut = power_cut(steps, inbox.settle)
        inbox.restart()
        inbox.settle()
        assert set(inbox.gateway.taken) == set(_uids(images))
        assert inbox.tree() == {
            *(inbox.today(name) for name in ("a.zip", "a.zip.txt")),
            *("rejected/b", "rejected/b.txt"),
        }
        if not was_cut:
            break
    assert steps > 5
