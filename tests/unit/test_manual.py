"""Man pages and completion say what `--help` says: they are made from the same source, and are up to date."""

from __future__ import annotations

import importlib.util
import subprocess
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


def _completed(*words: str, status: str = "") -> list[str]:
    """What bash offers for the last of these words."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        f"source '{PACKAGING / 'manual' / 'ddwd.bash'}'\n"
        f"_ddwd_studies() {{ printf '%s\\n' {status or '1.2.3 1.2.4'}; }}\n"
        "_ddwd_quarantined() { echo 0123456789abcdef0123456789abcdef; }\n"
        f"COMP_WORDS=({quoted}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
        "_ddwd; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    done = subprocess.run(
        ["bash", "--norc", "-euc", script], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.split()


def test_bash_offers_every_verb() -> None:
    assert set(_verbs()) <= set(_completed("ddwd", ""))
    assert _completed("ddwd", "tra") == ["trace"]


@pytest.mark.parametrize("verb", _verbs())
def test_bash_offers_every_option(verb: str) -> None:
    wanted = {
        name
        for action in GENERATOR.options(_verbs()[verb])
        for name in action.option_strings
        if name.startswith("--")
    }
    assert wanted <= set(_completed("ddwd", verb, "--"))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("ddwd", "trace", ""), ["1.2.3", "1.2.4"]),
        (("ddwd", "verify", "1.2.4"), ["1.2.4"]),
        (("ddwd", "quarantine", "sh"), ["show"]),
        (("ddwd", "quarantine", "release", "0"), ["0123456789abcdef0123456789abcdef"]),
        (("ddwd", "config", "ch"), ["check"]),
    ],
)
def test_bash_offers_what_fits_there(words: tuple[str, ...], offered: list[str]) -> None:
    assert _completed(*words) == offered
