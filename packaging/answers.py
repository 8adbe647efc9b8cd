"""Make the schemas of what `--json` prints, and the page about them, from the declarations of the verbs: `make manual`; a test compares.

JSON Schema draft-07. The results are committed: packaging/manual/answers.schema.json and docs/json.md.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from dataclasses import fields, is_dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NewType, get_args, get_origin

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from ddwd.cli.command import Command  # noqa: E402 - the path comes first
from ddwd.cli.main import verbs  # noqa: E402 - as above
from ddwd.core import model, problem, problem_codes  # noqa: E402 - as above
from ddwd.core.answers import Key, schema_name  # noqa: E402 - as above
from ddwd.status import trace, units  # noqa: E402 - as above
from ddwd.store import statefile, status_files  # noqa: E402 - as above
from ddwd.tui import main as dashboard  # noqa: E402 - as above

_SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
    object: {},
}
_NAMES: dict[str, Any] = {}
"""What annotations may name that their module imports for type checkers alone."""
for _module in (model, problem, problem_codes, trace, units, status_files):
    _NAMES |= vars(_module)


def declared() -> Iterator[tuple[str, str, tuple[Key, ...]]]:
    """Yield each verb and action that prints JSON: its name in the schema, as a user writes it, and its keys."""
    for verb in verbs():
        if isinstance(verb, Command):
            yield verb.name, f"ddwd {verb.name}", verb.answer
        else:
            for action in verb.actions:
                yield f"{verb.name}.{action.name}", f"ddwd {verb.name} {action.name}", action.answer
    yield dashboard.SCHEMA, "ddwd-top", dashboard.ANSWER


class Schemas:
    """The schemas of all answers; `definitions` are the records in them."""

    def __init__(self) -> None:
        self.definitions: dict[str, dict[str, Any]] = {}

    def answer(self, name: str, keys: tuple[Key, ...]) -> dict[str, Any]:
        """The schema of one answer."""
        head = {"schema": {"const": schema_name(name)}, "well": {"type": "boolean"}}
        return {
            "type": "object",
            "properties": head | {key.name: self.of(key.type) for key in keys},
            "required": [*head, *(key.name for key in keys if key.is_always_there)],
            "additionalProperties": False,
        }

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of one type."""
        if isinstance(kind, NewType):
            return self.of(kind.__supertype__)
        if is_dataclass(kind) or typing.is_typeddict(kind):
            return self._record(kind)
        if values := _values(kind):
            return {"enum": values}
        return self._generic(kind, get_origin(kind), get_args(kind))

    def _generic(self, kind: Any, origin: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if origin in {typing.Union, types.UnionType}:
            return {"anyOf": [self.of(one) for one in arguments]}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if origin in {list, tuple}:
            return {"type": "array", "items": self.of(arguments[0])}
        return _SCALARS[kind]

    def _record(self, kind: Any) -> dict[str, Any]:
        name = record_name(kind)
        if name not in self.definitions:
            self.definitions[name] = {}  # a record may hold itself
            hints = typing.get_type_hints(kind, localns=_NAMES)
            if is_dataclass(kind):
                properties = self._of_dataclass(kind, hints)
            else:
                properties = {key: self.of(one) for key, one in hints.items()}
            self.definitions[name] = {
                "type": "object",
                "description": _first_words(kind),
                "properties": properties,
                "required": sorted(getattr(kind, "__required_keys__", ())),
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{name}"}

    def _of_dataclass(self, kind: Any, hints: dict[str, Any]) -> dict[str, Any]:
        """The fields as they are stored; one with a default may be missing where it is empty."""
        properties = {}
        for one in fields(kind):
            how = statefile.how_stored(one)
            if how.transient:
                continue
            schema = self.of(hints[one.name])
            if how.listed_by:
                schema = {"type": "array", "items": schema["additionalProperties"]}
            if how.blank:
                schema = {"anyOf": [schema, {"type": "object", "maxProperties": 0}]}
            properties[how.key or one.name] = schema
        return properties


def _values(kind: Any) -> list[Any]:
    """The values of an enumeration; that of numbers is written by the names of its members."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        return [one.name.lower() for one in kind]
    return [one.value for one in kind] if isinstance(kind, type) and issubclass(kind, StrEnum) else []


def record_name(kind: Any) -> str:
    """The name of a record: that of its class; a row of a verb is named with the verb."""
    name = kind.__name__.lstrip("_")
    return name if is_dataclass(kind) else f"{kind.__module__.rpartition('.')[2].rstrip('_')}-{name}"


def _first_words(kind: Any) -> str:
    text = (kind.__doc__ or "").strip()
    # a dataclass without a docstring has its signature
    return "" if text.startswith(f"{kind.__name__}(") or not is_dataclass(kind) else text.splitlines()[0]


def schemas() -> dict[str, Any]:
    """One JSON Schema for the answer of any verb: `schema` says of which."""
    made = Schemas()
    answers = {name: made.answer(name, keys) for name, _, keys in declared()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "What the verbs of ddwd and ddwd-top print with --json",
        "oneOf": [{"$ref": f"#/$defs/answer-{name}"} for name in answers],
        "$defs": {f"answer-{name}": one for name, one in answers.items()}
        | dict(sorted(made.definitions.items())),
    }


# --- the page ---------------------------------------------------------------------------------------------------------

_HEAD = """\
# JSON of the verbs

Made by `make manual`; do not edit.

Every verb has `--json`, and `ddwd-top` has it too: it prints one object, and nothing else on standard output. `schema` names what the object is, as
`ddwd.status/1`. `well` is true if the exit status is 0. Times are UTC. With wrong usage, or where a verb can do nothing, there is no object, a line on
standard error, and an exit status that the verb's man page explains.

A program that reads an answer ignores keys that it does not know: a version may add some. One that is renamed, removed or has another type changes the
number at the end of `schema`. The same as JSON Schema (draft-07): `/usr/share/ddwd/answers.schema.json`.
"""


def page() -> str:
    """docs/json.md."""
    made, lines = Schemas(), [_HEAD]
    for name, words, keys in declared():
        answer = made.answer(name, keys)
        lines += [
            f"## {words}",
            "",
            f"`{schema_name(name)}`",
            "",
            "| key | type | meaning |",
            "| --- | --- | --- |",
        ]
        for key in keys:
            note = "" if key.is_always_there else "; not always there"
            lines.append(_row(f"`{key.name}`", words_of(answer["properties"][key.name]), key.meaning + note))
        lines.append("")
    lines += ["## Records", ""]
    for name, one in sorted(made.definitions.items()):
        lines += [f"### {name}", ""]
        if one["description"]:
            lines += [one["description"], ""]
        lines += ["| key | type |", "| --- | --- |"]
        lines += [_row(f"`{key}`", words_of(kind)) for key, kind in one["properties"].items()]
        lines.append("")
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return "| " + " | ".join(one.replace("|", "\\|") for one in cells) + " |"


def words_of(schema: dict[str, Any]) -> str:
    """A type in words."""
    match schema:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            words = f"[{name}](#{name.lower()})"
        case {"enum": values}:
            words = ", ".join(f"`{one}`" for one in values if one) if len(values) < _MANY else "text"
        case {"anyOf": choices}:
            words = " or ".join(dict.fromkeys(map(words_of, choices)))
        case {"items": items}:
            words = f"list of {words_of(items)}"
        case {"additionalProperties": values}:
            words = f"object; each value: {words_of(values)}"
        case {"maxProperties": _}:
            words = "empty object"
        case _:
            words = _WORDS[schema.get("type", "")]
    return words


_MANY = 12
_WORDS = {
    "string": "text",
    "integer": "number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "": "any",
}

RESULTS = {
    HERE / "manual" / "answers.schema.json": lambda: json.dumps(schemas(), indent=1) + "\n",
    HERE.parent / "docs" / "json.md": page,
}
"""Each file that is made, and how."""


def main() -> None:
    """Write them."""
    for path, make in RESULTS.items():
        path.write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
