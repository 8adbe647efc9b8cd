"""The retry schedule of all features: each failure in a row multiplies the wait, from a first value up to a limit."""

from __future__ import annotations

LONGEST_SECONDS = 30.0  # below 60 s, within which all images must be delivered once the last fault has ended


def retry_delay(
    failures: int, first: float = 1.0, longest: float = LONGEST_SECONDS, factor: float = 2.0
) -> float:
    """Return the seconds to wait after the n-th failure in a row: `first`, `factor` times that, ... up to `longest`; 0 without a failure."""
    if failures <= 0:
        return 0.0
    return float(min(longest, first * factor ** min(failures - 1, 30)))


class Backoff:
    """Count the failures in a row of one thing that is retried; the parameters are those of `retry_delay`."""

    def __init__(self, first: float = 1.0, longest: float = LONGEST_SECONDS, factor: float = 2.0) -> None:
        self._schedule = (first, longest, factor)
        self.failures = 0

    def failed(self) -> float:
        """Count one failure more; return the seconds to wait before the next try."""
        self.failures += 1
        return retry_delay(self.failures, *self._schedule)

    def succeeded(self) -> None:
        """Forget the failures: the next one waits for the first value again."""
        self.failures = 0
