"""Wait for ddwd-signer, in the verbs that compare custody records with the chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core.clock import sleep

if TYPE_CHECKING:
    from collections.abc import Iterator

_WAITS = (1.0, 1.0, 1.0, 2.0, 3.0, 3.0, 4.0)
"""Seconds; together three turns of the signer, which takes one every 5 s: on a busy machine, or after a boot, a turn takes long."""


def tries() -> Iterator[None]:
    """Yield for each try, the next one seconds later: ddwd-signer enters a change of a record seconds after it was made."""
    yield
    for seconds in _WAITS:
        sleep(seconds)
        yield
