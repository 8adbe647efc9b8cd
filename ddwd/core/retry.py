"""The retry schedule: each failure in a row doubles the wait, up to a limit."""

from __future__ import annotations


def retry_delay(failures: int, first: float = 1.0, longest: float = 30.0) -> float:
    """Return the seconds to wait after the n-th failure in a row: `first`, then twice as long each time, at most `longest`; 0 for none.

    The default of `longest` is below 60 s, within which all images must be delivered once the last fault has ended.
    """
    if failures <= 0:
        return 0.0
    return float(min(longest, first * 2.0 ** min(failures - 1, 30)))
