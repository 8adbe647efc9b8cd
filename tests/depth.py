"""How far the tests go that could go on for ever: `make check` and `make test` try a spread of cases, `make certify` every one.

`make certify` sets DDWD_DEPTH=full and runs the tests marked `deep` again; DDWD_EXAMPLES=1000 tries other, random examples.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

FULL = os.environ.get("DDWD_DEPTH") == "full"
"""Every case and more examples."""
_EXAMPLES = os.environ.get("DDWD_EXAMPLES")

T = TypeVar("T")


def spread(cases: Sequence[T], most: int) -> Sequence[T]:
    """All cases at full depth; otherwise at most `most` of them (2 or more), evenly spread, the first and the last among them."""
    if FULL or len(cases) <= most:
        return cases
    return [cases[number * (len(cases) - 1) // (most - 1)] for number in range(most)]


def examples(bounded: int, full: int) -> settings:
    """So many examples for a Hypothesis test: always the same ones, and no limit of time, which a busy machine would not keep."""
    return settings(
        max_examples=int(_EXAMPLES) if _EXAMPLES else full if FULL else bounded,
        derandomize=_EXAMPLES is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
