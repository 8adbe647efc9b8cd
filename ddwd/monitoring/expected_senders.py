"""Find modalities that are silent although they usually send at this hour of the week, learned from received images. Pure.

A modality is its calling AE title. It is expected if it sent in this hour or the two before in each of the last weeks; it is silent
if it did not this week. A new modality is not expected before it is known for some weeks.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ddwd.core.audit import Event
from ddwd.core.model import SELF_TEST_AET

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ddwd.status.events import AuditEvent

WEEKS = 4
"""A modality is expected after so many weeks in a row."""
_WINDOW = timedelta(hours=3)
_WEEK = timedelta(days=7)


class ExpectedSenders:
    """When each modality sent over the last weeks, in local time (as the hospital works by it)."""

    def __init__(self) -> None:
        self._hours: defaultdict[str, set[datetime]] = defaultdict(set)

    def learn(self, events: Iterable[AuditEvent]) -> None:
        """Learn from `received` events."""
        for one in events:
            aet = one.fields.get("aet")
            if one.event == Event.RECEIVED and aet and aet != SELF_TEST_AET:
                self._hours[aet].add(_hour(datetime.fromisoformat(one.at).astimezone()))

    def silent(self, now: datetime) -> dict[str, datetime]:
        """Return the modalities that should have sent by now, with when each last did; `now` in local time."""
        found = {}
        for aet in list(self._hours):
            hours = {hour for hour in self._hours[aet] if now - hour < (WEEKS + 1) * _WEEK}
            self._hours[aet] = hours
            usual = all(_sent(hours, now - week * _WEEK) for week in range(1, WEEKS + 1))
            if usual and not _sent(hours, now):
                found[aet] = max(hours)
        return found


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _sent(hours: set[datetime], end: datetime) -> bool:
    """Return whether images came in the three hours before; the hour at hand is not counted, since it is not over."""
    last = _hour(end)
    return any(last - _WINDOW <= hour < last for hour in hours)
