"""Read ddwd.yaml: from its YAML nodes to values as written, each with its line, and a problem for each mistake in its structure."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple

import yaml

from ddwd.config.parsers import Many, Raw, Source
from ddwd.config.schema import SECTIONS, SETTINGS, VARIABLES
from ddwd.config.sections import is_null, line_of
from ddwd.core.errors import ConfigProblem

if TYPE_CHECKING:
    from pathlib import Path


class Sections(NamedTuple):
    """The entries of a list of sections, and where it begins."""

    entries: tuple[object, ...]
    source: Source


Written = Raw | Many | Sections | None
"""The value of a key as written: one value, a list, a list of sections, or empty."""


class YamlFile:
    """Walks the nodes of one YAML file, which have their line numbers."""

    def __init__(self, path: Path, problems: list[ConfigProblem]) -> None:
        self._name = str(path)
        self._problems = problems

    def read(self, root: yaml.Node | None) -> dict[str, Written]:
        """Return key -> value as written (None: empty); problems are added to the list."""
        found: dict[str, Written] = {}
        for key, node in self._entries(root, "", "the file") if root else ():
            if key not in SECTIONS:
                self._value(key, node, found)
            elif not is_null(node):
                for inner, value in self._entries(node, f"{key}.", key):
                    self._value(inner, value, found)
        return found

    def _entries(self, node: yaml.Node, prefix: str, what: str) -> list[tuple[str, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            self._report(node, what, "is not a section", "write `key: value` lines, indented below it")
            return []
        entries: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = prefix + str(key_node.value)
            if key in entries:
                self._report(key_node, key, "is given twice", "keep one of the two lines")
            elif key in SETTINGS or key in SECTIONS:
                entries[key] = value
            else:
                self._report(key_node, key, "is not a known key", _nearest_key(key, prefix))
        return list(entries.items())

    def _value(self, key: str, node: yaml.Node, found: dict[str, Written]) -> None:
        if read := SETTINGS[key].table:
            found[key] = Sections(read(node, self._name, self._report), self._source(node))
        elif SETTINGS[key].many:
            found[key] = self._many(key, node)
        elif not isinstance(node, yaml.ScalarNode):
            self._report(node, key, "has a list or a section for a value", "write one value")
        elif not is_null(node):
            found[key] = Raw(node.value, node.style is None, self._source(node))
        elif SETTINGS[key].optional:
            found[key] = None
        else:
            self._report(node, key, "has no value", "write one, or remove the line for the default")

    def _many(self, key: str, node: yaml.Node) -> Many:
        """Read a list, or the same in one line with commas; an empty value is an empty list."""
        if isinstance(node, yaml.SequenceNode):
            texts = [(entry, getattr(entry, "value", None)) for entry in node.value]
        elif isinstance(node, yaml.ScalarNode):
            texts = [] if is_null(node) else [(node, text) for text in node.value.split(",")]
        else:
            texts = [(node, None)]
        raws = []
        for entry, text in texts:
            if isinstance(text, str):
                raws.append(Raw(text.strip(), True, self._source(entry)))
            else:
                self._report(entry, key, "has a list or a section for an entry", "write a list, as [A, B]")
        return Many(tuple(raws), self._source(node))

    def _source(self, node: yaml.Node) -> Source:
        return Source(self._name, line_of(node))

    def _report(self, node: yaml.Node, key: str, what: str, instead: str) -> None:
        self._problems.append(ConfigProblem(self._name, line_of(node), key, what, instead))


def not_yaml(path: Path, error: Exception) -> ConfigProblem:
    """Return the problem of a file that is no YAML."""
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
    instead = "write `key: value` lines, sections indented, as in the file of the package"
    if "alias" in str(getattr(error, "context", "")) + reason:
        instead = 'put text that begins with * in quotes, as "* from 10.3.0.0/16"'
    line = None if mark is None else mark.line + 1
    return ConfigProblem(str(path), line, "syntax", f"not YAML: {reason}", instead)


def _nearest_key(key: str, prefix: str) -> str:
    """Suggest a known key: by the name of its variable, its spelling in this section, or its spelling in another section."""
    last = key.removeprefix(prefix)
    if last.upper() in VARIABLES:
        return f"write {VARIABLES[last.upper()]}"
    here = sorted(
        {name.removeprefix(prefix).partition(".")[0] for name in SETTINGS if name.startswith(prefix)}
    )
    if near := difflib.get_close_matches(last.lower(), here, n=1):
        return f"write {prefix}{near[0]}"
    elsewhere = {name.rpartition(".")[2]: name for name in reversed(list(SETTINGS))}
    if near := difflib.get_close_matches(last.lower(), list(elsewhere), n=1):
        return f"write {elsewhere[near[0]]}"
    return f"known here: {', '.join(here)}"
