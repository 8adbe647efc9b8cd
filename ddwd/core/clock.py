"""Injected time: durations by the monotonic clock, stamps in UTC; the only module that sleeps.

Tests use their own Clock; a jump of the wall clock never moves a deadline.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the daemons need of time."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def utc(self) -> datetime:
        """The aware wall time in UTC, for stamps only."""


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """Seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def utc(self) -> datetime:
        """Wall time, UTC."""
        return datetime.now(UTC)


def sleep(seconds: float) -> None:
    """Wait; for foreground commands only, the daemons wait on events."""
    time.sleep(seconds)


def stamp(moment: datetime) -> str:
    """Render an aware UTC moment as `2026-01-31T23:59:59.123Z`, the one form in every file ddwd writes."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
