"""The answer of a verb to `--json`: one object that names its schema and says whether all is well, then the keys that the verb declares.

The schemas in /usr/share/ddwd/answers.schema.json and the page docs/json.md are made from the declarations. A key that is added leaves the
number of the schema as it is; one that is renamed, removed or has another type changes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_NUMBER = 1


@dataclass(frozen=True, slots=True)
class Key:
    """One key of an answer: its name, the type of its value, what it means, and whether every answer of the verb has it."""

    name: str
    type: Any
    """A dataclass, a TypedDict or another annotation, of what json.dumps is given."""
    meaning: str
    is_always_there: bool = True


def sometimes(name: str, of_type: Any, meaning: str) -> Key:
    """Return a key that not every answer of the verb has."""
    return Key(name, of_type, meaning, is_always_there=False)


def schema_name(verb: str) -> str:
    """Return the name of the schema of a verb, or of an action as `quarantine.list`."""
    return f"ddwd.{verb}/{_NUMBER}"


def answer(verb: str, data: Mapping[str, Any], *, well: bool) -> dict[str, Any]:
    """Return the whole answer for json.dumps."""
    return {"schema": schema_name(verb), "well": well, **data}


def printed(verb: str, data: Mapping[str, Any], *, well: bool) -> str:
    """Return the whole answer as the line that is printed."""
    return json.dumps(answer(verb, data, well=well)) + "\n"
