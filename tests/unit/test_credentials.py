"""Passwords: fresh each time, complete, unreadable ones explained."""

from __future__ import annotations

import json
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest

from ddwd.cli.main import parser
from ddwd.config.schema import Config
from ddwd.core.errors import ConfigError, DdwdError, InvalidValueError
from ddwd.core.model import OrthancId
from ddwd.orthanc.client import Orthanc
from ddwd.orthanc.plugin.rest_rights import PORTAL_LOGINS, RestRequest
from ddwd.provisioning import credentials


def test_round_trip_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    made = credentials.generate()
    credentials.write(path, made)
    found = credentials.read(path)
    assert found == made
    assert path.stat().st_mode & 0o777 == 0o640
    assert found.login("storage", "gateway")[0] == "gateway"
    assert set(found.of("gateway")) == set(credentials.USERS["gateway"])


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
    credentials.add_missing(path)
    found = credentials.read(path)
    assert {node: {user: found.of(node)[user] for user in users} for node, users in old.items()} == old
    assert len({found.of(node)["viewer"] for node in credentials.USERS}) == 2
    credentials.add_missing(path)
    assert credentials.read(path) == found


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"gateway": {"admin": "x"}, "storage": {}}'])
def test_a_damaged_file_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(text)
    credentials.add_missing(path)
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
    assert len(pairs) == 14
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


_ID = "0a1b2c3d-00000000-11111111-22222222-33333333"


@pytest.mark.parametrize(
    ("user", "allowed", "refused"),
    [
        (
            "extractor",
            [
                ("GET", f"/instances/{_ID}/file"),
                ("POST", "/instances"),
                ("POST", "/dicom-web/servers/storage/stow"),
                ("PUT", f"/studies/{_ID}/metadata/DdwdRoute"),
                ("DELETE", f"/instances/{_ID}"),
            ],
            [
                ("DELETE", f"/studies/{_ID}"),
                ("PUT", "/modalities/evil"),
                ("POST", "/tools/reset"),
                ("PUT", f"/studies/{_ID}/metadata/Other"),
                ("DELETE", f"/instances/{_ID}/metadata/1"),
            ],
        ),
        (
            "courier",
            [("GET", f"/studies/{_ID}"), ("POST", "/modalities/x/store"), ("GET", f"/jobs/{_ID}")],
            [
                ("GET", f"/instances/{_ID}/file"),
                ("GET", f"/studies/{_ID}/archive"),
                ("DELETE", f"/instances/{_ID}"),
                ("POST", "/instances"),
                ("GET", "/modalities?expand"),
            ],
        ),
        (
            "commitment",
            [("POST", "/tools/find"), ("POST", f"/instances/{_ID}/attachments/dicom/verify-md5")],
            [
                ("GET", f"/instances/{_ID}/file"),
                ("DELETE", f"/instances/{_ID}"),
                ("POST", "/tools/bulk-content"),
            ],
        ),
        (
            "monitor",
            [("GET", "/system"), ("GET", "/statistics")],
            [("GET", "/studies"), ("POST", "/tools/find"), ("DELETE", "/changes")],
        ),
        (
            "gateway",
            [("POST", "/dicom-web/studies"), ("GET", "/dicom-web/studies")],
            [("GET", "/studies"), ("DELETE", f"/instances/{_ID}"), ("POST", "/instances")],
        ),
        (
            "ddwd",
            [("DELETE", f"/studies/{_ID}"), ("POST", "/modalities/x/echo")],
            [
                ("DELETE", "/changes"),
                ("PUT", "/tools/log-level"),
                ("PUT", "/peers/x"),
                ("POST", "/tools/bulk-delete"),
            ],
        ),
    ],
)
def test_a_unit_may_do_its_work_and_nothing_else(
    user: str, allowed: list[tuple[str, str]], refused: list[tuple[str, str]]
) -> None:
    def may(method: str, path: str) -> bool:
        return RestRequest(user, method, path, "127.0.0.1").is_allowed

    assert [one for one in allowed if not may(*one)] == []
    assert [one for one in refused if may(*one)] == []


def test_every_login_but_those_of_people_has_rights_and_every_right_a_login() -> None:
    logins = {user for users in credentials.USERS.values() for user in users}
    assert logins - {"admin", "viewer"} == PORTAL_LOGINS
    assert set(credentials.LOGIN_OF.values()) <= PORTAL_LOGINS


def _file_of_0_2_0(path: Path) -> dict[str, dict[str, str]]:
    made = credentials.generate()
    users = {"gateway": ("admin", "viewer", "ddwd"), "storage": ("admin", "viewer", "ddwd", "gateway")}
    old = {node: {user: made.passwords[node][user] for user in names} for node, names in users.items()}
    path.write_text(json.dumps(old))
    return old


def test_a_file_of_0_2_0_gets_the_logins_of_the_units_and_keeps_all_others(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    old = _file_of_0_2_0(path)
    before = credentials.read(path)  # a command may come before provisioning
    credentials.add_missing(path)
    found = credentials.read(path)
    assert found == before
    assert {node: {user: found.passwords[node][user] for user in users} for node, users in old.items()} == old
    assert {node: tuple(sorted(found.of(node))) for node in credentials.USERS} == {
        node: tuple(sorted(users)) for node, users in credentials.USERS.items()
    }
    passwords = [password for node in credentials.USERS for password in found.of(node).values()]
    assert len(set(passwords)) == len(passwords)


def test_machines_that_shared_a_file_of_0_2_0_agree_on_the_logins_of_the_units(tmp_path: Path) -> None:
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    old = _file_of_0_2_0(here)
    other = _file_of_0_2_0(there)
    for node in old:
        other[node]["ddwd"] = old[node]["ddwd"]
    there.write_text(json.dumps(other))
    for path in (here, there):
        credentials.add_missing(path)
    first, second = credentials.read(here), credentials.read(there)
    for user in ("extractor", "monitor", "commitment"):
        assert first.of("storage")[user] == second.of("storage")[user]
    assert first.of("storage")["admin"] != second.of("storage")["admin"]


def test_each_unit_is_handed_its_own_login_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = credentials.generate()
    credentials.hand_out(tmp_path / "logins", made)
    assert (tmp_path / "logins").stat().st_mode & 0o777 == 0o700
    handed = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "logins").iterdir()}
    assert handed.keys() == credentials.LOGIN_OF.keys()
    assert {user for nodes in handed.values() for users in nodes.values() for user in users} == {
        *("extractor", "monitor", "courier", "commitment", "ddwd")
    }
    for unit, user in credentials.LOGIN_OF.items():
        assert (tmp_path / "logins" / f"{unit}.json").stat().st_mode & 0o777 == 0o600
        folder = tmp_path / unit
        folder.mkdir()
        (folder / "rest.json").write_text(json.dumps(handed[unit]))
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
        found = credentials.own(tmp_path / "none.json")
        assert found.login("gateway") == (user, made.of("gateway")[user])
        assert {name for users in found.passwords.values() for name in users} == {user}


def test_without_a_credential_of_its_own_a_command_has_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "credentials.json"
    credentials.write(path, credentials.generate())
    for folder in ("", str(tmp_path)):  # a unit may have other credentials
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", folder)
        assert credentials.own(path).login("storage")[0] == "ddwd"
    (tmp_path / "rest.json").write_text("{")
    with pytest.raises(ConfigError, match="restart ddwd"):
        credentials.own(path)


class _Asked(Orthanc):
    """An Orthanc that answers nothing useful and remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__("gateway", "http://127.0.0.1:9", "extractor", "x")
        self.asked: list[tuple[str, str]] = []

    def _ask(self, method: str, path: str, silence: float, **_options: object) -> tuple[int, bytes]:
        self.asked.append((method, path.partition("?")[0]))
        return 200, b"{}"


_ONE = OrthancId(_ID)
_READS: dict[str, tuple[object, ...]] = {
    "changes": (0, 10),
    "last_seq": (),
    "study_page": (0, 10),
    "instances": ([_ONE],),
    "study_of": ("Instance", _ONE),
    "study": (_ONE,),
    "route": (_ONE,),
    "routes_of": ([_ONE],),
    "jobs": (),
    "job": (_ID,),
    "sop_uids": ([_ONE],),
    "stow": ("x", [_ONE]),
}


@pytest.mark.parametrize(
    ("user", "calls"),
    [
        (
            "extractor",
            _READS
            | {
                "system": (),
                "now": (),
                "statistics": (),
                "sender": (_ONE,),
                "set_route": (_ONE, "x"),
                "first_image": (_ONE,),
                "head": (_ONE, 10),
                "file": (_ONE,),
                "receive": (b"x",),
                "received": (_ONE,),
                "is_whole": (_ONE,),
                "forget": (_ONE,),
                "find_study": ("1.2.3",),
                "find_accession": ("A",),
                "find_patient": ("P",),
                "find_images": (["1.2.3"],),
                "md5": (_ONE,),
                "reaches": ("storage",),
            },
        ),
        ("courier", _READS | {"store": ("x", [_ONE]), "search": ("x", "/studies", {}), "echoes": ("x",)}),
        (
            "commitment",
            {
                "find_images": (["1.2.3"],),
                "study_of": ("Instance", _ONE),
                "is_whole": (_ONE,),
                "last_seq": (),
            },
        ),
        ("monitor", {"system": (), "statistics": (), "last_seq": ()}),
        (
            "ddwd",
            _READS | {"delete_study": (_ONE,), "echoes": ("x",), "reaches": ("x",), "is_whole": (_ONE,)},
        ),
    ],
)
def test_a_unit_may_make_every_request_that_its_work_needs(
    user: str, calls: dict[str, tuple[object, ...]]
) -> None:
    node = _Asked()
    for name, arguments in calls.items():
        before = len(node.asked)
        with suppress(KeyError, TypeError, ValueError, AttributeError, DdwdError):  # of the empty answer
            getattr(node, name)(*arguments)
        assert len(node.asked) > before, name
    refused = [one for one in node.asked if not RestRequest(user, *one, "127.0.0.1").is_allowed]
    assert refused == []
