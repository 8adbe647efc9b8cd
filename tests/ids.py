"""`python -m tests.ids COMMIT`: the ids of all tests, held against those of an earlier commit; exit status 1 where one is gone.

A test that has another id now stands in tests/ids-moved.txt, as `OLD -> NEW` with full ids, the test that holds the promise of OLD now.
A command of README.md or docs/ is the same test on whichever page it stands, and whatever its number is.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
MOVED = Path(__file__).with_name("ids-moved.txt")
FOLDERS = ("unit", "tui", "dicom", "integration", "appliance", "faults")
_COMMAND = re.compile(r"(test_each_command_does_what_its_page_says)\[\d+ \S+ (.*)\]$")


def collect(clone: Path) -> Counter[str]:
    """Ask pytest for the ids of all tests of a clone."""
    folders = [f"tests/{name}" for name in FOLDERS]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", *folders]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    if not re.search(r"^\d+ tests collected in", done.stdout, re.MULTILINE):  # with errors it says so there
        raise SystemExit(done.stdout[-3000:] + done.stderr)
    return Counter(_COMMAND.sub(r"\1[\2]", line) for line in done.stdout.splitlines() if "::" in line)


def moved() -> dict[str, str]:
    """Old id -> new id."""
    lines = MOVED.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" -> ", 1) for line in lines if line and not line.startswith("#"))


def main(commit: str) -> int:
    """Compare, and print what is gone, what is told to have moved to a test that does not exist, and how many are new."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "before"
        subprocess.run(["git", "clone", "--quiet", "--shared", str(REPO), str(clone)], check=True)
        subprocess.run(["git", "checkout", "--quiet", commit], cwd=clone, check=True)
        before = collect(clone)
    now, elsewhere = collect(REPO), moved()
    gone = [one for one in before - now if one not in elsewhere]
    nowhere = [f"{old} -> {new}" for old, new in elsewhere.items() if new not in now]
    for line in [*(f"gone: {one}" for one in gone), *(f"moved to no test: {one}" for one in nowhere)]:
        print(line)  # noqa: T201 - for people
    print(f"{before.total()} tests at {commit}, {now.total()} now; {len(gone)} gone, {len(elsewhere)} moved")  # noqa: T201
    return int(bool(gone or nowhere))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
