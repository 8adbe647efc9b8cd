"""Text, JSON and exit status of the verbs alert, pause, resume and hooks."""

from __future__ import annotations

import argparse
import io
import json
from typing import TYPE_CHECKING

import pytest

from ddwd.cli.command import Marked, VerbResult, show
from ddwd.cli.main import parser
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.errors import NotFoundError
from ddwd.core.problem import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(data_dir=tmp_path / "data", run_dir=tmp_path / "run")


def _said(config: Config, *words: str) -> tuple[int, str]:
    out = io.StringIO()
    args = parser().parse_args(list(words))
    return args.run(args, config, out), out.getvalue()


def _json(verb: str, *, well: bool = True, **data: object) -> str:
    return json.dumps({"schema": f"ddwd.{verb}/1", "well": well, **data}) + "\n"


def test_an_alert_without_a_notifier_fails(config: Config) -> None:
    text = "no notifier is configured: set mail.server or alerts.webhook in ddwd.yaml\n"
    assert _said(config, "alert") == (1, text)
    assert _said(config, "alert", "--json") == (1, _json("alert", well=False, notifiers={}))


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        ("pause", "the extractor is asked to pause: no study is retrieved until: ddwd resume\n"),
        ("resume", "the extractor is asked to go on; see: ddwd status\n"),
    ],
)
def test_pause_and_resume_leave_a_request(config: Config, verb: str, text: str) -> None:
    Paths(config).requests.mkdir(parents=True)
    assert _said(config, verb) == (0, text)
    assert _said(config, verb, "--json") == (0, _json(verb, asked=verb))


def test_hooks_are_listed_retried_and_dropped(config: Config) -> None:
    (Paths(config).hooks / "waiting").mkdir(parents=True)
    assert _said(config, "hooks", "list") == (0, "no hook waits\n")
    assert _said(config, "hooks", "list", "--json") == (0, _json("hooks.list", waiting=[]))
    text = "ddwd-hooks is asked to try all of them now; see: ddwd hooks list\n"
    assert _said(config, "hooks", "retry") == (0, text)
    assert _said(config, "hooks", "retry", "--json") == (0, _json("hooks.retry", asked="retry"))
    with pytest.raises(NotFoundError, match=r"no hook waits for study 1\.2;"):
        _said(config, "hooks", "drop", "1.2")


def _helps(parsers: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Yield each verb and action with its help."""
    for action in parsers._actions:
        for name, one in (
            (action.choices or {}).items() if isinstance(action, argparse._SubParsersAction) else ()
        ):
            yield name, one.format_help()
            yield from _helps(one)


def test_no_line_of_a_help_is_longer_than_a_terminal_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    helps = list(_helps(parser()))
    assert len(helps) > 30
    assert [(name, line) for name, text in helps for line in text.splitlines() if len(line) > 100] == []


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("severity", "code"), [(0, 32), (Severity.WARN, 33), (Severity.BROKEN, 31)])
def test_a_terminal_shows_how_bad_a_line_is_and_a_pipe_does_not(
    monkeypatch: pytest.MonkeyPatch, severity: int, code: int
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    result = VerbResult({}, [Marked.of("so it is", severity), "and more"])
    shown = {}
    for out in (_Terminal(), io.StringIO()):
        show(result, argparse.Namespace(json=False), out)
        shown[out.isatty()] = out.getvalue()
    assert shown == {True: f"\033[{code}mso it is\033[0m\nand more\n", False: "so it is\nand more\n"}
    monkeypatch.setenv("NO_COLOR", "1")
    show(result, argparse.Namespace(json=False), out := _Terminal())
    assert out.getvalue() == "so it is\nand more\n"
