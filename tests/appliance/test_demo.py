"""`make demo`, as README.md has it: real studies through a machine of its own."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests import readme

if TYPE_CHECKING:
    from pathlib import Path


def test_make_demo_carries_real_studies_through_a_machine_and_throws_it_away(deb: Path) -> None:
    # the package is there, and the tests that come after this one are to have the same
    command = ["make", "--no-print-directory", "--old-file=deb", "--old-file=venv", "demo"]
    done = subprocess.run(command, cwd=readme.REPO, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, f"make demo: {done.stdout}{done.stderr}"
    assert f"apt install ./{deb.name}" in done.stdout
    assert done.stdout.endswith("machine stopped and removed\n")
