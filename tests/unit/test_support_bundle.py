"""What leaves the house in a support bundle: nothing of a patient and no secret, whatever fails while it is collected."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ddwd.cli import output_file
from ddwd.config.schema import AlertsConfig, Config, Mail
from ddwd.core.errors import NotFoundError, StateError
from ddwd.core.model import safe_component
from ddwd.provisioning.credentials import generate
from ddwd.status import bundle, redaction, system_info
from ddwd.status.bundle import Missed, Part
from ddwd.status.system_info import counts
from tests.unit.fakes import image
from tests.unit.portal import Portal

OUTPUT = Path("/var/lib/ddwd/received_dicom")
NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)


def _scrub(*, secrets: tuple[str, ...] = (), patients: tuple[str, ...] = ()) -> redaction.Redactor:
    return redaction.Redactor(secrets, patients, OUTPUT)


# --- what is taken out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("password=hunter22 no", "password=(hidden) no"),
        ("GET /?p=a%2Fb%20c1", "GET /?p=(hidden)"),
        ("pin 77 and 1770", "pin (hidden) and 1770"),
    ],
)
def test_a_secret_is_hidden_also_as_a_url_has_it_and_a_short_one_as_a_word(text: str, left: str) -> None:
    assert _scrub(secrets=("hunter22", "a/b c1", "77", "")).text(text) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("study of 4711-A.", "study of (patient)."),
        ("4711-AB and 14711-A stay", "4711-AB and 14711-A stay"),
        ("for Smith/7 van Dyk: done", "for (patient): done"),
        ("FOR SMITH/7 VAN DYK: DONE", "FOR (patient): DONE"),
        ("folder Smith%2F7 van Dyk/1.2", "folder (patient)/1.2"),
        ("folder Smith%2F7%20van%20Dyk%-7F1", "folder (patient)"),
        ("/0815 is one", "(patient) is one"),
        ("abc is too short to be told apart", "abc is too short to be told apart"),
    ],
)
def test_a_patient_is_hidden_by_each_name_of_the_folder(text: str, left: str) -> None:
    known = ("4711-A", "Smith/7 van Dyk", "Smith%2F7 van Dyk", "Smith%2F7%20van%20Dyk%-7F1", "/0815", "abc")
    assert _scrub(patients=known).text(text) == left


def test_a_path_below_the_output_and_a_name_as_dicom_writes_it_are_hidden() -> None:
    text = f"open('{OUTPUT}/SMITH7/1.2.3/1.dcm') of Doe^Jane^van; {OUTPUT} stays"
    assert _scrub().text(text) == f"open('OUTPUT_DIR/(left out)') of (name); {OUTPUT} stays"


def test_what_is_taken_out_is_counted_and_numbers_and_keys_of_a_tree_stay() -> None:
    mine = _scrub(secrets=("hunter22",), patients=("4711",))
    assert mine.tree({"4711": [4711, "4711", None, True], "a": ("hunter22",)}) == {
        "4711": [4711, "(patient)", None, True],
        "a": ["(hidden)"],
    }
    assert {kind: count for kind, count in mine.hidden.items() if count} == {"secrets": 1, "patients": 1}


def test_the_patients_are_those_with_a_folder_in_either_form(tmp_path: Path) -> None:
    for name in ("4711", safe_component("Smith/7"), ".ddwd"):
        (tmp_path / name).mkdir()
    assert redaction.patients(tmp_path) == {"4711", "Smith/7", safe_component("Smith/7")}


def test_every_secret_of_settings_logins_and_files_that_are_not_sound_is_known() -> None:
    webhook = "https://me:pw-of-me@chat.example/hooks/T0123456789ABCDEFG?key=k-of-me"
    config = replace(Config(), alerts=AlertsConfig(webhook=webhook), mail=Mail(password="of-mail"))  # noqa: S106
    login = generate()
    torn = 'mail:\n  password: "of torn"  # ours\nPOSTGRES_PASSWORD=of-defaults\n# password: [\n  password:\n  port: 9\n'
    known = redaction.secrets_of(config, login, [torn])
    assert {webhook, "pw-of-me", "T0123456789ABCDEFG", "of-mail", "of torn", "of-defaults"} <= known
    assert {word for users in login.passwords.values() for word in users.values()} <= known
    assert not {"port: 9", "9", "["} & known


ADDITION = {
    "HttpTimeout": 60,
    "RegisteredUsers": {"alice": "s-one"},
    "OrthancPeers": {"far": ["https://far.example/", "bob", "s-two"]},
    "DicomWeb": {"Servers": {"x": {"Url": "https://u:s-three@x/", "Password": "s-four", "HttpHeaders": {"X": "s-five"}}}},
    "HttpProxy": "eve:s-six@proxy:3128",
    "PostgreSQL": {"ConnectionUri": "host=db password=s-seven user=o"},
    "Authorization": {"WebServiceRootUrl": "https://a/?token=s-eight", "Enabled": True},
    "AwsS3Storage": {"AccessKey": "s-nine", "BucketName": "images"},
    "DicomTlsPrivateKey": "/etc/ddwd/tls/x.key",
}  # fmt: skip


def test_an_addition_is_shown_without_passwords_in_whatever_form_orthanc_takes_them() -> None:
    found: set[str] = set()
    shown = redaction.without_secrets(ADDITION, found)
    assert "s-" not in json.dumps(shown)
    words = {f"s-{number}" for number in ("one", "two", "three", "four", "five", "six", "seven", "nine")}
    assert words <= found
    assert (shown["HttpTimeout"], shown["AwsS3Storage"]["BucketName"]) == (60, "images")
    assert shown["OrthancPeers"]["far"][0] == "https://far.example/"
    assert "/etc/ddwd/tls/x.key" not in found


# --- the journal ------------------------------------------------------------------------------------------------------


@pytest.fixture
def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name which prints the file it comes with, newest record first."""
    program = tmp_path / "bin" / "journalctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec cat "{tmp_path}/records"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path / "records"


def _record(message: object, **fields: str) -> str:
    row: dict[str, Any] = {"__REALTIME_TIMESTAMP": "1764039600000000", "MESSAGE": message, "PRIORITY": "4"}
    written = {"SYSLOG_IDENTIFIER": "ddwd-audit", "_PID": "7", "_UID": "0", "_TRANSPORT": "journal"}
    return json.dumps({**row, **written, **fields}) + "\n"


def test_an_audit_record_is_told_without_patient_and_accession_number(journalctl: Path) -> None:
    fields = {
        "DDWD_PATIENT_ID": "4711",
        "DDWD_ACCESSION": "ACC-1",
        "DDWD_STUDY_UID": "1.2.3",
        "DDWD_EVENT": "alert",
    }
    journalctl.write_text(_record("done", **fields), encoding="utf-8")
    told = system_info.journal()
    assert (
        told == "2025-11-25T03:00:00.000Z ddwd-audit[7] warning: done DDWD_EVENT=alert DDWD_STUDY_UID=1.2.3\n"
    )


def test_an_audit_record_that_a_user_forged_is_not_in_the_trail(journalctl: Path) -> None:
    forged = [
        _record("forged", DDWD_EVENT="alert", **by) for by in ({"_UID": "65534"}, {"_TRANSPORT": "syslog"})
    ]
    journalctl.write_text("".join([*forged, _record("genuine", DDWD_EVENT="alert")]), encoding="utf-8")
    assert system_info.journal().count("\n") == 1
    assert "genuine" in system_info.journal()


def test_the_newest_records_come_in_order_and_what_is_too_much_is_said(journalctl: Path) -> None:
    lines = [
        _record(text, SYSLOG_IDENTIFIER="ddwd-scp") for text in ("third", [104, 105, 255], None, "first")
    ]
    journalctl.write_text("".join(lines), encoding="utf-8")
    told = system_info.journal(unit="ddwd-scp.service", limit=sum(map(len, lines[:3]))).splitlines()
    assert told[0].startswith("(older lines are left out")
    assert [line.partition("warning: ")[2] for line in told[1:]] == ["(too long)", "hi�", "third"]


def test_further_lines_of_a_message_are_indented_and_control_characters_are_no_more(journalctl: Path) -> None:
    journalctl.write_text(_record("one\ntwo\x1b[31m", SYSLOG_IDENTIFIER="a"), encoding="utf-8")
    assert system_info.journal(unit="a").splitlines()[1:] == ["    two?[31m"]


# --- collecting and packing -------------------------------------------------------------------------------------------


def _fails() -> str:
    raise NotFoundError("ip is not here")


def _may_not() -> str:
    raise PermissionError(13, "Permission denied", f"{OUTPUT}/SMITH7")


def test_a_part_that_cannot_be_collected_is_named_and_the_others_come() -> None:
    seen: list[str] = []
    parts = [
        Part("a", "", _fails),
        Part("b", "", _may_not),
        Part("c", "", lambda: {"x": [1, "4711"]}),
        Part("d", "", lambda: "4711\n"),
    ]
    packed, missed = bundle.gather(parts, _scrub(patients=("4711",)), lambda part: seen.append(part.file))
    assert missed == [Missed("a", "ip is not here"), Missed("b", "not for this user; run it with sudo")]
    assert [one.content for one in packed] == [b'{\n "x": [\n  1,\n  "(patient)"\n ]\n}\n', b"(patient)\n"]
    assert seen == ["a", "b", "c", "d"]


def test_the_manifest_lists_each_file_and_what_is_never_in_it() -> None:
    packed, missed = bundle.gather([Part("x/a.txt", "letters", lambda: "abc")], _scrub(), lambda _part: None)
    content = bundle.archive("name", packed, {"not_collected": missed}, NOW)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert [(one.name, one.mode) for one in tar] == [
            ("name/MANIFEST.json", 0o600),
            ("name/x/a.txt", 0o600),
        ]
        file = tar.extractfile("name/MANIFEST.json")
        assert file is not None
        manifest = json.loads(file.read())
    assert [(row["file"], row["what"], row["bytes"]) for row in manifest["files"]] == [
        ("x/a.txt", "letters", 3)
    ]
    assert manifest["never_in_it"] == bundle.NEVER


def test_the_file_is_for_its_maker_alone_and_replaces_nothing(tmp_path: Path) -> None:
    target = output_file.target(tmp_path, "made.tar.gz")
    output_file.write(target, b"x")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with pytest.raises(StateError, match="exists already"):
        output_file.target(target, "made.tar.gz")
    with pytest.raises(StateError, match="no such folder"):
        output_file.target(tmp_path / "none" / "x", "made.tar.gz")


def test_counts_hold_numbers_and_kinds_and_no_patient(tmp_path: Path) -> None:
    portal = Portal(tmp_path)
    portal.gateway.store(*(image(1, number, patient="DOE-4711") for number in (1, 2, 3)))
    portal.run()
    found = counts(portal.paths)
    assert found["custody"] == {"records": 1}
    assert found["ledger"]["events"]["published"] == 1
    assert found["ledger"]["damaged_lines"] == 0
    assert "DOE-4711" not in json.dumps(found)


def test_counts_of_a_portal_that_never_ran_are_nothing(tmp_path: Path) -> None:
    found = counts(
        replace(
            Portal(tmp_path).paths,
            config=replace(Config(), data_dir=tmp_path / "no", output_dir=tmp_path / "o"),
        )
    )
    assert (found["custody"], found["quarantine"]) == ({"records": 0}, {})


# --- the machine ------------------------------------------------------------------------------------------------------


def test_one_question_without_an_answer_leaves_the_others_on_the_page() -> None:
    said = system_info.together(system_info.run, ["no-such-program"], ["echo", "here"])
    assert said == "$ no-such-program\n(no-such-program is not installed)\n\n$ echo here\nhere\n"


def test_only_installed_packages_are_told() -> None:
    answers = "ii  ddwd 0.1\nun  orthanc-gdcm \nii  python3-yaml 6\n"
    told = system_info.versions(lambda command: answers if command[0] == "dpkg-query" else "Linux\n")
    assert told.splitlines()[:3] == ["ii  ddwd 0.1", "ii  python3-yaml 6", ""]
