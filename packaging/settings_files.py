"""Make etc/ddwd.yaml and the table in docs/settings.md from the declarations in ddwd/config/schema.py: `make manual`; a test compares.

manual.py makes ddwd.yaml(5) and site/reference.py its page from the same texts (`explained`). The texts are the docstrings of the
sections, and those below the fields, which Python does not keep: they are read from the source. Without arguments, writes both files.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from ddwd.config.schema import DECLARED, SETTINGS, Config, flatten  # noqa: E402 - the path comes first

YAML = REPO / "etc/ddwd.yaml"
PAGE = REPO / "docs/settings.md"

_HEAD = """# Settings of D-DW-D Portal. This is the only file to edit; every key is here with its default.
# A key that is removed has its default again. Readable by root and group ddwd only: it may contain passwords. After a change:
#     ddwd config check && systemctl restart ddwd
# The environment variable in brackets sets the same key in /etc/default/ddwd, and wins over this file.
"""
_TABLE = re.compile(r"^\| key \|.*\n(?:\|.*\n)+", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=\.) (?=[A-Z\[])")
_EMPTY = {"Empty: ": "empty: ", "[] is ": "`[]`: "}
_GIB = 1024**3


class Explained(NamedTuple):
    """One section or key of ddwd.yaml: its default as the file has it, and the lines of its comment."""

    key: str
    value: str
    said: list[str]


@cache
def texts_below(kind: type[Any]) -> dict[str, str]:
    """Return the docstring below each field, or other assignment, of a class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    found = {}
    for one, below in pairwise(body):
        if isinstance(one, ast.AnnAssign | ast.Assign) and isinstance(below, ast.Expr):
            (target,) = [one.target] if isinstance(one, ast.AnnAssign) else one.targets
            if isinstance(target, ast.Name):
                found[target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    return found


def explained() -> Iterator[Explained]:
    """Return every section and key, in the order of etc/ddwd.yaml."""
    defaults = flatten(Config())
    for one in DECLARED:
        text = texts_below(one.owner).get(one.name, "") if one.setting else inspect.getdoc(one.owner) or ""
        yield Explained(one.key, written(defaults[one.key]) if one.setting else "", text.splitlines())


def written(value: object) -> str:
    """Return a default as ddwd.yaml has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return _shown(value)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value and value % _GIB == 0:
        return f"{value // _GIB} GiB"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


# --- etc/ddwd.yaml ----------------------------------------------------------------------------------------------------


def ddwd_yaml() -> str:
    """Return the file that is installed: every key with its comment and its default."""
    lines = [_HEAD.rstrip("\n")]
    for one in explained():
        setting, indent = SETTINGS.get(one.key), "  " if "." in one.key else ""
        if not indent and not (setting and setting.joined):
            lines.append("")
        comment = [f"{indent}# {line}" for line in one.said]
        if setting and setting.variables:
            comment[-1] += f" [{setting.variables[0]}]"
        lines += [*comment, f"{indent}{one.key.rpartition('.')[2]}: {one.value}".rstrip()]
    return "\n".join(lines) + "\n"


# --- docs/settings.md -------------------------------------------------------------------------------------------------


def table() -> str:
    """Return the table of all settings: key, variables, default, meaning."""
    defaults = flatten(Config())
    rows = [
        [_code(one.key), _code(*SETTINGS[one.key].variables), _code(_shown(defaults[one.key])), _meaning(one)]
        for one in explained()
        if one.key in SETTINGS
    ]
    head = ["| key | variable | default | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *("|".join(["", *map(_cell, row), ""]) for row in rows)]) + "\n"


def settings_page() -> str:
    """Return docs/settings.md as it is, with the table made anew."""
    page, count = _TABLE.subn(lambda _: table(), PAGE.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{PAGE} has {count} tables of settings")
    return page


def _cell(text: str) -> str:
    return f" {text} " if text else " "


def _code(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names if name)


def _meaning(one: Explained) -> str:
    """Return the text for the table: the first sentence of the comment, and what an empty value means."""
    first, *others = _SENTENCE_END.split(" ".join(one.said))
    cells = [first[:1].lower() + first[1:] if first[1:2].islower() or first[1:2] == " " else first]
    cells += [
        text + other.removeprefix(begin)
        for other in others
        for begin, text in _EMPTY.items()
        if other.startswith(begin)
    ]
    text = "; ".join(cell.removesuffix(".") for cell in cells)
    text = re.sub(
        r"\b[a-z_]+\.[a-z_]+\b", lambda found: _code(found[0]) if found[0] in SETTINGS else found[0], text
    )
    text = re.sub(r"docs/([a-z]+\.md)(#[a-z-]+)?", r"[\1](\1\2)", text)
    return re.sub(r"^(true|false): ", r"`\1`: ", text).replace("|", r"\|")


RESULTS = {YAML: ddwd_yaml, PAGE: settings_page}


def write() -> None:
    """Write both files."""
    for path, make in RESULTS.items():
        path.write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    write()
