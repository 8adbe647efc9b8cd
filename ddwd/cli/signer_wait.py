"""Wait for ddwd-signer, in the verbs that compare custody records with the chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core.clock import sleep

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRIES = 4
_SECONDS = 1.0


def tries() -> Iterator[None]:
    """Yield for each try, the next one a second later: ddwd-signer enters a change of a record some moments after it was made."""
    yield
    for _ in range(_TRIES - 1):
        sleep(_SECONDS)
        yield
