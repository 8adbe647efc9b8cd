"""bash, zsh and fish offer every verb, action and option, and what stands for a study or an entry of the quarantine; asked in each shell itself."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest

from tests import readme
from tests.unit.test_manual import generator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MANUAL = readme.REPO / "packaging" / "manual"
COMPLETIONS = generator("completions")
ENTRY = "0123456789abcdef"


def _run(*words: str, **variables: str) -> str:
    with tempfile.TemporaryDirectory() as home:  # a shell keeps files of its own
        homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), home)
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, timeout=120, env=os.environ | homes | variables
        )
    assert not done.stderr
    return done.stdout


def _bash(*lines: str) -> list[list[str]]:
    script = (
        f"source '{MANUAL / 'ddwd.bash'}'\n"
        "_ddwd_studies() { printf '%s\\n' 1.2.3 1.2.4; }\n"
        f"_ddwd_quarantined() {{ echo {ENTRY}; }}\n"
    )
    for line in lines:
        words = line.split(" ")
        script += (
            f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}\n"
            f'{"_ddwd_top" if words[0] == "ddwd-top" else "_ddwd"}; echo "${{COMPREPLY[*]}}"\n'
        )
    return [line.split() for line in _run("bash", "--norc", "-euc", script).splitlines()]


def _zsh(*lines: str) -> list[list[str]]:
    said = _run("zsh", "-f", str(readme.REPO / "tests" / "completion.zsh"), str(MANUAL / "ddwd.zsh"), *lines)
    return [line.split() for line in said.splitlines()]


def _fish(*lines: str) -> list[list[str]]:
    script = (
        f"source {MANUAL / 'ddwd.fish'}\n"
        "function __ddwd_studies; printf '%s\\n' 1.2.3 1.2.4; end\n"
        f"function __ddwd_quarantined; echo {ENTRY}; end\n"
    )
    for line in lines:
        script += f"echo (complete -C '{line}' | string split --fields 1 \\t)\n"
    said = _run("fish", "--no-config", "-c", script).splitlines()
    # fish 4 offers to a script what only contains the letters too, and shows a user what begins with them
    typed = [line.rpartition(" ")[2] for line in lines]
    return [
        [one for one in line.split() if one.startswith(begin)]
        for line, begin in zip(said, typed, strict=True)
    ]


SHELLS: dict[str, Callable[..., list[list[str]]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
TOP = COMPLETIONS.line(COMPLETIONS.ddwd.parser())
LINES = {" ".join(one.words): one for one in COMPLETIONS._leaves(TOP) if not one.below}


OFFERED = {
    "ddwd tra": {"trace"},
    "ddwd trace 1": {"1.2.3", "1.2.4"},
    "ddwd verify 1.2.4": {"1.2.4"},
    "ddwd quarantine sh": {"show"},
    "ddwd quarantine release 0": {ENTRY},
    "ddwd config ch": {"check"},
    "ddwd logs sc": {"scp"},
    "ddwd echo stor": {"storage"},
    "ddwd-top --on": {"--once"},
}


@pytest.mark.parametrize("shell", SHELLS)
def test_every_verb_and_option_is_offered(shell: str) -> None:
    verbs, *found = SHELLS[shell]("ddwd ", *(f"ddwd {words} --" for words in LINES))
    assert {one.words[0] for one in TOP.below} <= set(verbs)
    for (words, one), offered in zip(LINES.items(), found, strict=True):
        wanted = {name for option in one.options for name in option.names if name.startswith("--")}
        assert wanted <= set(offered), words


@pytest.mark.parametrize("shell", SHELLS)
def test_what_fits_there_is_offered(shell: str) -> None:
    found = SHELLS[shell](*OFFERED)
    assert dict(zip(OFFERED, map(set, found), strict=True)) == OFFERED


def test_studies_and_entries_are_read_from_what_the_portal_writes(tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    rows = [{"study_uid": uid, "state": "waiting"} for uid in ("1.2.3", "1.2.4")]
    status.write_text(json.dumps({"in_flight": rows, "recent": rows[:1]}), encoding="utf-8")
    studies = COMPLETIONS.STUDIES_COMMAND.replace("/run/ddwd/extractor/status.json", str(status))
    assert _run("sh", "-c", studies).split() == ["1.2.3", "1.2.4"]
    listed = f"{ENTRY[:8]}  2026-01-02 03:04:05 UTC  conflict  1.2 KB  1.2.3\n          it differs\n1 in quarantine\n"
    (tmp_path / "ddwd").write_text(f"#!/bin/sh\nprintf '{listed}'\n", encoding="utf-8")
    (tmp_path / "ddwd").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert _run("sh", "-c", COMPLETIONS.ENTRIES_COMMAND, PATH=path).split() == [ENTRY[:8]]
