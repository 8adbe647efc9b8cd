"""The operator's requests: in order, exactly once, readable by the extractor; and nothing that lies in their folder stops it."""

from __future__ import annotations

import errno
import json
import os
import pwd
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.core import durable
from ddwd.core.errors import InvalidValueError, StateError, StorageFullError
from ddwd.store.operator_requests import Kind, Request, Requests
from tests.unit.fakes import FakeClock, orthanc_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STUDY = orthanc_id("P", "1")
ITEM = "0123456789abcdef" * 2
RETRY = Request("retry", STUDY)
GOOD = {"schema": 1, "kind": "retry", "study": STUDY, "item": "", "at": "2026-01-02T03:04:05.000Z"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is there."""
    made = tmp_path / "requests"
    made.mkdir()
    return made


def taken(folder: Path) -> list[Request]:
    """What an extractor that has just started takes."""
    return [request for _, request in Requests(folder).take()]


def test_requests_are_taken_in_order_until_they_are_done(tmp_path: Path) -> None:
    clock = FakeClock()
    requests = Requests(tmp_path / "state" / "requests", clock)
    wishes = [RETRY, Request("reconcile"), Request("reconcile", STUDY), Request("release", item=ITEM)]
    for wish in wishes:
        requests.submit(wish)
        clock.advance(0.01)
    assert [request for _, request in requests.take()] == wishes
    for path, _ in requests.take()[:2]:
        requests.done(path)
    assert [request for _, request in requests.take()] == wishes[2:]


def test_a_request_is_readable_whatever_the_umask_and_its_folder_is_not(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        path = Requests(tmp_path / "requests").submit(RETRY)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o770
    assert json.loads(path.read_bytes()).items() >= {"schema": 1, "kind": "retry", "study": STUDY}.items()


def test_nothing_there_is_no_request(tmp_path: Path) -> None:
    assert taken(tmp_path / "none") == []


def test_a_folder_that_is_a_file_stops_neither_side(tmp_path: Path) -> None:
    file = tmp_path / "requests"
    file.touch()
    assert taken(file) == []
    with pytest.raises(StateError, match="group ddwd") as caught:
        Requests(file / "below").submit(RETRY)
    assert "\n" not in str(caught.value)


def test_no_room_is_told_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(name: str, _path: Path) -> None:
        if name == "fsync":
            raise StorageFullError("no room left")

    monkeypatch.setattr(durable, "step", no_room)
    with pytest.raises(StorageFullError):
        Requests(folder).submit(RETRY)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "study", "item"),
    [
        ("retry", "", ""),
        ("retry", "../../ledger", ""),
        ("retry", STUDY + "\n", ""),
        ("retry", STUDY, ITEM),
        ("release", "", ""),
        ("release", "", "../../etc/passwd"),
        ("release", "", ITEM.upper()),
        ("reconcile", "x", ""),
        ("pause", STUDY, ""),
        ("resume", "", ITEM),
        ("delete", STUDY, ""),
        ("drop-hook", STUDY, ""),
    ],
)
def test_what_cannot_be_meant_cannot_be_asked(kind: Kind, study: str, item: str) -> None:
    with pytest.raises(InvalidValueError):
        Request(kind, study, item)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        json.dumps(GOOD).encode()[:-1],
        b"[]",
        b"null",
        b"\xff\xfe\0",
        b"[" * 4000,
        b'"' + b"x" * 5000 + b'"',
        b" " * 5000 + json.dumps(GOOD).encode(),
        *(
            json.dumps(GOOD | {key: value}).encode()
            for key, value in [
                ("schema", 2),
                ("kind", "delete"),
                ("kind", ["retry"]),
                ("study", 7),
                ("study", None),
                ("study", {}),
                ("study", "../../x"),
                ("item", ITEM),
                ("revision", 1),
                ("revision", "1"),
            ]
        ),
        json.dumps({key: value for key, value in GOOD.items() if key != "item"}).encode(),
    ],
)
def test_a_bad_file_is_put_aside_with_one_line_and_the_others_are_taken(
    folder: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (folder / "1\nforged line.json").write_bytes(content)
    Requests(folder).submit(RETRY)
    requests = Requests(folder)
    assert [request for _, request in requests.take()] == [RETRY]
    assert [request for _, request in requests.take()] == [RETRY]
    assert (folder / "1\nforged line.bad").read_bytes() == content
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()


def _link(path: Path) -> None:
    target = path.with_name("elsewhere")
    target.write_text(json.dumps(GOOD))
    path.symlink_to(target)


@pytest.mark.parametrize(
    "put", [os.mkfifo, _link, lambda path: path.mkdir(), lambda path: path.symlink_to("nowhere")]
)
def test_what_is_no_file_is_put_aside_and_not_waited_for(folder: Path, put: Callable[[Path], Any]) -> None:
    put(folder / "0.json")
    Requests(folder).submit(RETRY)
    assert taken(folder) == [RETRY]
    assert os.path.lexists(folder / "0.bad")
    assert not os.path.lexists(folder / "0.json")


def test_a_request_that_cannot_be_read_just_now_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Requests(folder).submit(RETRY)

    def no_descriptor(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", no_descriptor)
        assert taken(folder) == []
    assert taken(folder) == [RETRY]


def test_other_names_are_left_alone(folder: Path) -> None:
    names = {".20260102.json", ".20260102.json.part", "notes.txt", "old.bad"}
    for name in names:
        (folder / name).write_text(json.dumps(GOOD))
    assert taken(folder) == []
    assert {path.name for path in folder.iterdir()} == names


def test_a_flood_is_taken_by_and_by(folder: Path) -> None:
    for number in range(250):
        (folder / f"{number:04}.json").write_text(json.dumps(GOOD))
    requests = Requests(folder)
    for count in (100, 100, 50, 0):
        some = requests.take()
        assert len(some) == count
        for path, _ in some:
            requests.done(path)


def test_what_can_be_neither_removed_nor_renamed_is_taken_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests = Requests(folder)
    good = requests.submit(RETRY)
    (folder / "0.json").write_text("no request")

    def refuse(*_: object, **_more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.rename", refuse)
    monkeypatch.setattr("os.unlink", refuse)
    assert requests.take() == [(good, RETRY)]
    requests.done(good)
    assert requests.take() == []
    assert len(caplog.records) == 2


def test_who_asked_is_the_owner_of_the_file_whatever_stands_in_it(tmp_path: Path) -> None:
    requests = Requests(tmp_path / "requests")
    requests.submit(Request("reconcile"))
    path = requests.submit(Request("reconcile", by="colleague"))
    (tmp_path / "requests" / "9.json").write_text(
        json.dumps(json.loads(path.read_text()) | {"by": "x\x1b[2J" + "y" * 100})
    )
    names = [request.by for _, request in requests.take()]
    assert names == [pwd.getpwuid(os.getuid()).pw_name] * 3
