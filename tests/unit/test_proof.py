"""`ddwd verify` over studies that the pipeline itself published, with one thing wrong at a time."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.cli.main import parser
from ddwd.config.paths import Paths
from ddwd.core.errors import NotFoundError, PeerDownError, PeerRefusedError, StateError
from ddwd.status import study_lookup
from ddwd.store.custody import Custody
from ddwd.store.record_check import RecordChecker
from tests.unit.fakes import FakeOrthanc, Image, image
from tests.unit.portal import Portal

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.core.model import OrthancId
    from ddwd.store.custody import Record

_PATIENT = "PAT1"
_ACCESSION = "ACC-17"
_FIRST = [image(1, number, patient=_PATIENT) for number in (1, 2, 3)]
_SECOND = [image(2, number, patient=_PATIENT) for number in (1, 2)]
_ONE = _FIRST[1]
_FILE = f"{_ONE.series_uid}/{_ONE.sop_uid}.dcm"
NO_CHAIN = "the chain has no signed head yet: nothing proves the custody records themselves\n"
_UNKNOWN = "0" * 8 + "-00000000" * 4


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    """Two published studies; the first has an accession number."""
    made = Portal(tmp_path)
    made.gateway.store(*_FIRST, *_SECOND)
    made.run()
    assert len(made.published()) == 5
    record = made.custody.read(_ONE.study_id)
    assert record is not None
    made.custody.write(replace(record, accession=_ACCESSION))
    return made


def _path(portal: Portal, one: Image = _ONE) -> Path:
    return portal.paths.output / _PATIENT / one.study_uid / one.series_uid / f"{one.sop_uid}.dcm"


def _said(portal: Portal, *words: str) -> tuple[int, str]:
    out = io.StringIO()
    args = parser().parse_args(["verify", *words])
    status = args.run(args, portal.config, out)
    assert _PATIENT not in out.getvalue()
    return status, out.getvalue()


def _found(portal: Portal, *words: str) -> dict[str, Any]:
    """What --json says; its exit status agrees with it, and with what is said to people."""
    status, said = _said(portal, "--json", *words)
    found: dict[str, Any] = json.loads(said)
    wrong = sum(len(found[kind]) for kind in ("missing", "changed", "extra", "damaged"))
    assert status == (1 if wrong else 0)
    assert _said(portal, *words)[0] == status
    return found


def _differing(found: dict[str, Any]) -> dict[str, list[str]]:
    return {
        kind: [row["file"] for row in found[kind]] for kind in ("missing", "changed", "extra") if found[kind]
    }


def test_what_was_published_is_as_recorded(portal: Portal) -> None:
    assert _found(portal, "--all") == {
        "schema": "ddwd.verify/1", "well": True, "studies": 2, "images": 5, "removed": 0, "missing": [], "changed": [], "extra": [], "damaged": [], "chain": None
    }  # fmt: skip
    assert _said(portal, "--all") == (0, "2 studies, 5 images: all as recorded\n" + NO_CHAIN)


@pytest.mark.parametrize("name", [_ONE.study_uid, _ACCESSION, _ONE.study_id, _ONE.study_id.upper()])
def test_a_study_is_found_by_each_of_its_names(portal: Portal, name: str) -> None:
    found = _found(portal, name)
    assert (found["studies"], found["images"]) == (1, 3)


def test_all_studies_of_one_name_are_verified(portal: Portal) -> None:
    same_uid = image(1, 9, patient="PAT2")
    portal.gateway.store(same_uid)
    portal.run()
    assert _found(portal, _ONE.study_uid)["studies"] == 2
    assert _found(portal, same_uid.study_id)["images"] == 1


@pytest.mark.parametrize("name", ["1.2.3.99", "", " ", _UNKNOWN, "../../ledger", _PATIENT])
def test_a_study_that_is_not_there_is_told(portal: Portal, name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        _said(portal, name)
    assert caught.value.exit_status == 66


@pytest.mark.parametrize("words", [[], ["--all", "1.2.3.1"]])
def test_it_is_one_study_or_all(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(["verify", *words])
    assert caught.value.code == 64


def test_one_flipped_byte_is_named(portal: Portal) -> None:
    content = bytearray(_path(portal).read_bytes())
    content[len(content) // 2] ^= 1
    _path(portal).write_bytes(content)
    found = _found(portal, "--all")
    assert found["changed"] == [
        {
            "study_uid": _ONE.study_uid,
            "file": _FILE,
            "sop_uid": _ONE.sop_uid,
            "reason": "its SHA-256 is not the recorded one",
        }
    ]
    assert _differing(found) == {"changed": [_FILE]}
    assert _found(portal, _SECOND[0].study_uid)["changed"] == []


def test_a_removed_file_is_named(portal: Portal) -> None:
    _path(portal).unlink()
    assert _differing(_found(portal, "--all")) == {"missing": [_FILE]}
    line = f"missing  {_ONE.study_uid} {_FILE}\n"
    counts = "2 studies, 5 images: 1 missing, 0 changed, 0 extra; 0 damaged records\n"
    assert _said(portal, "--all") == (1, line + counts + NO_CHAIN)


def test_a_study_that_is_gone_is_named_image_by_image(portal: Portal) -> None:
    (portal.paths.output / _PATIENT).rename(portal.paths.output / "elsewhere")
    assert len(_found(portal, "--all")["missing"]) == 5


def test_an_extra_file_is_named(portal: Portal) -> None:
    extra = _path(portal).with_name("more.dcm")
    extra.write_bytes(b"")
    _path(portal).with_name("notes.txt").write_bytes(b"")
    assert _differing(_found(portal, "--all")) == {"extra": [f"{_ONE.series_uid}/more.dcm"]}


def test_a_renamed_file_is_missing_and_extra(portal: Portal) -> None:
    _path(portal).rename(_path(portal).with_name("other.dcm"))
    found = _differing(_found(portal, _ONE.study_uid))
    assert found == {"missing": [_FILE], "extra": [f"{_ONE.series_uid}/other.dcm"]}


def test_a_name_cannot_command_the_terminal(portal: Portal) -> None:
    name = os.fsdecode(b"\x1b[2J\xff\n.dcm")
    _path(portal).with_name(name).write_bytes(b"")
    said = _said(portal, "--all")[1]
    assert said.isascii()
    assert "\x1b" not in said
    assert len(said.splitlines()) == 3


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _as_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [_truncate, _as_link, _as_folder, _as_pipe])
def test_what_is_no_longer_that_file_is_changed(portal: Portal, spoil: Any) -> None:
    spoil(_path(portal))
    found = _found(portal, "--all")
    assert _differing(found) == {"changed": [_FILE]}
    assert found["changed"][0]["reason"]


def _record(portal: Portal) -> Path:
    return portal.custody.path(_ONE.study_id)


def _edited(portal: Portal, before: str, after: str) -> bytes:
    text = _record(portal).read_text(encoding="ascii")
    assert before in text
    return text.replace(before, after).encode("ascii")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{", ""),
        ('"schema": 2', '"schema": 99'),
        (f'"study": "{_ONE.study_id}"', f'"study": "{_UNKNOWN}"'),
        (f'"folder": "{_PATIENT}/', '"folder": "../'),
        (f'"folder": "{_PATIENT}/', '"folder": "/'),
        (f'"study_uid": "{_ONE.study_uid}"', '"study_uid": 7'),
    ],
)
def test_a_damaged_record_is_named_and_hides_no_other(portal: Portal, before: str, after: str) -> None:
    _record(portal).write_bytes(_edited(portal, before, after))
    found = _found(portal, "--all")
    assert [row["study"] for row in found["damaged"]] == [_ONE.study_id]
    assert (found["studies"], found["images"]) == (1, 2)
    assert str(_record(portal)) in _said(portal, "--all")[1]


def test_a_damaged_record_may_be_that_of_any_study_but_by_orthanc_id(portal: Portal) -> None:
    _record(portal).write_bytes(b"\0")
    assert len(_found(portal, _ONE.study_uid)["damaged"]) == 1
    assert len(_found(portal, _ONE.study_id)["damaged"]) == 1
    assert _found(portal, _SECOND[0].study_id)["damaged"] == []


def test_a_record_with_another_digest_shows_its_image(portal: Portal) -> None:
    record = portal.custody.read(_ONE.study_id)
    assert record is not None
    kept = record.images[_ONE.orthanc_id]
    record.images[_ONE.orthanc_id] = replace(kept, sha256=kept.sha256[::-1])
    portal.custody.write(record)
    assert _differing(_found(portal, "--all")) == {"changed": [_FILE]}


class _LateCustody(Custody):
    """Reads the record as it was before the last images came, the first time."""

    def __init__(self, folder: Path, before: Record) -> None:
        super().__init__(folder)
        self._before = [before]

    def read(self, study: Any) -> Record | None:
        return self._before.pop() if self._before else super().read(study)


def test_images_that_come_while_their_study_is_read_are_not_extra(portal: Portal) -> None:
    before = portal.custody.read(_ONE.study_id)
    assert before is not None
    late = image(1, 4, patient=_PATIENT)
    portal.gateway.store(late)
    portal.storage.store(late)
    portal.storage.settle(late.study_id)
    portal.run()
    prover = RecordChecker(_LateCustody(portal.paths.custody, before), portal.paths)
    proof = prover.check([_ONE.study_id])
    assert proof.is_sound
    assert proof.images == 4


def test_nothing_published_is_nothing_wrong(tmp_path: Path) -> None:
    assert _said(Portal(tmp_path), "--all") == (0, "0 studies, 0 images: all as recorded\n" + NO_CHAIN)


def test_records_that_cannot_be_listed_are_not_taken_for_none(tmp_path: Path) -> None:
    portal = Portal(tmp_path)
    portal.paths.state.mkdir(exist_ok=True)
    portal.paths.custody.write_bytes(b"")
    with pytest.raises(StateError, match="Not a directory"):
        _said(portal, "--all")


def test_the_progress_adds_up(portal: Portal) -> None:
    prover = RecordChecker(portal.custody, Paths(portal.config))
    _record(portal).write_bytes(b"")
    seen: list[float] = []
    prover.check(prover.studies(), seen.append)
    assert sum(seen) == pytest.approx(2.0)


# --- with ORTHANC2's copies ------------------------------------------------------------------------------------------


@pytest.fixture
def asked(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> Portal:
    """The same, with both Orthancs for --storage to ask."""
    monkeypatch.setattr(study_lookup, "both", lambda _config: (portal.gateway, portal.storage))
    return portal


def test_the_proof_with_storage_is_repeated(asked: Portal) -> None:
    status, said = _said(asked, "--all", "--storage", "--json")
    found = json.loads(said)
    assert (status, found["images"], found["differs"], found["gone"]) == (0, 5, [], [])
    assert _said(asked, "--all", "--storage") == (0, "2 studies, 5 images: all as recorded\n" + NO_CHAIN)


def test_a_copy_that_changed_on_storage_is_named_with_storage_only(asked: Portal) -> None:
    other = image(1, 2, patient=_PATIENT, pixels=b"\7" * 64)
    asked.storage.images[_ONE.orthanc_id] = other
    assert _said(asked, "--all")[0] == 0
    status, said = _said(asked, _ONE.study_uid, "--storage")
    assert status == 1
    assert f"differs  {_ONE.study_uid} {_FILE}: ORTHANC2's copy is different: element (7FE0,0010)" in said
    assert "1 differs" in said


def test_a_copy_that_is_gone_from_storage_is_named_with_storage_only(asked: Portal) -> None:
    asked.storage.delete_study(_ONE.study_id)
    assert _said(asked, "--all")[0] == 0
    status, said = _said(asked, "--all", "--storage", "--json")
    assert (status, len(json.loads(said)["gone"])) == (1, 3)


def test_what_is_wrong_on_disk_is_named_once(asked: Portal) -> None:
    asked.storage.delete_study(_ONE.study_id)
    _path(asked).unlink()
    found = json.loads(_said(asked, "--all", "--storage", "--json")[1])
    assert (len(found["missing"]), len(found["gone"])) == (1, 2)


def test_a_storage_that_cannot_give_its_copy_has_none(asked: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: FakeOrthanc, _instance: OrthancId) -> str:
        raise PeerRefusedError("storage: HTTP 500")

    monkeypatch.setattr(FakeOrthanc, "md5", refuse)
    found = json.loads(_said(asked, _ONE.study_uid, "--storage", "--json")[1])
    assert [row["reason"] for row in found["differs"]] == [
        "ORTHANC2 cannot give its copy (storage: HTTP 500)"
    ] * 3


def test_a_storage_that_does_not_answer_proves_nothing(asked: Portal) -> None:
    asked.storage.down = True
    with pytest.raises(PeerDownError) as caught:
        _said(asked, "--all", "--storage")
    assert caught.value.exit_status == 69
    assert _said(asked, "--all")[0] == 0
