"""Names on disk: ordinary identifiers unchanged, hostile ones harmless, different ones never together."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddwd.errors import InvalidValueError
from ddwd.model import is_uid, parse_aet, safe_component

HOSTILE = [
    "/",
    "..",
    ".",
    "../../etc/passwd",
    "a/b",
    "a\\b",
    "\0",
    "a\0b",
    "",
    "   ",
    "é" * 64,
    "-rf",
    ".ddwd",
    "a.",
    "%2F",
]


@pytest.mark.parametrize("value", ["PAT1", "12345", "A.B-C_d", "1.2.840.113619.2.55"])
def test_an_ordinary_identifier_is_its_own_name(value: str) -> None:
    assert safe_component(value) == value


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_identifier_is_one_harmless_component(value: str) -> None:
    name = safe_component(value)
    assert PurePosixPath(name).parts == (name,)
    assert not name.startswith((".", "-"))
    assert name not in {"", ".", ".."}
    assert len(name.encode()) < 200
    assert name.isascii()
    assert name.isprintable()


def test_hostile_identifiers_never_share_a_name() -> None:
    different = [value for value in HOSTILE if value.strip(" \0")]
    assert len({safe_component(value) for value in different}) == len(different)


@given(st.text(max_size=80), st.text(max_size=80))
def test_two_identifiers_share_a_name_only_if_they_differ_by_padding(one: str, other: str) -> None:
    assert (safe_component(one) == safe_component(other)) == (one.strip(" \0") == other.strip(" \0"))


@given(st.text(max_size=300))
def test_no_identifier_leaves_its_folder(value: str) -> None:
    name = safe_component(value)
    assert "/" not in name
    assert name not in {"", ".", ".."}
    assert len(name) <= 120


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.2.3", True),
        ("1", True),
        ("1." * 32, False),
        ("1" * 65, False),
        ("1..2", False),
        ("a", False),
        ("", False),
    ],
)
def test_uids_are_digits_and_dots(text: str, *, expected: bool) -> None:
    assert is_uid(text) is expected


@pytest.mark.parametrize("text", ["", "  ", "A" * 17, "A\\B", "Ä", "A\nB"])
def test_a_bad_ae_title_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_aet(text)


def test_an_ae_title_loses_its_padding() -> None:
    assert parse_aet(" ORTHANC1 ") == "ORTHANC1"
