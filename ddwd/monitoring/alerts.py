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
from ddwd.status import chain, postgresql, senders
from ddwd.status.formatting import many, span
from ddwd.status.problems import aside_text, lost_text, refused_text, two_patients_text
from ddwd.store.statefile import StateFormat, stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ddwd.status.events import AuditEvent
    from ddwd.status.report import Report

_REMIND = (3600.0, 4 * 3600.0, 24 * 3600.0)
"""Seconds until a condition that still holds is reported again; the last one from then on."""
_BUNDLE_SECONDS = 60.0
_MOST_AN_HOUR = 12
WEEKS = 4
"""A modality is expected after so many weeks in a row."""
_WINDOW = timedelta(hours=3)
_WEEK = timedelta(days=7)
_AT_ONCE = frozenset({"quarantine", "two-patients", "self-test"})
"""Conditions that are reported at once: they do not end without the operator."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is wrong: a line for people, without patient data, and how many things it is about."""

    text: str
    count: int = 0


def conditions(report: Report, silent: Mapping[str, datetime]) -> dict[str, Condition]:
    """Return what is wrong, by a key that stays the same while it lasts; `silent` maps modalities to the time of their last images."""
    found = _parts(report) | _disks(report) | _senders(report) | _waiting(report) | _for_the_operator(report)
    for aet, last in silent.items():
        at = f"{last:%a %d %b %H:%M}"
        found[f"silence {aet}"] = f"{aet} usually sends at this hour; its last images came {at}"
    counts = {"quarantine": report.quarantine or 0, "two-patients": report.two_patients}
    return {key: Condition(text, counts.get(key, 0)) for key, text in found.items()}


def _parts(report: Report) -> dict[str, str]:
    found = {"database": f"{report.database}: {postgresql.REMEDY}"} if report.database else {}
    for unit in report.units:
        if not unit.is_well:
            found[f"unit {unit.name}"] = f"{unit.name} is {unit.active}: journalctl -u {unit.name} -n 50"
    for server in report.servers:
        if server.problem:
            found[f"orthanc {server.name}"] = server.problem
    for heart in report.hearts:
        if heart.problem:
            found[f"heart {heart.daemon}"] = heart.problem
        elif ledger := heart.silent_peers.get("ledger"):
            found["ledger"] = f"{ledger}: studies wait on ORTHANC2 until it is back"
    return found


def _disks(report: Report) -> dict[str, str]:
    found = {}
    for volume in report.volumes:
        if volume.level not in {"", "ok"}:
            left = f", full in {span(volume.hours_left * 3600)}" if volume.hours_left is not None else ""
            short = f"{volume.path} is short of space{left}"
            found[f"disk {volume.use}"] = f"{short}: free some, or move output_dir"
        elif volume.problem:
            found[f"disk {volume.use}"] = volume.problem
    return found


def _senders(report: Report) -> dict[str, str]:
    found = senders.problems(report)
    if report.acceptor and report.acceptor.problem:
        found["heart acceptor"] = report.acceptor.problem
    return found


def _waiting(report: Report) -> dict[str, str]:
    found = {}
    if waiting := report.counts.get("waiting", 0):
        found["waiting"] = f"{many(waiting, 'study waits', 'studies wait')} after a failure: ddwd-top"
    if refused := refused_text(report):
        found["refused"] = refused
    if held := report.counts.get("held", 0):
        studies = many(held, "study is", "studies are")
        found["held"] = f"{studies} held on ORTHANC1: no route matches: ddwd routes list"
    for folder, images in report.aside.items():
        found[f"aside {folder}"] = aside_text(folder, images)
    for row in report.destinations:
        if row.state == "away":
            studies = many(row.studies, "study waits", "studies wait")
            away = f"{row.name} does not answer, and {studies} for it"
            found[f"destination {row.name}"] = f"{away}: ddwd destinations list"
    if report.hooks:
        studies = many(report.hooks, "finished study", "finished studies")
        found["hooks"] = f"the hook of {studies} failed: ddwd hooks list"
    return found


def _for_the_operator(report: Report) -> dict[str, str]:
    found = {}
    if report.quarantine:
        images_wait = many(report.quarantine, "image waits", "images wait")
        found["quarantine"] = f"{images_wait} in quarantine: ddwd quarantine list"
    if report.lost:
        found["lost"] = f"{lost_text(report.lost)}: ddwd reconcile --dry-run"
    if report.chain is not None and report.chain.problem:
        found["chain"] = f"{report.chain.problem}: {chain.REMEDY}"
    if report.two_patients:
        found["two-patients"] = f"{two_patients_text(report.two_patients)}: ddwd quarantine list"
    if report.self_test is not None and not report.self_test.ok:
        found["self-test"] = f"the self test failed: {report.self_test.text}: ddwd doctor"
    return found


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
            if key in _AT_ONCE and condition.count > self.counts.get(key, condition.count):
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
        return key in _AT_ONCE or now - active.since >= self.after


FORMAT = StateFormat(AlertState, "state of the alerts")


def load(path: Path, after: float) -> AlertState:
    """Read the state; return an empty one if there is no file, or a damaged one."""
    state = FORMAT.read_or_none(path) or AlertState()
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
