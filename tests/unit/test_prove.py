"""`ddwd prove` and the chain's part of `ddwd verify`, over studies that the pipeline published and a chain with signed heads."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

from ddwd.chain import check_proof, records
from ddwd.chain.entry import CHAINED
from ddwd.chain.head import HeadFiles
from ddwd.cli import signer_wait
from ddwd.cli.main import parser
from ddwd.core.errors import InvalidValueError, NotFoundError, StateError
from tests import readme
from tests.unit.chain import signed
from tests.unit.fakes import image
from tests.unit.test_chain_records import FIRST, STUDIES, Chained

if TYPE_CHECKING:
    from collections.abc import Callable

UID = STUDIES[0][0].study_uid


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens while a verb waits for the signer: each wait does one of these, in order."""
    happens: list[Callable[[], object]] = []

    def wait(_seconds: float) -> None:
        if happens:
            happens.pop(0)()

    monkeypatch.setattr(signer_wait, "sleep", wait)
    return happens


@pytest.fixture
def chained(tmp_path: Path) -> Chained:
    """Three published studies, all entered, with a signed head."""
    made = Chained(tmp_path / "data")
    for study in STUDIES:
        made.deliver(*study)
    signed(made.folder)
    return made


def _said(chained: Chained, *words: str) -> tuple[int, str]:
    out = io.StringIO()
    args = parser().parse_args(list(words))
    status = args.run(args, chained.portal.config, out)
    assert "PAT" not in out.getvalue()
    return status, out.getvalue()


def _json(chained: Chained, *words: str) -> tuple[int, dict[str, Any]]:
    status, said = _said(chained, *words, "--json")
    found: dict[str, Any] = json.loads(said)
    return status, found


def _tamper(chained: Chained) -> None:
    """Change an image's pixels, its digest in the record, and the record's checksum, as user ddwd may (fault 9)."""
    record = chained.record()
    one = next(iter(record.images.values()))
    path = chained.portal.paths.output / record.folder / one.file
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    images = {**record.images, one.orthanc_id: replace(one, sha256=check_proof.file_sha256(path))}
    chained.forge(replace(record, images=images))


# --- verify -----------------------------------------------------------------------------------------------------------


def test_untouched_studies_are_as_recorded_and_as_entered(chained: Chained) -> None:
    status, found = _json(chained, "verify", "--all")
    assert (status, found["chain"]["problems"], found["chain"]["records"], found["chain"]["older"]) == (
        0,
        [],
        [],
        0,
    )
    status, said = _said(chained, "verify", UID)
    assert status == 0
    assert "1 studies, 3 images: all as recorded\n" in said
    assert "all records as entered\n" in said


@pytest.mark.parametrize("name", ["--all", UID, FIRST])
def test_an_image_changed_with_its_record_and_checksum_is_named(chained: Chained, name: str) -> None:
    _tamper(chained)
    status, found = _json(chained, "verify", name)
    assert status == 1
    assert (found["missing"], found["changed"], found["damaged"]) == ([], [], [])
    (row,) = found["chain"]["records"]
    assert (row["kind"], row["study"], row["study_uid"]) == ("rewritten", FIRST, UID)
    status, said = _said(chained, "verify", name)
    assert status == 1
    assert f"rewritten  {UID}: its record is not the one of entry " in said


@pytest.mark.parametrize("name", ["--all", UID, FIRST])
def test_a_study_whose_record_is_deleted_is_named(chained: Chained, name: str) -> None:
    chained.portal.custody.path(FIRST).unlink()
    status, found = _json(chained, "verify", name)
    assert (status, [row["kind"] for row in found["chain"]["records"]]) == (1, ["deleted"])


def test_a_study_that_never_was_is_not_found(chained: Chained) -> None:
    with pytest.raises(NotFoundError):
        _said(chained, "verify", "1.2.3.99")


def test_an_entry_that_was_changed_makes_it_fail_for_every_study(chained: Chained) -> None:
    entries = chained.folder / "entries.jsonl"
    entries.write_bytes(
        entries.read_bytes()
        .replace(b"late-image", b"published")
        .replace(b'"instances":"3"', b'"instances":"2"', 1)
    )
    status, found = _json(chained, "verify", STUDIES[2][0].study_uid)
    assert status == 1
    assert found["chain"]["problems"]
    assert "the chain itself was changed" in _said(chained, "verify", "--all")[1]


def test_a_change_that_the_signer_enters_meanwhile_is_no_finding(
    chained: Chained, waits: list[Callable[[], object]]
) -> None:
    chained.portal.deliver(image(1, 4))
    chained.portal.storage.settle(FIRST)
    chained.portal.run(20)
    waits.extend([chained.enter, lambda: signed(chained.folder)])
    status, found = _json(chained, "verify", "--all")
    assert (status, found["chain"]["records"]) == (0, [])
    assert not waits


def test_without_a_chain_it_says_what_is_not_proved(tmp_path: Path) -> None:
    made = Chained(tmp_path / "data")
    made.deliver(*STUDIES[0])
    status, found = _json(made, "verify", "--all")
    assert (status, found["chain"]) == (0, None)
    assert "the chain has no signed head yet" in _said(made, "verify", "--all")[1]


def test_where_records_are_shared_the_log_alone_is_compared(
    chained: Chained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddwd.store.backends._reader", lambda _config: None)
    shared = replace(chained.portal.config.ledger, shared="postgresql://db/ledger")
    chained.portal.config = replace(chained.portal.config, ledger=shared)
    _tamper(chained)
    status, said = _said(chained, "verify", "--all")
    assert (status, "the records are shared with other extractors, and were not compared" in said) == (
        0,
        True,
    )


# --- prove ------------------------------------------------------------------------------------------------------------


def _check(file: Path, folder: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-I", check_proof.__file__, str(file), str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert not done.stderr
    return done.returncode, done.stdout


def _study_folder(chained: Chained) -> Path:
    return chained.portal.paths.output / chained.record().folder


@pytest.mark.parametrize("name", [UID, FIRST])
def test_the_file_proves_the_study_to_the_script_alone(chained: Chained, tmp_path: Path, name: str) -> None:
    target = tmp_path / "proof.json"
    status, found = _json(chained, "prove", name, "-o", str(target))
    assert status == 0
    assert (found["file"], found["study_uid"], found["images"], found["entries"]) == (str(target), UID, 3, 1)
    assert found["published_at"] is None
    assert "PAT" not in target.read_text()
    status, said = _check(target, _study_folder(chained), "--key", str(HeadFiles(chained.folder).public_key))
    assert (status, "All 3 images are as received" in said) == (0, True)


def test_the_file_does_not_prove_an_image_that_was_changed(chained: Chained, tmp_path: Path) -> None:
    _said(chained, "prove", UID, "-o", str(tmp_path / "proof.json"))
    image_path = sorted(_study_folder(chained).rglob("*.dcm"))[1]
    image_path.write_bytes(image_path.read_bytes()[:-1] + b"\0")
    status, said = _check(tmp_path / "proof.json", _study_folder(chained))
    assert (status, f"{image_path.name}: changed\n" in said) == (1, True)


def test_a_late_image_is_in_the_proof_with_its_entry(chained: Chained, tmp_path: Path) -> None:
    chained.deliver(image(1, 4))
    HeadFiles(chained.folder).add_published(signed(chained.folder))
    status, found = _json(chained, "prove", UID, "-o", str(tmp_path / "proof.json"))
    assert (status, found["images"], found["entries"]) == (0, 4, 2)
    assert found["published_at"]
    assert _check(tmp_path / "proof.json", _study_folder(chained))[0] == 0


def test_it_tells_how_to_check_the_file(chained: Chained, tmp_path: Path) -> None:
    said = _said(chained, "prove", UID, "-o", str(tmp_path))[1]
    assert f"{tmp_path}/ddwd-proof-{FIRST}.json: 3 images, 1 entry of the chain, signed at " in said
    assert "python3 check-proof.py" in said


def test_no_file_is_replaced(chained: Chained, tmp_path: Path) -> None:
    _said(chained, "prove", UID, "-o", str(tmp_path))
    with pytest.raises(StateError, match="exists already"):
        _said(chained, "prove", UID, "-o", str(tmp_path))


def test_a_record_that_was_changed_is_not_proved(chained: Chained, tmp_path: Path) -> None:
    _tamper(chained)
    with pytest.raises(StateError, match=rf"its record is not the one of entry .*; see: ddwd verify {FIRST}"):
        _said(chained, "prove", UID, "-o", str(tmp_path))
    assert not list(tmp_path.glob("*.json"))


def test_a_study_that_is_not_entered_yet_is_told_as_that(chained: Chained, tmp_path: Path) -> None:
    chained.portal.deliver(image(9))
    chained.portal.run(20)
    with pytest.raises(NotFoundError, match=r"the chain has no entry of study .* yet") as caught:
        _said(chained, "prove", image(9).study_uid, "-o", str(tmp_path))
    assert caught.value.exit_status == 66


def test_a_study_that_is_entered_while_it_waits_is_proved(
    chained: Chained, tmp_path: Path, waits: list[Callable[[], object]]
) -> None:
    chained.portal.deliver(image(9))
    chained.portal.run(20)
    waits.extend([chained.enter, lambda: signed(chained.folder)])
    assert _json(chained, "prove", image(9).study_uid, "-o", str(tmp_path))[0] == 0


def test_a_study_older_than_the_chain_is_told_as_that(tmp_path: Path) -> None:
    made = Chained(tmp_path / "data")
    made.portal.deliver(image(9))
    made.portal.run(20)
    made.portal.events.clear()
    made.portal.clock.advance(3600)
    made.deliver(*STUDIES[0])
    signed(made.folder)
    with pytest.raises(NotFoundError, match=r"was published before the chain began .* ddwd retry"):
        _said(made, "prove", image(9).study_uid, "-o", str(tmp_path))


def test_before_the_first_head_there_is_no_proof(tmp_path: Path) -> None:
    made = Chained(tmp_path / "data")
    made.deliver(*STUDIES[0])
    with pytest.raises(NotFoundError, match="no signed head yet"):
        _said(made, "prove", UID, "-o", str(tmp_path))


def test_one_of_several_studies_of_one_name_has_to_be_chosen(chained: Chained, tmp_path: Path) -> None:
    chained.deliver(image(1, 7, patient="PAT2"))
    with pytest.raises(
        InvalidValueError, match="2 studies have this name; give the Orthanc ID of one: "
    ) as caught:
        _said(chained, "prove", UID, "-o", str(tmp_path))
    assert caught.value.exit_status == 64
    with pytest.raises(NotFoundError):
        _said(chained, "prove", "1.2.3.99", "-o", str(tmp_path))


# --- the page ---------------------------------------------------------------------------------------------------------

PAGE = readme.DOCS / "custody-proof.md"


def test_the_page_names_every_event_that_is_entered_and_no_other() -> None:
    named = [name for row in readme.table(PAGE, "events") for name in re.findall(r"`([\w-]+)`", row[0])]
    assert sorted(named) == sorted(event.value for event in CHAINED)


def test_the_page_explains_every_word_of_verify() -> None:
    named = {name for row in readme.table(PAGE, "word") for name in re.findall(r"`([\w-]+)`", row[0])}
    assert named == {*get_args(records.Kind), "changed", "missing", "extra", "chain"}
