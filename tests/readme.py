"""README.md, CONTRIBUTING.md and the pages of docs/ as the tests read them: commands, code spans and tables. Used by tests/unit and
tests/appliance.

How a command gets its test. Write it into a ```console block of README.md or of any docs/*.md, with `# ` before it where it is for root and
`$ ` where any member of group `ddwd` may run it; what is in capitals is filled in (`FILLED_IN` of tests/appliance/test_readme.py). It then
runs on the machine of tests/appliance/test_readme.py: README.md, the pages of docs/ by name, docs/remove.md as the last one. It
must exit with 0. There, `BEFORE` says what the machine is brought to first, and `AFTER` what must be so then. A block that stands word
for word on an earlier page ran there. What needs another machine than that one stands in `ELSEWHERE` below, with the test that runs it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

REPO = Path(__file__).resolve().parents[1]
README = REPO / "README.md"
DOCS = REPO / "docs"
CONTRIBUTING = REPO / "CONTRIBUTING.md"
LAST = DOCS / "remove.md"
"""The page after which nothing is left to run a command on."""

ELSEWHERE: dict[tuple[str, str], str] = {
    (
        "README.md",
        "make demo",
    ): "tests/appliance/test_demo.py::test_make_demo_carries_real_studies_through_a_machine_and_throws_it_away",
    ("README.md", "make test"): ".ci/run",
    (
        "docs/several.md",
        "ddwd link --roles gateway /root/other",
    ): "tests/appliance/test_roles.py::test_each_machine_is_well_and_runs_its_own_parts_alone",
    (
        "docs/upgrade.md",
        "systemctl stop ddwd-extractor && mv /var/lib/ddwd/state /var/lib/ddwd/state-newer",
    ): "tests/appliance/test_upgrade.py::test_the_way_back_that_the_upgrade_said_works_too",
    (
        "docs/upgrade.md",
        "mv /var/lib/ddwd/state-newer/before-0.2.0 /var/lib/ddwd/state",
    ): "tests/appliance/test_upgrade.py::test_the_way_back_that_the_upgrade_said_works_too",
    (
        "docs/upgrade.md",
        "apt install --allow-downgrades ./ddwd_0.1.0_all.deb",
    ): "tests/appliance/test_upgrade.py::test_the_way_back_that_the_upgrade_said_works_too",
}
"""(page, beginning of a command) -> the test (`tests/appliance/test_x.py::test_y`, in whose module that text stands) that runs it instead."""

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_CELL = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a ```console block: the page and `##` section it stands in, whether it is for root, its text."""

    page: str
    section: str
    as_root: bool
    text: str

    @property
    def elsewhere(self) -> str:
        """The test that runs it instead of tests/appliance/test_readme.py; nothing: none."""
        found = (
            test
            for (page, beginning), test in ELSEWHERE.items()
            if page == self.page and self.text.startswith(beginning)
        )
        return next(found, "")


def pages() -> list[Path]:
    """README.md and CONTRIBUTING.md, then the pages of docs/ by name."""
    return [README, CONTRIBUTING, *sorted(DOCS.glob("*.md"))]


def text(page: Path = README) -> str:
    """The whole page."""
    return page.read_text(encoding="utf-8")


def sections(page: Path = README) -> dict[str, str]:
    """Title of each `##` section -> its text, in order; what stands before the first one has no title."""
    parts = re.split(r"^## (.+)$", text(page), flags=re.MULTILINE)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks(page: Path, kind: str) -> list[tuple[str, str]]:
    """Section and text of every fenced block of that kind, in order."""
    return [
        (section, block)
        for section, body in sections(page).items()
        for found, block in _FENCED.findall(body)
        if found == kind
    ]


def commands(page: Path = README) -> list[Command]:
    """Every command of every ```console block, in order; `# ` is root's prompt, `$ ` anyone's, the rest output."""
    return [one for section, block in blocks(page, "console") for one in _prompted(page, section, block)]


def to_run() -> list[Command]:
    """What one machine runs, in order: see above."""
    seen: set[str] = set()
    found: list[Command] = []
    for page in [*(one for one in pages() if one != LAST), LAST]:
        for section, block in blocks(page, "console"):
            if page in {README, LAST} or block not in seen:
                found.extend(_prompted(page, section, block))
            seen.add(block)
    return [one for one in found if not one.elsewhere]


def _prompted(page: Path, section: str, block: str) -> list[Command]:
    return [
        Command(str(page.relative_to(REPO)), section, line[0] == "#", line[2:].strip())
        for line in block.splitlines()
        if line.startswith(("# ", "$ "))
    ]


def code(*of: Path) -> Iterator[str]:
    """Every code span outside the blocks and every command in them, of all pages or of these."""
    for page in of or pages():
        yield from _SPAN.findall(_FENCED.sub("", text(page)))
        yield from (command.text for command in commands(page))


def table(page: Path, heading: str) -> list[list[str]]:
    """Rows of the table of that page whose first heading is `heading`; cells stripped."""
    rows = [line for line in text(page).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in _CELL.split(row)[1:-1]] for row in rows]
    begin = next(index for index, row in enumerate(cells) if row[0] == heading) + 2
    found: list[list[str]] = []
    for row in cells[begin:]:
        if set(row[0]) == {"-"}:  # the next table begins with the row above
            found.pop()
            break
        found.append(row)
    return found


def keys_of(rows: Iterable[str], held: Mapping[str, Sequence[str]]) -> list[str]:
    """For each row the key of `held` that begins it; of two that do, the longer one is the row's."""
    return [max(filter(row.startswith, held), key=len, default=f"no test: {row}") for row in rows]


def not_held(held: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """Rows of these tables for which no test is named, and named tests that do not exist."""
    rows = [(row, tests) for table_rows in held.values() for row, tests in table_rows.items()]
    bare = [row for row, tests in rows if not tests]
    return bare + sorted({test for _, tests in rows for test in tests if not is_test(test)})


def is_test(named: str) -> bool:
    """Return whether a test of that name exists: `tests/unit/test_x.py::test_y`."""
    path, _, name = named.partition("::")
    file = REPO / path
    return (
        file.is_file()
        and re.search(rf"^def {name}\(", file.read_text(encoding="utf-8"), re.MULTILINE) is not None
    )
