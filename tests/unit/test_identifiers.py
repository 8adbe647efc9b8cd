"""Names on disk (docs/identifiers.md): ordinary identifiers unchanged, hostile ones harmless, two never together, on any file system."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ddwd.core.model import identifier_of, safe_component
from tests.depth import FULL
from tests.identifiers import PADDING, escapes, look
from tests.readme import REPO

DOCUMENT = REPO / "docs" / "identifiers.md"
_CELL = re.compile(r"^\| (.*?) \| (.*?) \|", re.MULTILINE)


def _rows() -> list[tuple[str, str]]:
    """Identifier and name of each row of the table that has both in backquotes."""
    cells = _CELL.findall(DOCUMENT.read_text(encoding="utf-8"))
    return [(one[1:-1], name[1:-1]) for one, name in cells if one[0] == "`" == name[0]]


def anything() -> st.SearchStrategy[str]:
    """All of Unicode, lone surrogates too, and raw bytes as the operating system's names have them; short texts are near each other."""
    raw = st.binary(max_size=80).map(lambda content: content.decode("utf-8", "surrogateescape"))
    every = st.text(st.characters(exclude_categories=()), max_size=80)
    near = st.text(st.sampled_from("aAbB1.-_%/ é\u212a\0"), max_size=5)
    return st.one_of(every, raw, near, near.map(safe_component), st.text(max_size=300))


def test_the_table_is_what_the_code_does() -> None:
    rows = _rows()
    assert len(rows) > 12
    assert [(one, safe_component(one)) for one, _ in rows] == rows


def test_the_rows_of_the_table_without_an_example_are_as_said() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert "| (nothing, or only padding) | `%EMPTY` |" in text
    assert safe_component(" \0 ") == safe_component("") == "%EMPTY"
    assert (
        "| more than 120 characters once encoded | the first 50, `%_`, and the SHA-256 of the identifier |"
        in text
    )
    assert safe_component("7" * 120) == "7" * 120
    assert re.fullmatch(r"7{50}%_[0-9a-f]{64}", safe_component("7" * 121))


def test_names_do_not_change_from_version_to_version() -> None:
    """Known answers, apart from the table: what is on disks must be found again."""
    known = {
        "a" * 119: "a" * 50 + "%_31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb",
        "1.2.840.113619.2.55.3": "1.2.840.113619.2.55.3",
        "CompressedSamples^CT1": "CompressedSamples%5ECT1%-3FEFC",
        "\udc80\udcff": "%ED%B2%80%ED%B3%BF",
    }
    assert {one: safe_component(one) for one in known} == known


@pytest.mark.deep
@given(anything())
@example("CON.dcm")
@example("a.")
@example("\0a\0b\0")
def test_every_identifier_is_one_harmless_component(value: str) -> None:
    name = safe_component(value)
    assert escapes(name) == ""
    assert PurePosixPath(name).parts == (name,)
    assert PureWindowsPath(name).parts == (name,)


@pytest.mark.deep
@given(anything(), anything())
@example("A1", "a1")
@example("Ab", "aB")
@example("é", "e\u0301")
@example("K", "\u212a")
@example("a", "a%-1")
@example("A" * 130, "a" * 130)
def test_two_identifiers_share_a_name_only_by_padding_even_where_case_is_ignored(
    one: str, other: str
) -> None:
    shared = safe_component(one).casefold() == safe_component(other).casefold()
    assert shared == (one.strip(PADDING) == other.strip(PADDING))


@pytest.mark.deep
@given(anything(), st.sampled_from([str.upper, str.lower, str.swapcase, str.title, safe_component]))
def test_an_identifier_in_another_case_is_another_name(value: str, change: object) -> None:
    assert callable(change)
    other = change(value)
    shared = safe_component(value).casefold() == safe_component(other).casefold()
    assert shared == (value.strip(PADDING) == other.strip(PADDING))


@pytest.mark.deep
@given(anything())
def test_a_name_tells_its_identifier_or_that_it_does_not(value: str) -> None:
    name = safe_component(value)
    assert identifier_of(name) == (None if "%_" in name else value.strip(PADDING))


@pytest.mark.deep
@given(anything())
def test_what_is_no_name_of_ours_is_no_identifier(value: str) -> None:
    found = identifier_of(value)
    assert found is None or safe_component(found) == value


@pytest.mark.deep
def test_a_hundred_thousand_generated_identifiers() -> None:
    count = 100_000 if FULL else 10_000
    found = look(count, seed=1)
    assert found.different > count / 2
    assert (found.escaped, found.collisions, found.lost) == ([], 0, 0)
