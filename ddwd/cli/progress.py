"""Show the progress of long work on standard error, if that is a terminal and the result is not for a program."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


class Bar:
    """A progress bar; without a terminal (`progress` is None) its methods do nothing."""

    def __init__(self, words: str, total: float, progress: Progress | None) -> None:
        self.is_shown = progress is not None
        self._total = total
        if progress is not None:
            self._progress = progress
            self._task = progress.add_task(words, total=total or None)

    def step(self, words: str, total: float = 0) -> None:
        """Begin another part of the work; without a `total` the bar only moves."""
        self._total = total
        if self.is_shown:
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task(words, total=total or None)

    def moved(self, amount: float = 1) -> None:
        """Count more as done."""
        if self.is_shown:
            self._progress.advance(self._task, amount)

    def expect(self, more: float) -> None:
        """Add to the total."""
        self._total += more
        if self.is_shown:
            self._progress.update(self._task, total=self._total)

    def write_above(self, text: str) -> None:
        """Write to the same terminal without crossing the bar."""
        self._progress.console.print(text, end="", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(words: str, total: float = 0, *, as_json: bool, in_bytes: bool = False) -> Iterator[Bar]:
    """Show a bar while work goes on; without a `total` it only moves. `in_bytes`: with the amount that is done."""
    if as_json or not sys.stderr.isatty():
        yield Bar(words, total, None)
        return
    from rich.console import Console  # noqa: PLC0415 - other verbs and pipes need not load it
    from rich.progress import DownloadColumn, Progress  # noqa: PLC0415

    columns = [*Progress.get_default_columns(), *([DownloadColumn()] if in_bytes else [])]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bar(words, total, progress)
