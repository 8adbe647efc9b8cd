"""The pictures in README.md and docs/ show the dashboard as it is."""

from __future__ import annotations

import pytest

from tests.readme import REPO
from tests.tui import pictures


@pytest.mark.parametrize("name", pictures.PICTURES)
async def test_the_picture_in_the_readme_is_that_of_now(name: str) -> None:
    assert await pictures.draw(name) == (REPO / "docs" / name).read_text(encoding="utf-8"), (
        "run: make pictures"
    )
    assert f"]({name})" in (REPO / "docs/watch.md").read_text(encoding="utf-8")
