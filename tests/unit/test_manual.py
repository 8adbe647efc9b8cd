"""Man pages and completion say what `--help` says: they are made from the same source, and are up to date."""

from __future__ import annotations

import importlib.util
from argparse import _SubParsersAction
from pathlib import Path
from typing import Any

import pytest

from ddwd.cli.main import parser
from ddwd.config.schema import SETTINGS

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"


def generator(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, PACKAGING / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator("manual")
SETTINGS_FILES = generator("settings_files")


@pytest.mark.parametrize("name", GENERATOR.RESULTS)
def test_what_is_committed_is_what_would_be_made_now(name: str) -> None:
    made = GENERATOR.RESULTS[name]()
    assert made == (PACKAGING / "manual" / name).read_text(encoding="utf-8"), "run: make manual"


@pytest.mark.parametrize("path", SETTINGS_FILES.RESULTS, ids=lambda path: path.name)
def test_the_settings_file_and_the_table_are_what_would_be_made_now(path: Path) -> None:
    assert SETTINGS_FILES.RESULTS[path]() == path.read_text(encoding="utf-8"), "run: make manual"


def test_every_setting_has_a_comment_or_shares_that_of_the_key_before() -> None:
    without = [one.key for one in SETTINGS_FILES.explained() if not one.said]
    assert without == []


def _verbs() -> dict[str, Any]:
    (found,) = (action.choices for action in parser()._actions if isinstance(action, _SubParsersAction))
    return dict(found)


def test_every_verb_and_option_has_its_place_in_the_man_page() -> None:
    page = GENERATOR.ddwd_1().replace("\\-", "-")
    for name, verb in _verbs().items():
        assert f'.SS "ddwd {name}"' in page
        for action in GENERATOR.options(verb):
            for option in action.option_strings:
                assert option in page


def test_every_setting_is_in_its_man_page_with_its_variables() -> None:
    page = GENERATOR.ddwd_yaml_5().replace("\\-", "-")
    for key, setting in SETTINGS.items():
        assert f".B {key}\n" in page
        assert all(variable in page for variable in setting.variables)
