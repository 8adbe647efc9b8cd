"""The conversations of `make fuzz` with the receiver, held once: it answers a C-ECHO after each and leaves no file half done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CONVERSATIONS = sorted((Path(__file__).resolve().parents[1] / "fuzz" / "corpus" / "pdu").iterdir())


@pytest.mark.parametrize("path", CONVERSATIONS, ids=lambda path: path.name)
def test_the_receiver_lives_on(path: Path) -> None:
    TARGETS["pdu"](path.read_bytes())
