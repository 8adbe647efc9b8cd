"""Provide the time: durations from the monotonic clock, stamps in UTC. The only module that sleeps.

Tests pass a Clock of their own. A jump of the wall clock never moves a deadline.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The clocks that the daemons read."""

    def monotonic(self) -> float:
        """Return the seconds since a fixed moment; they never decrease."""

    def utc(self) -> datetime:
        """Return the wall time as an aware datetime in UTC, for stamps only."""


class SystemClock:
    """The clocks of the machine."""

    def monotonic(self) -> float:
        return time.monotonic()

    def utc(self) -> datetime:
        return datetime.now(UTC)


def sleep(seconds: float) -> None:
    """Wait; for commands in the foreground, since the daemons wait for events, and for a lock that is held for a moment."""
    time.sleep(seconds)


def stamp(moment: datetime) -> str:
    """Return an aware moment as `2026-01-31T23:59:59.123Z` (UTC), the format of every stamp that the portal writes."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
