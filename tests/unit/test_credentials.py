"""Passwords: fresh each time, complete, unreadable ones explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddwd.appliance import credentials
from ddwd.errors import ConfigError


def test_round_trip_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    made = credentials.generate()
    credentials.write(path, made)
    found = credentials.read(path)
    assert found == made
    assert path.stat().st_mode & 0o777 == 0o640
    assert found.login("storage", "gateway")[0] == "gateway"
    assert set(found.of("gateway")) == {"admin", "ddwd"}


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
