"""The maintainer scripts run as root: what another user left in a folder is neither printed as a command nor waited for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "packaging/debian"
STATE = "/var/lib/ddwd/state"


def _run(script: str, call: str, state: Path) -> str:
    """Call a function of a script on another folder than the real one; return what it says on either channel."""
    functions = (SCRIPTS / script).read_text(encoding="utf-8").partition('\ncase "$1" in')[0]
    text = f'{functions.replace(STATE, str(state))}\nrunuser() {{ shift 3; "$@"; }}\n{call}'
    # timeout(1) cannot run a function of the shell: here the limit is the test's own
    text = text.replace("timeout 30 runuser", "runuser")
    done = subprocess.run(
        ["sh", "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    return f"{done.returncode}\n{done.stdout}"


@pytest.mark.parametrize(
    "name",
    ["before-$(reboot)", "before-1;reboot", "before-1\nmv x", "before-`id`", "before-'x", "before-\x1b[2J"],
)
def test_a_name_that_a_shell_would_obey_is_no_command_to_paste(tmp_path: Path, name: str) -> None:
    for each in (name, "before-0.3.0~rc1+1"):
        (tmp_path / each).mkdir()
    said = _run("prerm", "warn_of_downgrade 0.1.0", tmp_path)
    assert said.count(f"mv {tmp_path}-newer/before-") == 1
    assert f"mv {tmp_path}-newer/before-0.3.0~rc1+1 {tmp_path}\n" in said


def test_the_schema_of_the_newest_segment_decides_and_no_pipe_is_waited_for(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    os.mkfifo(ledger / "99999999.jsonl")
    assert _run("prerm", "has_newer_ledger", tmp_path).startswith("1\n")
    (ledger / "00000001.jsonl").write_text('{"kind":"snapshot","schema":2,"at":""}\n', encoding="utf-8")
    assert _run("prerm", "has_newer_ledger", tmp_path).startswith("0\n")
