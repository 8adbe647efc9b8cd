"""Lays out what the site is built from, for `make docs`: README.md, CONTRIBUTING.md, CHANGELOG.md and docs/, and the reference made from the code.

$1: the folder to write to, which is made anew. Links between the pages are those of the clone; here they are turned to where the pages lie.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
sys.path[:0] = [str(REPO), str(HERE), str(HERE.parent)]

import reference  # noqa: E402 - the path comes first

_FRONT = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE")


def lay_out(folder: Path) -> None:
    """All pages, pictures and the reference."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(REPO / "docs", folder)
    for page in folder.glob("*.md"):
        _to_the_reference(page, "../")
        _rewrite(page, rf"\]\(\.\./({'|'.join(map(re.escape, _FRONT))})", r"](\1")
    for name in _FRONT:
        shutil.copy(REPO / name, folder / name)
        _to_the_reference(folder / name, "")
        _rewrite(folder / name, r"\]\(docs/", "](")
    (folder / "reference").mkdir()
    for name, make in reference.PAGES.items():
        (folder / "reference" / name).write_text(make(), encoding="utf-8")


def _to_the_reference(page: Path, root: str) -> None:
    for name, source in reference.SOURCES.items():
        _rewrite(page, rf"\]\({re.escape(root + source)}\)", f"](reference/{name})")


def _rewrite(page: Path, pattern: str, instead: str) -> None:
    page.write_text(re.sub(pattern, instead, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
