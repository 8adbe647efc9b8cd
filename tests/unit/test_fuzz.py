"""The corpus of `make fuzz`, played once: what broke a parser before does so no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).resolve().parents[1] / "fuzz" / "corpus"
FILES = sorted(path for target in TARGETS if target != "pdu" for path in (CORPUS / target).iterdir())


def test_every_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == TARGETS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_breaks_nothing(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())
