"""UIDs and AE titles as text from outside (names on disk: test_identifiers.py)."""

from __future__ import annotations

import pytest

from ddwd.core.errors import InvalidValueError
from ddwd.core.model import is_uid, parse_aet


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
