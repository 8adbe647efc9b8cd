"""What `ddwd config check` says of a shared ledger. The ledger itself, on a real server: tests/integration/test_stores.py."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from ddwd.cli.config import ledger_problems
from ddwd.config.loader import load_with_sources

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.config.schema import Loaded


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.password"
    path.write_text("secret\n", encoding="utf-8")
    path.chmod(0o640)
    return path


def _loaded(folder: Path, password: Path) -> Loaded:
    yaml = folder / "ddwd.yaml"
    yaml.write_text(
        f"ledger:\n  shared: postgresql://ddwd@db1/ddwd_ledger\n  password_file: {password}\n",
        encoding="utf-8",
    )
    return load_with_sources(yaml, {"DDWD_DEFAULTS": str(folder / "none")})


def test_a_shared_ledger_with_its_driver_and_its_password_is_sound(tmp_path: Path, password: Path) -> None:
    assert list(ledger_problems(_loaded(tmp_path, password))) == []


def test_without_the_driver_the_package_is_named(
    tmp_path: Path, password: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    (problem,) = ledger_problems(_loaded(tmp_path, password))
    assert str(problem).endswith(
        "ledger.shared: needs psycopg, which is not installed; apt install python3-psycopg"
    )


def test_a_password_that_everyone_may_read_is_none(tmp_path: Path, password: Path) -> None:
    password.chmod(0o644)
    (problem,) = ledger_problems(_loaded(tmp_path, password))
    assert problem.what == f"{password} is readable by every user"
    assert problem.instead == f"chown root:ddwd {password} && chmod 640 {password}"


def test_a_password_that_is_not_there_is_named(tmp_path: Path, password: Path) -> None:
    password.unlink()
    (problem,) = ledger_problems(_loaded(tmp_path, password))
    assert problem.key == "ledger.password_file"
    assert problem.what == f"{password} cannot be read by this user (No such file or directory)"
