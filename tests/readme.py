"""README.md as the tests read it: its commands, code spans and tables. Used by tests/unit and tests/appliance."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = Path(__file__).resolve().parents[1]
README = REPO / "README.md"

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_CELL = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a ```console block: the `##` section it stands in, whether it is for root, its text."""

    section: str
    as_root: bool
    text: str


def text() -> str:
    """The whole README."""
    return README.read_text(encoding="utf-8")


def sections() -> dict[str, str]:
    """Title of each `##` section -> its text, in order."""
    parts = re.split(r"^## (.+)$", text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands() -> list[Command]:
    """Every command of every ```console block, in order; `# ` is root's prompt, `$ ` anyone's, the rest output."""
    return [
        Command(section, line[0] == "#", line[2:].strip())
        for section, body in sections().items()
        for kind, block in _FENCED.findall(body)
        if kind == "console"
        for line in block.splitlines()
        if line.startswith(("# ", "$ "))
    ]


def code() -> Iterator[str]:
    """Every code span outside the blocks and every command in them."""
    yield from _SPAN.findall(_FENCED.sub("", text()))
    yield from (command.text for command in commands())


def table(section: str, heading: str) -> list[list[str]]:
    """Rows of the table of that section whose first heading is `heading`; cells stripped."""
    rows = [line for line in sections()[section].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in _CELL.split(row)[1:-1]] for row in rows]
    begin = next(index for index, row in enumerate(cells) if row[0] == heading) + 2
    found: list[list[str]] = []
    for row in cells[begin:]:
        if set(row[0]) == {"-"}:  # the next table begins with the row above
            found.pop()
            break
        found.append(row)
    return found
