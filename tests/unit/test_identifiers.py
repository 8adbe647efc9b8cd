"""Names on disk (docs/identifiers.md): ordinary identifiers unchanged, hostile ones harmless, two never together, on any file system."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ddwd.core.model import identifier_of, marked_component, safe_component
from tests.depth import FULL
from tests.identifiers import PADDING, escapes, escapes_marked, look
from tests.readme import REPO

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DOCUMENT = REPO / "docs" / "identifiers.md"
_CELL = re.compile(r"^\| (.*?) \| (.*?) \| (.*?) \|", re.MULTILINE)


def _rows() -> list[tuple[str, str, str]]:
    """Identifier, name and marked name of each row of the table that has them in backquotes."""
    cells = _CELL.findall(DOCUMENT.read_text(encoding="utf-8"))
    return [(one[1:-1], name[1:-1], marked[1:-1]) for one, name, marked in cells if one[0] == "`" == name[0]]


def anything() -> st.SearchStrategy[str]:
    """All of Unicode, lone surrogates too, and raw bytes as the operating system's names have them; short texts are near each other."""
    raw = st.binary(max_size=80).map(lambda content: content.decode("utf-8", "surrogateescape"))
    every = st.text(st.characters(exclude_categories=()), max_size=80)
    near = st.text(st.sampled_from("aAbB1.-_%/ é\u212a\0"), max_size=5)
    return st.one_of(
        every, raw, near, near.map(marked_component), near.map(safe_component), st.text(max_size=300)
    )


def test_the_table_is_what_the_code_does() -> None:
    rows = _rows()
    assert len(rows) > 11
    assert [(one, safe_component(one), marked_component(one)) for one, _, _ in rows] == rows


@pytest.mark.parametrize("both", [safe_component, marked_component])
def test_the_rows_of_the_table_without_an_example_are_as_said(both: Callable[[str], str]) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert "| (nothing, or only padding) | `%EMPTY` | `%EMPTY` |" in text
    assert both(" \0 ") == both("") == "%EMPTY"
    longest = 255 if both is safe_component else 120
    assert (
        "| (too long) | over 255 bytes: the first 50, `%_`, and the SHA-256 | the same, over 120 bytes |"
        in text
    )
    assert both("7" * longest) == "7" * longest
    assert re.fullmatch(r"7{50}%_[0-9a-f]{64}", both("7" * (longest + 1)))


@pytest.mark.parametrize(
    "name",
    ["Müller", "張偉", "Иванов", "O'Brien & Søn", "PatientID1", "a:b*?", "é", "e\u0301", "~1", "12 34"],
)
def test_what_a_file_system_of_linux_holds_is_its_own_name(name: str, tmp_path: Path) -> None:
    assert safe_component(name) == name
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_longest_name_fits_however_many_bytes_its_letters_have(tmp_path: Path) -> None:
    for letter, count in (("n", 255), ("é", 127), ("張", 85)):
        assert safe_component(letter * count) == letter * count
        for name in (letter * count, letter * (count + 1), letter * 300):
            (tmp_path / safe_component(name)).mkdir()
    assert len(list(tmp_path.iterdir())) == 9


def test_marked_names_do_not_change_from_version_to_version() -> None:
    """Known answers, apart from the table: what is on disks must be found again."""
    known = {
        "a" * 119: "a" * 50 + "%_31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb",
        "1.2.840.113619.2.55.3": "1.2.840.113619.2.55.3",
        "CompressedSamples^CT1": "CompressedSamples%5ECT1%-3FEFC",
        "\udc80\udcff": "%ED%B2%80%ED%B3%BF",
    }
    assert {one: marked_component(one) for one in known} == known


@pytest.mark.deep
@given(anything())
@example("CON.dcm")
@example("con .1")
@example("com\u00b2")
@example("a.")
@example("\0a\0b\0")
@example("張" * 100)
def test_every_identifier_is_one_harmless_component(value: str) -> None:
    name, marked = safe_component(value), marked_component(value)
    assert (escapes(name), escapes_marked(marked)) == ("", "")
    assert PurePosixPath(name).parts == (name,)
    assert PureWindowsPath(marked).parts == (marked,)


@pytest.mark.deep
@given(anything(), anything())
@example("A1", "a1")
@example("é", "e\u0301")
@example("a", "a%-1")
@example("a/b", "a%2Fb")
@example("A" * 256, "A" * 257)
def test_two_identifiers_share_a_name_only_by_padding_in_either_form(one: str, other: str) -> None:
    same = one.strip(PADDING) == other.strip(PADDING)
    assert (safe_component(one) == safe_component(other)) == same
    # a folder that is marked since an earlier version is no other patient's
    assert same or safe_component(one) != marked_component(other)


@pytest.mark.deep
@given(anything(), anything())
@example("A1", "a1")
@example("Ab", "aB")
@example("é", "e\u0301")
@example("K", "\u212a")
@example("a", "a%-1")
@example("A" * 130, "a" * 130)
def test_two_identifiers_share_a_marked_name_only_by_padding_even_where_case_is_ignored(
    one: str, other: str
) -> None:
    shared = marked_component(one).casefold() == marked_component(other).casefold()
    assert shared == (one.strip(PADDING) == other.strip(PADDING))


@pytest.mark.deep
@given(anything(), st.sampled_from([str.upper, str.lower, str.swapcase, str.title, marked_component]))
def test_an_identifier_in_another_case_is_another_marked_name(value: str, change: object) -> None:
    assert callable(change)
    other = change(value)
    shared = marked_component(value).casefold() == marked_component(other).casefold()
    assert shared == (value.strip(PADDING) == other.strip(PADDING))


@pytest.mark.deep
@given(anything())
def test_a_name_tells_its_identifier_or_that_it_does_not(value: str) -> None:
    for name in (safe_component(value), marked_component(value)):
        assert identifier_of(name) == (None if "%_" in name else value.strip(PADDING))


@pytest.mark.deep
@given(anything())
def test_what_is_no_name_of_ours_is_no_identifier(value: str) -> None:
    found = identifier_of(value)
    assert found is None or value in (safe_component(found), marked_component(found))


@pytest.mark.deep
def test_a_hundred_thousand_generated_identifiers() -> None:
    count = 100_000 if FULL else 10_000
    found = look(count, seed=1)
    assert found.different > count / 2
    assert (found.escaped, found.collisions, found.lost) == ([], 0, 0)
