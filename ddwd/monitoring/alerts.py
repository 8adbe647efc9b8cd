"""Turn conditions of the portal into messages: when, and how often. Pure but for its small state file.

A condition that holds for `after` seconds is reported, then again at growing intervals, then when it is over. Conditions that come
within a minute are one message, and an hour has a limit of messages. The state is kept over a restart of the monitor.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ddwd.core.audit import Event
from ddwd.core.model import SELF_TEST_AET
from ddwd.core.problem import Severity, problem
from ddwd.core.problem_codes import Code
from ddwd.store.statefile import StateFormat, stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ddwd.core.problem import Problem
    from ddwd.status.events import AuditEvent

_REMIND = (3600.0, 4 * 3600.0, 24 * 3600.0)
"""Seconds until a condition that still holds is reported again; the last one from then on."""
_BUNDLE_SECONDS = 60.0
_MOST_AN_HOUR = 12
WEEKS = 4
"""A modality is expected after so many weeks in a row."""
_WINDOW = timedelta(hours=3)
_WEEK = timedelta(days=7)
_AT_ONCE = frozenset({Code.QUARANTINE, Code.TWO_PATIENTS, Code.SELF_TEST_FAILED})
"""Problems that are reported at once: they do not end without the operator."""
_CODES = frozenset(Code)


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is wrong: a line for people, without patient data, and how many things it is about."""

    text: str
    count: int = 0


def conditions(problems: Iterable[Problem]) -> dict[str, Condition]:
    """Return what is reported of the problems, by a key that stays the same while one lasts. Consequences are reported with their cause."""
    return {one.key: Condition(one.line, one.count) for one in problems if one.severity > Severity.NOTE}


def silence(aet: str, last: datetime) -> Problem:
    """Return the problem of a modality that is silent since `last`."""
    cause = f"{aet} usually sends at this hour; its last images came {last:%a %d %b %H:%M %Z}"
    return problem(Code.SENDER_SILENT, cause, "look at the modality and its network", aet)


@dataclass
class ActiveCondition:
    """One condition: since when it holds, when it was last reported and how often, in wall-clock seconds."""

    text: str
    since: float
    told_at: float = 0.0
    told: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One message: conditions that are new or still hold, and conditions that are over."""

    at: str
    standing: tuple[str, ...]
    over: tuple[str, ...]

    @property
    def subject(self) -> str:
        """The subject line."""
        if not self.standing:
            return f"over: {self.over[0]}"
        more = f" and {len(self.standing) - 1} more" if len(self.standing) > 1 else ""
        return f"{self.standing[0]}{more}"

    @property
    def body(self) -> str:
        """The text of a mail."""
        lines = [f"! {line}" for line in self.standing] + [f"over: {line}" for line in self.over]
        see = f"D-DW-D Portal at {self.at}. See: ddwd-top, ddwd status, ddwd doctor"
        return "\n".join([*lines, "", see, ""])


@dataclass
class AlertState:
    """The conditions that hold, and which of them were reported.

    `counts` are the counts of the conditions, by key; a state file of a version that did not write them has none.
    """

    after: float = field(default=0.0, metadata=stored(transient=True))
    standing: dict[str, ActiveCondition] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)
    due_since: float = field(default=0.0, metadata=stored(transient=True))
    sent: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict, metadata=stored(omit_empty=True))

    def update(self, found: Mapping[str, Condition], now: float, at: str) -> Message | None:
        """Take in the conditions that hold now; return the message that is due, or None."""
        for key, condition in found.items():
            active = self.standing.setdefault(key, ActiveCondition(condition.text, now))
            if _code(key) in _AT_ONCE and condition.count > self.counts.get(key, condition.count):
                active.told = 0  # more of the same is reported again, less is not
            active.text = condition.text
        self.counts = {key: condition.count for key, condition in found.items()}
        for key in [key for key in self.standing if key not in found]:
            ended = self.standing.pop(key)
            if ended.told:
                self.over.append(ended.text)
        due = [active for key, active in self.standing.items() if self._is_due(key, active, now)]
        if not due and not self.over:
            self.due_since = 0.0
            return None
        self.due_since = self.due_since or now
        self.sent = [moment for moment in self.sent if now - moment < _REMIND[0]]
        if now - self.due_since < _BUNDLE_SECONDS or len(self.sent) >= _MOST_AN_HOUR:
            return None
        message = Message(at, tuple(active.text for active in due), tuple(self.over))
        for active in due:
            active.told, active.told_at = active.told + 1, now
        self.over, self.due_since = [], 0.0
        self.sent.append(now)
        return message

    def _is_due(self, key: str, active: ActiveCondition, now: float) -> bool:
        if active.told:
            return now - active.told_at >= _REMIND[min(active.told, len(_REMIND)) - 1]
        return _code(key) in _AT_ONCE or now - active.since >= self.after


FORMAT = StateFormat(AlertState, "state of the alerts")


def _code(key: str) -> str:
    return key.partition(" ")[0]


def load(path: Path, after: float) -> AlertState:
    """Read the state; return an empty one if there is no file, or a damaged one.

    What a version without codes kept is dropped: under its code it is reported anew, and not as over.
    """
    state = FORMAT.read_or_none(path) or AlertState()
    state.standing = {key: active for key, active in state.standing.items() if _code(key) in _CODES}
    state.after = after
    return state


class ExpectedSenders:
    """When each modality sent over the last weeks, in local time, which the hospital works by: learned from received images.

    A modality is its calling AE title. It is expected if it sent in this hour or the two before in each of the last weeks; it is silent
    if it did not this week. A new modality is not expected before it is known for some weeks.
    """

    def __init__(self) -> None:
        self._hours: defaultdict[str, set[datetime]] = defaultdict(set)

    def learn(self, events: Iterable[AuditEvent]) -> None:
        """Learn from `received` events."""
        for event in events:
            aet = event.fields.get("aet")
            if event.event == Event.RECEIVED and aet and aet != SELF_TEST_AET:
                self._hours[aet].add(_hour(datetime.fromisoformat(event.at).astimezone()))

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
