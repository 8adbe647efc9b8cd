"""Hold what `--json` prints against the schemas that the package has: docs/json.md is made from the same declarations."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastjsonschema

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMAS = Path(__file__).resolve().parent.parent / "packaging" / "manual" / "answers.schema.json"


@cache
def _schemas() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(SCHEMAS.read_text(encoding="utf-8"))
    return made


@cache
def _checker(name: str) -> Callable[[Any], None]:
    one = {"$schema": _schemas()["$schema"], "$ref": f"#/$defs/answer-{name}", "$defs": _schemas()["$defs"]}
    checker: Callable[[Any], None] = fastjsonschema.compile(one)
    return checker


def names() -> frozenset[str]:
    """The verbs, actions and programs that have a schema, as it names them."""
    return frozenset(one.removeprefix("answer-") for one in _schemas()["$defs"] if one.startswith("answer-"))


def checked(text: str) -> dict[str, Any]:
    """Return the answer that was printed. Raises ValueError if it is not one object of its schema."""
    body: dict[str, Any] = json.loads(text)
    _checker(body["schema"].removeprefix("ddwd.").partition("/")[0])(body)
    return body
