"""Declare settings: one dataclass field for each, and everything else about a setting is derived from that field.

A setting is a field made by `setting`, a section is a field made by `section`; both are in schema.py. The docstring below the field of
a setting, and that of the class of a section, is the comment of etc/ddwd.yaml and the text of ddwd.yaml(5). `make manual` (packaging/settings_files.py) makes etc/ddwd.yaml, the man page
and the table of docs/settings.md from the fields; the loader parses by them.
"""

from __future__ import annotations

from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import yaml

    from ddwd.config.parsers import Parser
    from ddwd.config.sections import Report

    ReadSections = Callable[[yaml.Node, str, Report], tuple[object, ...]]

_KEY = "setting"
_Value = TypeVar("_Value")


class Setting(NamedTuple):
    """One key of ddwd.yaml.

    `parse` reads one value and refuses one beyond the limits. `variables` set the key too; the first has priority. `optional`: the
    key may be empty. `many`: a tuple of values, each parsed by itself; written as a YAML list, or in one line with commas. `table`
    reads a list of sections as a whole (sections.py). `listens`: a port that this machine listens on. `secret`: never printed.
    `joined`: no blank line before it in etc/ddwd.yaml.
    """

    parse: Parser
    variables: tuple[str, ...] = ()
    optional: bool = False
    many: bool = False
    table: ReadSections | None = None
    listens: bool = False
    secret: bool = False
    joined: bool = False


def setting(
    default: _Value, parse: Parser, *variables: str, table: ReadSections | None = None, **flags: bool
) -> _Value:
    """Declare a setting; `flags` are those of Setting. A default of None makes it optional, a tuple a list."""
    is_list = isinstance(default, tuple) and table is None
    made = Setting(parse, variables, default is None, is_list, table, **flags)
    return field(default=default, repr=not made.secret, metadata={_KEY: made})


def section(kind: type[_Value]) -> _Value:
    """Declare a section: a field whose value is a dataclass of settings."""
    return field(default_factory=kind)


class Declared(NamedTuple):
    """One field of the schema: its key, the class and name of the field, and its setting; for a section its own class, without both."""

    key: str
    owner: type[Any]
    name: str
    setting: Setting | None


def declared(kind: type[Any], prefix: str = "") -> Iterator[Declared]:
    """Return every section and setting of a dataclass, in the order of its fields."""
    for item in fields(kind):
        key, below = f"{prefix}{item.name}", cast("object", item.default_factory)
        if _KEY in item.metadata:
            yield Declared(key, kind, item.name, item.metadata[_KEY])
        elif isinstance(below, type):
            yield Declared(key, below, "", None)
            yield from declared(below, f"{key}.")
