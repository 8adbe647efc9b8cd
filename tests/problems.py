"""The problems in what a verb answers with --json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def every(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each problem of an answer, and after it its consequences."""
    for one in answer["problems"]:
        yield one
        yield from every({"problems": one["consequences"]})


def causes(answer: Mapping[str, Any]) -> list[str]:
    """Return the causes of all problems, those of the consequences too."""
    return [one["cause"] for one in every(answer)]
