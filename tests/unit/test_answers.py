"""The schemas of what --json prints are what the verbs declare; every answer of every unit test is held against them, see tests/conftest.py."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING

import fastjsonschema
import pytest

from ddwd.cli import status
from ddwd.core.answers import answer
from ddwd.status.report import Report
from ddwd.store.statefile import how_stored
from tests import answers
from tests.unit.test_manual import generator

if TYPE_CHECKING:
    from pathlib import Path

ANSWERS = generator("answers")


@pytest.mark.parametrize("path", ANSWERS.RESULTS, ids=lambda path: path.name)
def test_schemas_and_page_are_what_would_be_made_now(path: Path) -> None:
    assert ANSWERS.RESULTS[path]() == path.read_text(encoding="utf-8"), "run: make manual"


def test_every_verb_and_the_dashboard_declare_their_answer() -> None:
    assert [words for _, words, keys in ANSWERS.declared() if not keys] == []
    assert answers.names() == {name for name, _, _ in ANSWERS.declared()}


def test_each_field_of_the_report_is_a_key_of_status() -> None:
    stored = [one.name for one in fields(Report) if not how_stored(one).transient]
    assert sorted(key.name for key in status.REPORT) == sorted(stored)


@pytest.mark.parametrize(
    "change",
    [{"asked": 1}, {"more": 1}, {"well": "yes"}, {"schema": "ddwd.resume/1", "asked": None}],
    ids=["type", "key", "well", "null"],
)
def test_an_answer_that_is_not_as_declared_is_found(change: dict[str, object]) -> None:
    sound = answer("pause", {"asked": "pause"}, well=True)
    assert answers.checked(json.dumps(sound)) == sound
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        answers.checked(json.dumps(sound | change))
