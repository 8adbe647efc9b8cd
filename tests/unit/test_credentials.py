"""Passwords: fresh each time, complete, unreadable ones explained."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest

from ddwd.cli.main import parser
from ddwd.config.schema import Config
from ddwd.core.errors import ConfigError, InvalidValueError
from ddwd.orthanc.plugin.rest_rights import RestRequest
from ddwd.provisioning import credentials


def test_round_trip_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    made = credentials.generate()
    credentials.write(path, made)
    found = credentials.read(path)
    assert found == made
    assert path.stat().st_mode & 0o777 == 0o640
    assert found.login("storage", "gateway")[0] == "gateway"
    assert set(found.of("gateway")) == {"admin", "viewer", "ddwd"}


def test_every_installation_has_its_own() -> None:
    first, second = credentials.generate(), credentials.generate()
    passwords = [*first.of("gateway").values(), *first.of("storage").values(), *second.of("storage").values()]
    assert len(set(passwords)) == len(passwords)
    assert min(map(len, passwords)) >= 32
    assert "orthanc" not in passwords


def test_not_shown_in_a_repr() -> None:
    made = credentials.generate()
    assert made.of("gateway")["admin"] not in repr(made)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"gateway": {"admin": "x"}}', '{"gateway": [], "storage": 1}']
)
def test_damaged_file_is_refused_with_the_way_out(tmp_path: Path, text: str) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="remove it and restart ddwd"):
        credentials.read(path)


def test_empty_password_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    tree = {node: dict.fromkeys(users, "") for node, users in credentials.USERS.items()}
    path.write_text(json.dumps(tree))
    with pytest.raises(ConfigError):
        credentials.read(path)


def test_missing_and_forbidden_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="systemctl start ddwd"):
        credentials.read(tmp_path / "none.json")

    def refuse(_path: Path, **_options: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match="group ddwd"):
        credentials.read(tmp_path / "credentials.json")


def test_a_file_of_an_older_version_gets_its_viewer_and_keeps_all_others(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    made = credentials.generate()
    old = {node: dict(made.of(node)) for node in credentials.USERS}
    for users in old.values():
        del users["viewer"]
    path.write_text(json.dumps(old))
    credentials.add_viewer(path)
    found = credentials.read(path)
    assert {node: {user: found.of(node)[user] for user in users} for node, users in old.items()} == old
    assert len({found.of(node)["viewer"] for node in credentials.USERS}) == 2
    credentials.add_viewer(path)
    assert credentials.read(path) == found


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"gateway": {"admin": "x"}, "storage": {}}'])
def test_a_damaged_file_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(text)
    credentials.add_viewer(path)
    assert path.read_text() == text


def test_rotation_changes_every_password_and_nothing_else_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    before = credentials.generate()
    credentials.write(path, before, mode=0o604)
    credentials.rotate(path)
    after = credentials.read(path)
    pairs = [
        (before.of(node)[user], after.of(node)[user])
        for node in credentials.USERS
        for user in before.of(node)
    ]
    assert len(pairs) == 7
    assert [old for old, new in pairs if old == new] == []
    assert path.stat().st_mode & 0o777 == 0o604
    assert list(tmp_path.iterdir()) == [path]


def _run(path: Path, *words: str) -> tuple[int, str]:
    out = StringIO()
    args = parser().parse_args(["credentials", *words])
    status = args.run(args, Config(credentials_file=path), out)
    return status, out.getvalue()


def test_people_are_shown_their_logins_and_no_service_its_own(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    made = credentials.generate()
    credentials.write(path, made)
    status, text = _run(path)
    logins = json.loads(_run(path, "--json")[1])["logins"]
    assert status == 0
    assert {(one["aet"], one["user"]) for one in logins} == {
        (aet, user) for aet in ("ORTHANC1", "ORTHANC2") for user in ("admin", "viewer")
    }
    for one in logins:
        assert one["password"] in text
        assert one["url"] in text
    assert made.of("storage")["gateway"] not in text
    assert made.of("storage")["ddwd"] not in text


def test_without_a_terminal_a_rotation_must_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "credentials.json"
    made = credentials.generate()
    credentials.write(path, made)
    monkeypatch.setattr("sys.stdin", StringIO())
    with pytest.raises(InvalidValueError, match="--yes"):
        _run(path, "rotate")
    assert credentials.read(path) == made


@pytest.mark.parametrize(
    ("user", "method", "uri", "allowed"),
    [
        ("viewer", "GET", "/studies/1/archive", True),
        ("viewer", "GET", "/app/explorer.html", True),
        ("viewer", "GET", "/dicom-web/studies", True),
        ("viewer", "POST", "/tools/find", True),
        ("viewer", "POST", "/tools/lookup", True),
        ("viewer", "POST", "/tools//find", False),
        ("viewer", "POST", "/tools/find/../reset", False),
        ("viewer", "POST", "/tools/reset", False),
        ("viewer", "POST", "/tools/execute-script", False),
        ("viewer", "POST", "/instances", False),
        ("viewer", "POST", "/dicom-web/studies", False),
        ("viewer", "PUT", "/modalities/x", False),
        ("viewer", "DELETE", "/studies/1", False),
        ("admin", "DELETE", "/studies/1", True),
        ("ddwd", "POST", "/dicom-web/servers/storage/stow", True),
    ],
)
def test_a_viewer_looks_and_changes_nothing(user: str, method: str, uri: str, *, allowed: bool) -> None:
    assert RestRequest(user, method, uri, "127.0.0.1").is_allowed is allowed
