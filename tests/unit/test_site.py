"""The site of `make docs`: its reference pages leave nothing of the code out, and its navigation names pages that there are."""

from __future__ import annotations

import importlib.util
import inspect
import re
from typing import Any

import pytest
import yaml

from ddwd.cli.main import parser
from ddwd.config.paths import Paths
from ddwd.config.schema import SETTINGS
from ddwd.core.audit import FIELDS, Event
from ddwd.core.errors import DdwdError
from ddwd.core.problem_codes import ENTRIES, Code
from ddwd.status.doctor import CHECKS
from ddwd.status.status_codes import MEANINGS
from tests.readme import DOCS, REPO, code, sections

SITE = REPO / "packaging/site"


def _reference() -> Any:
    spec = importlib.util.spec_from_file_location("reference", SITE / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = _reference()
PAGE = {name: make() for name, make in REFERENCE.PAGES.items()}


def test_every_setting_has_its_place_with_its_variables() -> None:
    parts = dict(re.findall(r"^###? `(.*?)`\n(.*?)(?=^#|\Z)", PAGE["settings.md"], re.MULTILINE | re.DOTALL))
    assert list(parts) == list(SETTINGS)
    for key, setting in SETTINGS.items():
        assert all(f"`{variable}`" in parts[key] for variable in setting.variables)
        assert "efault" in parts[key]


def test_every_verb_has_its_place_with_all_its_options() -> None:
    manual = REFERENCE.manual
    known = manual.verbs(parser())
    assert len(known) > 15
    for verb in known:
        assert f"## `ddwd {verb.name}`\n" in PAGE["commands.md"]
        for below in verb.actions:
            assert f"### `ddwd {verb.name} {below.name}`\n" in PAGE["commands.md"]
        for action in manual.options(verb.parser):
            assert f"| `{manual.synopsis(action)}` |" in PAGE["commands.md"]


def test_every_event_has_its_place_and_its_entry_of_the_catalog() -> None:
    assert re.findall(r"^## `(.*)`$", PAGE["events.md"], re.MULTILINE) == [event.value for event in Event]
    assert set(REFERENCE.catalog()) == {event.message_id for event in Event}
    assert all(f"`DDWD_{name.upper()}`" in PAGE["events.md"] for name in FIELDS)
    assert "@" not in PAGE["events.md"].replace("ddwd-tls@", "")


def test_every_failure_has_its_exit_status() -> None:
    classes = [one for one in vars(REFERENCE.errors).values() if isinstance(one, type)]
    failures = [one for one in classes if issubclass(one, DdwdError) and one is not DdwdError]
    assert len(failures) > 5
    for one in failures:
        assert f"| {one.exit_status} | `{one.code}` |" in PAGE["exit-statuses.md"]


@pytest.mark.parametrize("verb", REFERENCE.manual.verbs(parser()), ids=lambda verb: verb.name)
def test_every_verb_says_what_it_ends_with(verb: Any) -> None:
    mine = [one for one in REFERENCE.endings() if one.verb == verb.name]
    told = re.findall(r"^ {2}(\d+) ", verb.parser.epilog.partition("exit status")[2], re.MULTILINE)
    assert [str(one.status) for one in mine] == told
    assert told[0] == "0"
    assert all(one.meaning for one in mine)


def test_every_status_has_its_meaning() -> None:
    assert all(f"| `{status}` |" in PAGE["statuses.md"] for status in MEANINGS)


def test_every_code_of_a_problem_has_its_place() -> None:
    assert list(ENTRIES) == list(Code)
    assert all(f"| `{code}` | {ENTRIES[code].severity}, " in PAGE["problems.md"] for code in Code)


def test_every_metric_has_its_place() -> None:
    source = (REPO / "ddwd/monitoring/metrics.py").read_text(encoding="utf-8")
    names = list(dict.fromkeys(re.findall(r'"(ddwd_\w+)"', source)))
    assert len(names) > 10
    assert re.findall(r"^\| `(ddwd_\w+)` \|", PAGE["metrics.md"], re.MULTILINE) == names


def test_every_file_has_its_place_and_its_writer() -> None:
    source = inspect.getsource(Paths)
    told = re.findall(r'^ {4}(?:    )?"""(.+?)"""$', source, re.MULTILINE | re.DOTALL)
    assert len(told) > 30
    rows = re.findall(r"^\| `[^`]+` \| (.+) \|$", PAGE["files.md"], re.MULTILINE)
    assert len(rows) > 30
    texts = {REFERENCE.md(" ".join(text.split())) for text in told}
    assert set(rows) <= texts
    assert all(";" in row for row in rows), "a path without its writer"


def test_every_module_has_its_place() -> None:
    for path in (REPO / "ddwd").rglob("*.py"):
        if path.read_text(encoding="utf-8").strip():
            part = (
                PAGE["modules.md"].partition(f"## `{path.parent.relative_to(REPO)}`\n")[2].partition("## ")[0]
            )
            assert f"| `{path.stem}` |" in part, path


def _commands_of_the_catalog() -> list[str]:
    lines = [line.strip() for entry in REFERENCE.catalog().values() for line in entry.text.splitlines()]
    return sorted({line for line in lines if line.startswith("ddwd ")})


@pytest.mark.parametrize("command", _commands_of_the_catalog())
def test_every_ddwd_command_that_an_event_advises_is_understood(command: str) -> None:
    words = re.sub(r"@\w+@", "1.2.3", command).partition(" && ")[0].split()[1:]
    assert parser().parse_args(words).verb == words[0]


def test_troubleshooting_tells_of_every_check_of_the_doctor() -> None:
    told = sections(DOCS / "troubleshoot.md")["Is every part as it should be"]
    cells = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", told, flags=re.MULTILINE)
    assert [name for cell in cells[2:] for name in cell.split(", ")] == list(CHECKS)


def test_every_man_page_that_is_named_exists() -> None:
    named = {name for text in code() for name in re.findall(r"^man ([\w.-]+)$", text)}
    assert named
    assert named <= {path.stem for path in (REPO / "packaging/manual").glob("*.[1-8]")}


def test_every_page_of_the_reference_has_a_source_that_the_clone_links_to() -> None:
    assert list(REFERENCE.SOURCES) == list(PAGE)
    assert [source for source in REFERENCE.SOURCES.values() if not (REPO / source).exists()] == []


def test_markdown_shows_a_comment_as_it_stands() -> None:
    assert REFERENCE.md("MR* from [a_b] | <x> `a*b`") == r"MR\* from \[a\_b\] \| \<x\> `a*b`"


def _named(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    below = nav.values() if isinstance(nav, dict) else nav
    return [name for one in below for name in _named(one)]


def test_the_navigation_names_every_page_of_the_reference_and_no_page_that_is_not_there() -> None:
    nav = yaml.safe_load((SITE / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    made = {f"reference/{name}" for name in PAGE}
    assert made <= set(_named(nav))
    others = set(_named(nav)) - made
    assert [name for name in others if not (DOCS / name).exists() and not (REPO / name).exists()] == []
