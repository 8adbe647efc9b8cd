"""docs/reliability.md names tests and modules that exist, one row for each of the hazards, and the faults as they are."""

from __future__ import annotations

import re

from ddwd.dicom.incoming import PREAMBLE
from tests import readme
from tests.faults.nemesis import FAULTS

PAGE = (readme.REPO / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if re.match(r"\| \d+ \| .*::", line)
]


def test_every_hazard_has_its_row() -> None:
    (count,) = re.findall(r"^(\d+) ways in which images get lost", PAGE, flags=re.MULTILINE)
    assert [int(row[0]) for row in ROWS] == list(range(1, int(count) + 1))
    assert len(ROWS) >= 45
    assert {len(row) for row in ROWS} == {4}


def test_the_front_page_counts_the_hazards() -> None:
    (count,) = re.findall(r"(\d+) known ways to lose an image", readme.README.read_text(encoding="utf-8"))
    assert int(count) == len(ROWS)


def test_every_test_named_exists() -> None:
    assert [row[3] for row in ROWS if not readme.is_test(row[3].strip("`"))] == []


def test_every_module_named_exists() -> None:
    named = [re.findall(r"`([^`]+)`", row[2]) for row in ROWS]
    assert all(named)
    assert [path for paths in named for path in paths if not (readme.REPO / path).is_file()] == []


def test_the_table_of_faults_names_them_all() -> None:
    rows = re.findall(r"^\| ([a-z][^|]*?) \| \d+ \|$", PAGE, flags=re.MULTILINE)
    assert rows == sorted(FAULTS)


def test_every_picture_is_there() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", PAGE)
    assert pictures
    assert all((readme.REPO / "docs" / name).is_file() for name in pictures)


def test_our_preamble_is_zeros() -> None:
    assert bytes(128) + b"DICM" == PREAMBLE
