"""Turn conditions of the portal into messages: when, and how often. Pure but for its small state file.

A condition that holds for `after` seconds is reported, then again at growing intervals, then when it is over. Conditions that come
within a minute are one message, and an hour has a limit of messages. The state is kept over a restart of the monitor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.status.formatting import many, span
from ddwd.status.report import aside_text
from ddwd.store.statefile import StateFormat, stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from ddwd.status.report import Report

_REMIND = (3600.0, 4 * 3600.0, 24 * 3600.0)
"""Seconds until a condition that still holds is reported again; the last one from then on."""
_BUNDLE_SECONDS = 60.0
_MOST_AN_HOUR = 12
_AT_ONCE = frozenset({"quarantine", "self-test"})
"""Conditions that are reported at once: they do not pass by themselves."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is wrong: a line for people, without patient data, and how many things it is about."""

    text: str
    count: int = 0


def conditions(report: Report, silent: Mapping[str, datetime]) -> dict[str, Condition]:
    """Return what is wrong, by a key that stays the same while it lasts."""
    found = [*_parts(report), *_volumes(report), *_waiting(report), *_silence(silent)]
    return {key: one if isinstance(one, Condition) else Condition(one) for key, one in found}


def _parts(report: Report) -> Iterator[tuple[str, str]]:
    for unit in report.units:
        if not unit.is_well:
            yield f"unit {unit.name}", f"{unit.name} is {unit.active}: journalctl -u {unit.name} -n 50"
    for server in report.servers:
        if server.problem:
            yield f"orthanc {server.name}", server.problem
    for heart in report.hearts:
        if heart.problem:
            yield f"heart {heart.daemon}", heart.problem
        elif ledger := heart.silent_peers.get("ledger"):
            yield "ledger", f"{ledger}: studies wait on ORTHANC2 until it is back"


def _volumes(report: Report) -> Iterator[tuple[str, str]]:
    for volume in report.volumes:
        if volume.problem or volume.level not in {"", "ok"}:
            left = f", full in {span(volume.hours_left * 3600)}" if volume.hours_left is not None else ""
            yield f"disk {volume.use}", f"{volume.path} is short of room{left}: free some, or move output_dir"


def _waiting(report: Report) -> Iterator[tuple[str, str | Condition]]:
    if waiting := report.counts.get("waiting", 0):
        yield "waiting", f"{many(waiting, 'study waits', 'studies wait')} after a failure: ddwd-top"
    if held := report.counts.get("held", 0):
        yield (
            "held",
            f"{many(held, 'study is', 'studies are')} held on ORTHANC1: no rule takes them: ddwd routes list",
        )
    for folder, images in report.aside.items():
        yield f"aside {folder}", aside_text(folder, images)
    for row in report.destinations:
        if row.state == "away":
            studies = many(row.studies, "study waits", "studies wait")
            yield (
                f"destination {row.name}",
                f"{row.name} does not answer, and {studies} for it: ddwd destinations list",
            )
    if report.hooks:
        yield (
            "hooks",
            f"the hook of {many(report.hooks, 'finished study', 'finished studies')} failed: ddwd hooks list",
        )
    if report.quarantine:
        count = many(report.quarantine, "image waits", "images wait")
        yield "quarantine", Condition(f"{count} in quarantine: ddwd quarantine list", report.quarantine)
    if report.self_test is not None and not report.self_test.ok:
        yield "self-test", f"the self test failed: {report.self_test.text}: ddwd doctor"


def _silence(silent: Mapping[str, datetime]) -> Iterator[tuple[str, str]]:
    for aet, last in silent.items():
        yield (
            f"silence {aet}",
            f"{aet} usually sends at this hour; its last images came {last:%a %d %b %H:%M}",
        )


@dataclass
class ActiveCondition:
    """One condition: since when it holds, when it was last reported and how often, in wall-clock seconds.

    `count` is None in a state file of a version that did not write it.
    """

    text: str
    since: float
    told_at: float = 0.0
    told: int = 0
    count: int | None = None


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
        return (
            "\n".join([*lines, "", f"D-DW-D Portal at {self.at}. See: ddwd-top, ddwd status, ddwd doctor"])
            + "\n"
        )


@dataclass
class AlertState:
    """The conditions that hold, and which of them were reported."""

    after: float
    standing: dict[str, ActiveCondition] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)
    due_since: float = 0.0
    sent: list[float] = field(default_factory=list)

    def update(self, found: Mapping[str, Condition], now: float, at: str) -> Message | None:
        """Take in the conditions that hold now; return the message that is due, or None."""
        for key, condition in found.items():
            one = self.standing.setdefault(key, ActiveCondition(condition.text, now))
            if key in _AT_ONCE and one.count is not None and condition.count > one.count:
                one.told = 0  # more of the same is reported again, less is not
            one.text, one.count = condition.text, condition.count
        for key in [key for key in self.standing if key not in found]:
            gone = self.standing.pop(key)
            if gone.told:
                self.over.append(gone.text)
        due = [one for key, one in self.standing.items() if self._is_due(key, one, now)]
        if not due and not self.over:
            self.due_since = 0.0
            return None
        self.due_since = self.due_since or now
        self.sent = [moment for moment in self.sent if now - moment < _REMIND[0]]
        if now - self.due_since < _BUNDLE_SECONDS or len(self.sent) >= _MOST_AN_HOUR:
            return None
        message = Message(at, tuple(one.text for one in due), tuple(self.over))
        for one in due:
            one.told, one.told_at = one.told + 1, now
        self.over, self.due_since = [], 0.0
        self.sent.append(now)
        return message

    def _is_due(self, key: str, one: ActiveCondition, now: float) -> bool:
        if one.told:
            return now - one.told_at >= _REMIND[min(one.told, len(_REMIND)) - 1]
        return key in _AT_ONCE or now - one.since >= self.after


@dataclass(frozen=True, slots=True)
class _SavedCondition:
    text: str
    since: float
    told_at: float = 0.0
    told: int = 0


@dataclass(frozen=True, slots=True)
class _Saved:
    """The part of the state that is kept over a restart; `counts` are apart from `standing`, for 0.2.0 does not read them there."""

    standing: dict[str, _SavedCondition]
    over: list[str]
    sent: list[float]
    counts: dict[str, int] = field(default_factory=dict, metadata=stored(omit_empty=True))


_FORMAT = StateFormat(_Saved, "state of the alerts")


def load(path: Path, after: float) -> AlertState:
    """Read the state; return an empty one if there is no file, or a damaged one."""
    saved = _FORMAT.read_or_none(path)
    if saved is None:
        return AlertState(after)
    standing = {
        key: ActiveCondition(one.text, one.since, one.told_at, one.told, saved.counts.get(key))
        for key, one in saved.standing.items()
    }
    return AlertState(after, standing, saved.over, sent=saved.sent)


def save(path: Path, state: AlertState) -> None:
    """Write the state. Raises StorageFullError and OSError."""
    _FORMAT.write(path, _saved(state))


def render(state: AlertState) -> bytes:
    """Return the content of the state file."""
    return _FORMAT.render(_saved(state))


def _saved(state: AlertState) -> _Saved:
    standing = {
        key: _SavedCondition(one.text, one.since, one.told_at, one.told)
        for key, one in state.standing.items()
    }
    counts = {key: one.count for key, one in state.standing.items() if one.count is not None}
    return _Saved(standing, state.over, state.sent, counts)
