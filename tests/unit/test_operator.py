"""`ddwd retry`, `reconcile` and `quarantine` over the whole pipeline on fakes: what they say, ask for, and bring about."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pydicom import dcmread

from ddwd.cli.main import parser
from ddwd.core.errors import DdwdError, InvalidValueError, NotFoundError, PeerDownError, StateError
from ddwd.core.model import safe_component
from ddwd.extractor.quarantine import QuarantinedObject
from ddwd.status import study_lookup
from ddwd.store.operator_requests import Request
from tests.unit.fakes import FakeOrthanc, Image, image
from tests.unit.portal import Portal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PATIENT = "DOE-4711"
_ACCESSION = "ACC-17"
_FIRST = [image(1, number, patient=_PATIENT, accession=_ACCESSION) for number in (1, 2, 3)]
_SECOND = [image(2, number, patient=_PATIENT) for number in (1, 2)]
_ONE = _FIRST[1]
_STUDY = _ONE.study_id
_UNKNOWN = "0" * 8 + "-00000000" * 4


@pytest.fixture
def portal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Portal:
    """Two published studies."""
    made = Portal(tmp_path)
    made.gateway.store(*_FIRST, *_SECOND)
    made.run()
    assert len(made.published()) == 5
    monkeypatch.setattr(study_lookup, "both", lambda _config: (made.gateway, made.storage))
    return made


def _said(portal: Portal, *words: str) -> tuple[int, str]:
    out = io.StringIO()
    args = parser().parse_args(list(words))
    status = args.run(args, portal.config, out)
    assert _PATIENT not in out.getvalue()
    return status, out.getvalue()


def _json(portal: Portal, *words: str) -> Any:
    return json.loads(_said(portal, *words, "--json")[1])


def _asked(portal: Portal) -> list[Request]:
    return [request for _, request in portal.requests.take()]


def _path(portal: Portal, one: Image = _ONE) -> Path:
    return portal.paths.output / _PATIENT / one.study_uid / one.series_uid / f"{one.sop_uid}.dcm"


# --- retry, and which study is meant ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [_ONE.study_uid, _ACCESSION, f" {_ACCESSION} ", _STUDY, _STUDY.upper()])
def test_a_study_is_retried_by_each_of_its_names(portal: Portal, name: str) -> None:
    status, said = _said(portal, "retry", name)
    assert (status, said) == (0, f"the extractor is asked to retry {_STUDY}; see: ddwd status\n")
    assert _asked(portal) == [Request("retry", _STUDY)]


def test_a_retry_brings_back_what_was_deleted_from_disk(portal: Portal) -> None:
    before = portal.published()
    _path(portal).unlink()
    assert _json(portal, "retry", _ONE.study_uid)["studies"] == [_STUDY]
    portal.run(30)
    assert portal.published() == before
    assert _asked(portal) == []


def test_a_study_that_is_not_yet_published_can_be_retried(portal: Portal) -> None:
    new = image(3, accession="ACC-3")
    portal.gateway.store(new)
    for name in (new.study_uid, "ACC-3", new.study_id):
        assert _json(portal, "retry", name)["studies"] == [new.study_id]


def test_a_study_that_was_deleted_in_both_is_found_on_disk(portal: Portal) -> None:
    portal.gateway.delete_study(_STUDY)
    portal.storage.delete_study(_STUDY)
    portal.custody.path(_SECOND[0].study_id).write_bytes(b"{")  # may be any study, but need not be meant
    for name in (_ONE.study_uid, _ACCESSION, _STUDY):
        assert _json(portal, "retry", name)["studies"] == [_STUDY]


def test_all_studies_of_one_name_are_retried(portal: Portal) -> None:
    same_uid = image(1, 9, patient="PAT2")
    portal.storage.store(same_uid)
    assert set(_json(portal, "retry", _ONE.study_uid)["studies"]) == {_STUDY, same_uid.study_id}


@pytest.mark.parametrize("verb", [["retry"], ["reconcile"], ["reconcile", "--dry-run"]])
@pytest.mark.parametrize("name", ["1.2.3.99", "", " ", "*", _UNKNOWN, "../../ledger", _PATIENT, _ONE.sop_uid])
def test_a_study_that_is_not_there_is_told(portal: Portal, verb: list[str], name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        _said(portal, *verb, name)
    assert caught.value.exit_status == 66
    assert _asked(portal) == []


def test_an_orthanc_that_is_down_is_no_obstacle_where_the_other_knows(portal: Portal) -> None:
    portal.gateway.down = True
    assert _said(portal, "retry", _ONE.study_uid)[0] == 0
    with pytest.raises(PeerDownError):
        _said(portal, "retry", "1.2.3.99")


@pytest.mark.parametrize(
    "words", [["retry", _STUDY], ["reconcile"], ["quarantine", "release", "--all"]], ids=" ".join
)
def test_who_may_not_ask_is_told_in_one_line(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    _put(portal)

    def refuse(*_: object, **_more: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ddwd.core.durable.write_new", refuse)
    with pytest.raises(StateError, match="only root and group ddwd") as caught:
        _said(portal, *words)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 65


# --- reconcile -------------------------------------------------------------------------------------------------------


def test_a_comparison_is_asked_for(portal: Portal) -> None:
    said = "the extractor is asked to compare everything; see: ddwd status\n"
    assert _said(portal, "reconcile") == (0, said)
    assert _json(portal, "reconcile", _ACCESSION)["studies"] == [_STUDY]
    assert _asked(portal) == [Request("reconcile"), Request("reconcile", _STUDY)]


def test_a_dry_run_of_a_portal_at_rest_agrees(portal: Portal) -> None:
    assert _said(portal, "reconcile", "--dry-run") == (
        0,
        "2 studies: all agree\n  studies on the gateway only 0, on storage only 0, on disk only 0\n",
    )
    assert _said(portal, "reconcile", "--dry-run", _ACCESSION)[1].startswith("1 studies: all agree")
    assert _asked(portal) == []


def test_a_dry_run_names_what_lacks_at_each_hop(portal: Portal) -> None:
    portal.gateway.peer = None
    portal.gateway.store(*(image(1, number, patient=_PATIENT) for number in (7, 8)))
    portal.storage.store(image(4, patient=_PATIENT))
    _path(portal, _SECOND[0]).unlink()
    status, said = _said(portal, "reconcile", "--dry-run")
    assert status == 1
    assert f"{_ONE.study_uid}: on the gateway, not on storage 2\n" in said
    assert "1.2.3.4: on storage, not on disk 1; on storage only\n" in said
    assert f"{_SECOND[0].study_uid}: recorded, gone from disk 1\n" in said
    assert "3 studies: 3 disagree\n" in said
    assert _asked(portal) == []


def test_the_json_of_a_dry_run(portal: Portal) -> None:
    bad = image(1, 9, patient=_PATIENT)
    portal.storage.store(bad)
    record = portal.custody.read(_STUDY)
    assert record is not None
    portal.custody.write(replace(record, set_aside={bad.orthanc_id: "0xC000"}))
    portal.custody.path(_SECOND[0].study_id).write_bytes(b"{")
    found = _json(portal, "reconcile", "--dry-run")
    by_study = {row["study"]: row for row in found["differences"]}
    assert by_study[_STUDY] == {
        "study": _STUDY, "study_uid": _ONE.study_uid, "nodes": ["gateway", "storage"], "not_on_storage": 0,
        "not_on_disk": 0, "set_aside": 1, "gone_from_disk": 0, "damage": "",
        "lost_on_gateway": 0, "lost_on_storage": 0,
    }  # fmt: skip
    assert "damaged" in by_study[_SECOND[0].study_id]["damage"]
    totals = found["totals"]
    assert (totals["studies"], totals["differing"], totals["set_aside"], totals["damaged"]) == (2, 2, 1, 1)
    assert found["error"] is None


@pytest.mark.parametrize("as_json", [True, False])
def test_a_peer_lost_on_the_way_ends_it_with_what_was_found(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    listed = portal.storage.study_ids

    def lost() -> Iterator[str]:
        yield from listed()
        portal.storage.down = True
        yield image(9).study_id

    monkeypatch.setattr(portal.storage, "study_ids", lost)
    out = io.StringIO()
    args = parser().parse_args(["reconcile", "--dry-run", *(["--json"] if as_json else [])])
    _path(portal).unlink()
    with pytest.raises(PeerDownError) as caught:
        args.run(args, portal.config, out)
    assert caught.value.exit_status == 69
    if as_json:
        found = json.loads(out.getvalue())
        assert (len(found["differences"]), found["error"]) == (1, "storage does not answer")
    else:
        assert out.getvalue().endswith("stopped after 2 studies, 1 of which disagree\n")


class _Terminal(io.StringIO):
    """Standard output of a terminal."""

    def isatty(self) -> bool:
        """See TextIO."""
        return True


def test_the_progress_is_for_terminals_only(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FakeOrthanc, "statistics", lambda _self: {"CountStudies": "2"}, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert _said(portal, "reconcile", "--dry-run")[1].startswith("2 studies: all agree")
    assert _said(portal, "reconcile", "--dry-run", _STUDY)[0] == 0
    assert "comparing" in capsys.readouterr().err
    _path(portal).unlink()
    monkeypatch.setattr(io, "StringIO", _Terminal)
    assert _said(portal, "reconcile", "--dry-run") == (1, "")
    assert f"{_ONE.study_uid}: recorded, gone from disk 1\n" in capsys.readouterr().err


# --- quarantine ------------------------------------------------------------------------------------------------------


def _put(portal: Portal, kind: str = "conflict", reason: str = "other content") -> str:
    subject = QuarantinedObject(kind, _ONE.study_uid, reason, _STUDY, _ONE.orthanc_id, _ONE.sop_uid, 6)  # type: ignore[arg-type]
    return portal.quarantine.keep(f"{kind} {reason}".encode(), subject)


def test_an_empty_quarantine(portal: Portal) -> None:
    assert _said(portal, "quarantine", "list") == (0, "0 in quarantine\n")
    assert _json(portal, "quarantine", "list")["entries"] == []
    assert _said(portal, "quarantine", "release", "--all") == (0, "0 in quarantine\n")
    assert _asked(portal) == []


def test_entries_are_listed_and_shown(portal: Portal) -> None:
    first = _put(portal)
    portal.clock.advance(1)
    second = _put(portal, "stray", "red\x1b[31m\nforged line")
    rows = _json(portal, "quarantine", "list")["entries"]
    assert [row["id"] for row in rows] == [first, second]
    assert set(rows[0]) == {
        "id", "at", "kind", "study_uid", "reason", "study", "instance", "sop_uid", "tries", "size", "sha256",
        "file",
    }  # fmt: skip
    lines = _said(portal, "quarantine", "list")[1].splitlines()
    assert len(lines) == 5
    assert lines[0].startswith(f"{first[:8]}  ")
    assert lines[0].endswith(f"  {_ONE.sop_uid}")
    assert lines[1].strip() == "other content"
    assert lines[3].strip() == "red\\x1b[31m\\nforged line"
    shown = dict(
        line.split(None, 1)
        for line in _said(portal, "quarantine", "show", first[:4])[1].partition("\n\n")[0].splitlines()
    )
    assert (shown["id"], shown["kind"], shown["tries"]) == (first, "conflict", "6")
    assert shown["file"].startswith(str(portal.paths.quarantine))
    assert _json(portal, "quarantine", "show", first)["entry"]["file"] == shown["file"]


def _corrected(**values: str) -> bytes:
    """The first published image with other values."""
    data = dcmread(io.BytesIO(_ONE.content))
    for keyword, value in values.items():
        setattr(data, keyword, value)
    corrected = io.BytesIO()
    data.save_as(corrected)
    return corrected.getvalue()


def test_an_entry_is_shown_with_each_element_that_differs_and_both_values(portal: Portal) -> None:
    content = _corrected(PatientName="Doe^Jane", SeriesDescription="Thorax \x1b[31m", InstanceNumber="9")
    subject = QuarantinedObject(
        "conflict", _ONE.study_uid, "other", _ONE.study_id, _ONE.orthanc_id, _ONE.sop_uid
    )
    entry = portal.quarantine.keep(content, subject)
    hidden = "(hidden; see it with --show-patients)"
    assert _json(portal, "quarantine", "show", entry)["differences"] == [
        {"element": "(0008,103E) SeriesDescription", "published": None, "here": "Thorax \x1b[31m"},
        {"element": "(0010,0010) PatientName", "published": None, "here": hidden},
        {"element": "(0020,0013) InstanceNumber", "published": "2", "here": "9"},
    ]
    said = _said(portal, "quarantine", "show", entry)[1]
    assert "Jane" not in said
    assert "\x1b" not in said
    assert said.endswith("  (0020,0013) InstanceNumber\n    published  2\n    here       9\n")
    open_rows = _json(portal, "quarantine", "show", entry, "--show-patients")["differences"]
    assert open_rows[1]["here"] == "Doe^Jane"


@pytest.mark.parametrize("content", [_ONE.content, b"no DICOM"])
def test_an_entry_without_a_difference_or_that_cannot_be_compared_says_so(
    portal: Portal, content: bytes
) -> None:
    subject = QuarantinedObject(
        "conflict", _ONE.study_uid, "other", _ONE.study_id, _ONE.orthanc_id, _ONE.sop_uid
    )
    entry = portal.quarantine.keep(content, subject)
    said = _said(portal, "quarantine", "show", entry)[1]
    assert ("every element is as in the published image" in said) == (content == _ONE.content)


def test_a_release_asks_and_the_extractor_does_it(portal: Portal) -> None:
    entries = [_put(portal), _put(portal, "stray")]
    said = _said(portal, "quarantine", "release", entries[0].upper())[1]
    assert said == f"the extractor is asked to remove {entries[0]} from the list; its file is kept\n"
    portal.run(5)
    assert [row["id"] for row in _json(portal, "quarantine", "list")["entries"]] == entries[1:]
    assert _json(portal, "quarantine", "release", "--all")["entries"] == entries[1:]
    portal.run(5)
    assert _json(portal, "quarantine", "list")["entries"] == []


def test_two_patients_are_listed_and_a_release_is_the_decision_that_both_stay(portal: Portal) -> None:
    twin = image(1, patient="OTHER")
    portal.deliver(twin)
    portal.run(20)
    before = portal.published()
    (row,) = _json(portal, "quarantine", "list")["entries"]
    assert (row["kind"], row["study"], row["file"]) == ("two-patients", twin.study_id, "")
    assert _STUDY in row["reason"]
    assert "two-patients" in _said(portal, "quarantine", "list")[1]
    said = _said(portal, "quarantine", "release", row["id"])[1]
    assert said == f"the extractor is asked to record your decision about {row['id']}: both studies stay\n"
    portal.run(5)
    assert _json(portal, "quarantine", "list")["entries"] == []
    assert portal.published() == before


def test_an_undeliverable_image_is_released_and_delivered(portal: Portal) -> None:
    bad, *others = [image(3, number, patient=_PATIENT) for number in (1, 2, 3)]
    portal.mover.poisoned = {bad.sop_uid}
    portal.gateway.store(bad, *others)
    portal.run(120)
    assert _said(portal, "reconcile", "--dry-run")[0] == 1
    portal.mover.poisoned = set()
    (row,) = _json(portal, "quarantine", "list")["entries"]
    assert "to try" in _said(portal, "quarantine", "release", row["id"])[1]
    portal.run(60)
    assert _path(portal, bad).exists()
    assert _said(portal, "reconcile", "--dry-run")[0] == 0


@pytest.mark.parametrize("action", ["show", "release"])
@pytest.mark.parametrize("name", ["", "abc", "0" * 32, "../../../etc/passwd", "zzzz"])
def test_an_entry_that_is_not_there_is_told(portal: Portal, action: str, name: str) -> None:
    _put(portal)
    with pytest.raises(NotFoundError) as caught:
        _said(portal, "quarantine", action, name)
    assert caught.value.exit_status == 66
    assert "\n" not in str(caught.value)


def test_an_id_cut_too_short_is_told(portal: Portal) -> None:
    study = portal.paths.quarantine / "1.2.3"
    study.mkdir(parents=True)
    for digit in "01":
        (study / f"{digit:0>32}.json".replace("0", "a", 1)).write_text("{")
    with pytest.raises(InvalidValueError, match="2 entries"):
        _said(portal, "quarantine", "show", "a000")
    assert _said(portal, "quarantine", "list")[1].count("damaged") == 2


def test_who_may_not_look_into_the_quarantine_is_told(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    _put(portal)
    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(StateError, match="not for this user; run it with sudo"):
        _said(portal, "quarantine", "list")


@pytest.mark.parametrize(
    "words", [["quarantine"], ["quarantine", "release"], ["quarantine", "show"], ["retry"]]
)
def test_wrong_usage_is_64(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(words)
    assert caught.value.code == 64


@pytest.mark.parametrize("verb", ["retry", "reconcile", "quarantine", "verify"])
def test_every_exit_status_of_the_errors_is_documented(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([verb, "--help"])
    said = capsys.readouterr().out
    assert all(
        f"\n  {error.exit_status}  " in said for error in (InvalidValueError, NotFoundError, StateError)
    )
    assert issubclass(StateError, DdwdError)


# --- names as they stand in the image ----------------------------------------------------------------------------------

HOSTILE = ["Smith/7", "../../etc", "a*b?c", "M\u00fcller", "%2E%2E", "CON", "-rf", "/" * 63, "abc"]


@pytest.fixture(params=HOSTILE)
def stranger(request: pytest.FixtureRequest, portal: Portal) -> Image:
    """A published study of a patient with such an ID, and a published one of his near namesake."""
    one = image(31, patient=request.param)
    portal.deliver(one, image(32, patient=request.param.upper() + "2"))
    portal.run(20)
    return one


@pytest.mark.parametrize("known_to_orthanc", [True, False])
def test_a_study_is_traced_by_its_real_patient_id(
    portal: Portal, stranger: Image, *, known_to_orthanc: bool
) -> None:
    if not known_to_orthanc:
        for node in (portal.gateway, portal.storage):
            node.delete_study(stranger.study_id)
    folder = safe_component(stranger.patient_id)
    for name in (stranger.patient_id, f" {stranger.patient_id} ", folder, stranger.study_uid):
        told = json.loads(_said(portal, "trace", "--json", "--", name)[1])["studies"]
        assert [one["study"] for one in told] == [stranger.study_id], name


def test_a_verb_that_acts_takes_no_patient_id(portal: Portal, stranger: Image) -> None:
    with pytest.raises(NotFoundError):
        _said(portal, "retry", "--", stranger.patient_id)


@pytest.mark.parametrize("verb", ["retry", "reconcile"])
@pytest.mark.parametrize("known_to_orthanc", [True, False])
def test_a_verb_that_acts_takes_a_patient_where_it_is_told_that_it_is_one(
    portal: Portal, stranger: Image, verb: str, *, known_to_orthanc: bool
) -> None:
    if not known_to_orthanc:
        for node in (portal.gateway, portal.storage):
            node.delete_study(stranger.study_id)
    asked = json.loads(_said(portal, verb, "--json", f"--patient={stranger.patient_id}")[1])
    assert (asked["asked"], asked["studies"]) == (verb, [stranger.study_id])
    with pytest.raises(NotFoundError, match="has this PatientID"):
        _said(portal, verb, "--patient", stranger.study_uid)


def test_the_images_of_a_patient_are_verified(portal: Portal, stranger: Image) -> None:
    checked = json.loads(_said(portal, "verify", "--json", f"--patient={stranger.patient_id}")[1])
    assert (checked["studies"], checked["images"]) == (1, 1)
    with pytest.raises(NotFoundError, match="no published study has this PatientID"):
        _said(portal, "verify", "--patient", "nobody")


@pytest.mark.parametrize("name", ["*", "?", "\\", "%", "PAT?", "PAT*"])
def test_a_wildcard_is_nobodys_name(portal: Portal, name: str) -> None:
    with pytest.raises(NotFoundError):
        _said(portal, "trace", name)
