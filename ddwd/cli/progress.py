"""Show the progress of long work on standard error, if that is a terminal and the result is not for a program.

rich is imported when it is needed: verbs without progress and pipes do not load it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def status_line(words: str, *, as_json: bool) -> Iterator[Callable[[str], None]]:
    """Show a line of text while work goes on; yield the function that changes it."""
    if as_json or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415

    with Console(stderr=True).status(words) as line:
        yield line.update


class Bar:
    """A progress bar; without a terminal (`progress` is None) its methods do nothing."""

    def __init__(self, words: str, total: float | None, progress: Progress | None) -> None:
        self.is_shown = progress is not None
        self._total = total
        if progress is not None:
            self._progress = progress
            self._task = progress.add_task(words, total=total)

    def advance(self, amount: float = 1) -> None:
        """Count more as done."""
        if self.is_shown:
            self._progress.advance(self._task, amount)

    def expect(self, more: float) -> None:
        """Add to the total."""
        self._total = (self._total or 0) + more
        if self.is_shown:
            self._progress.update(self._task, total=self._total)

    def write_above(self, text: str) -> None:
        """Write to the same terminal without crossing the bar."""
        self._progress.console.print(text, end="", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(words: str, total: float | None = None, *, as_json: bool) -> Iterator[Bar]:
    """Show a bar while work goes on; without a `total` it only moves."""
    if as_json or not sys.stderr.isatty():
        yield Bar(words, total, None)
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield Bar(words, total, progress)
