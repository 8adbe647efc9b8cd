"""Show the progress of long work on standard error, if that is a terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress


def is_wanted(*, as_json: bool) -> bool:
    """Return whether to show progress: standard error is a terminal, and the result is not for a program."""
    return not as_json and sys.stderr.isatty()


@contextmanager
def status_line(words: str, *, shown: bool) -> Iterator[Callable[[str], None]]:
    """Show a line of text while work goes on; yield the function that changes it."""
    if not shown:
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - other verbs and pipes need not load it

    with Console(stderr=True).status(words) as line:
        yield line.update


class Bar:
    """A progress bar; without a terminal its methods do nothing."""

    def __init__(self, words: str, total: float | None, progress: Progress | None) -> None:
        self._progress = progress
        self._task = progress.add_task(words, total=total) if progress is not None else None
        self._total = total

    def advance(self, amount: float = 1) -> None:
        """Move it on."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, amount)

    def expect(self, more: float) -> None:
        """Add to the total."""
        self._total = (self._total or 0) + more
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=self._total)

    def write_above(self, text: str) -> None:
        """Write to the same terminal without crossing the bar."""
        if self._progress is not None:
            self._progress.console.print(text, end="", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(words: str, total: float | None = None, *, shown: bool) -> Iterator[Bar]:
    """Show a bar while work goes on; without a `total` it only moves."""
    if not shown:
        yield Bar(words, total, None)
        return
    from rich.console import Console  # noqa: PLC0415 - other verbs and pipes need not load it
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield Bar(words, total, progress)
