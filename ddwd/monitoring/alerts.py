"""What people are told, when, and how often: conditions become messages without a flood. Pure but for its small state file.

A condition that holds for `after` seconds is told; then again with growing pauses; then that it is over. What comes
within a minute is one message, and an hour has room for a few only. The state outlives a restart of the monitor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.status.formatting import many, span
from ddwd.status.report import aside_text
from ddwd.store.statefile import StateFormat

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from ddwd.status.report import Report

_REMIND = (3600.0, 4 * 3600.0, 24 * 3600.0)
"""Seconds until a condition that still holds is told again; the last one from then on."""
_BUNDLE_SECONDS = 60.0
_MOST_AN_HOUR = 12
_AT_ONCE = frozenset({"quarantine", "self-test"})
"""These are news, not states that may pass by themselves."""


def conditions(report: Report, silent: Mapping[str, datetime]) -> dict[str, str]:
    """What is not as it should be: a key that stays while it lasts, and a line for people without anything of a patient."""
    return dict([*_parts(report), *_volumes(report), *_waiting(report), *_silence(silent)])


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
        elif (ledger := heart.facts.get("peers", {}).get("ledger", "ok")) != "ok":
            yield "ledger", f"{ledger}: studies wait on ORTHANC2 until it is back"


def _volumes(report: Report) -> Iterator[tuple[str, str]]:
    for volume in report.volumes:
        if volume.problem or volume.level not in {"", "ok"}:
            left = f", full in {span(volume.hours_left * 3600)}" if volume.hours_left is not None else ""
            yield f"disk {volume.use}", f"{volume.path} is short of room{left}: make room, or move output_dir"


def _waiting(report: Report) -> Iterator[tuple[str, str]]:
    if waiting := report.counts.get("waiting", 0):
        yield "waiting", f"{many(waiting, 'study waits', 'studies wait')} after a failure: ddwd-top"
    if held := report.counts.get("held", 0):
        yield (
            "held",
            f"{many(held, 'study is', 'studies are')} held on ORTHANC1, for no rule takes them: ddwd routes list",
        )
    for folder, images in report.aside.items():
        yield f"aside {folder}", aside_text(folder, images)
    for row in report.destinations:
        if row["state"] == "away":
            studies = many(row["studies"], "study waits", "studies wait")
            yield (
                f"destination {row['name']}",
                f"{row['name']} does not answer, and {studies} for it: ddwd destinations list",
            )
    if report.hooks:
        yield (
            "hooks",
            f"{many(report.hooks, 'finished study', 'finished studies')} could not be told of by its hook: ddwd hooks list",
        )
    if report.quarantine:
        count = many(report.quarantine, "image waits", "images wait")
        yield "quarantine", f"{count} in quarantine: ddwd quarantine list"
    if report.self_test is not None and not report.self_test.get("ok"):
        yield "self-test", f"the self test failed: {report.self_test.get('text')}: ddwd doctor"


def _silence(silent: Mapping[str, datetime]) -> Iterator[tuple[str, str]]:
    for aet, last in silent.items():
        yield (
            f"silence {aet}",
            f"{aet} usually sends at this hour; its last images came {last:%a %d %b %H:%M}",
        )


@dataclass
class Standing:
    """One condition: since when it holds, when it was last told and how often, in wall-clock seconds."""

    text: str
    since: float
    told_at: float = 0.0
    told: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One message: what is new or still so, and what is over."""

    at: str
    standing: tuple[str, ...]
    over: tuple[str, ...]

    @property
    def subject(self) -> str:
        """One line."""
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
class Book:
    """What stands and what was told."""

    after: float
    standing: dict[str, Standing] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)
    due_since: float = 0.0
    sent: list[float] = field(default_factory=list)

    def take(self, found: Mapping[str, str], now: float, at: str) -> Message | None:
        """Take in what holds now; the message that is due, or None."""
        for key, text in found.items():
            if key not in self.standing:
                self.standing[key] = Standing(text, now)
            elif key in _AT_ONCE and self._is_news(self.standing[key].text, text):
                self.standing[key].told = 0
            self.standing[key].text = text
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

    @staticmethod
    def _is_news(before: str, now: str) -> bool:
        """More of the same is news, less is not."""
        return _first_number(now) > _first_number(before)

    def _is_due(self, key: str, one: Standing, now: float) -> bool:
        if one.told:
            return now - one.told_at >= _REMIND[min(one.told, len(_REMIND)) - 1]
        return key in _AT_ONCE or now - one.since >= self.after


def _first_number(text: str) -> int:
    digits = text.split(" ", 1)[0].replace(",", "")
    return int(digits) if digits.isdigit() else 0


@dataclass(frozen=True, slots=True)
class _Saved:
    """The part of the book that outlives a restart."""

    standing: dict[str, Standing]
    over: list[str]
    sent: list[float]


_FORMAT = StateFormat(_Saved, "state of the alerts")


def load(path: Path, after: float) -> Book:
    """The book as it was left; a new one where there is none, or a damaged one."""
    saved = _FORMAT.read_or_none(path)
    return Book(after) if saved is None else Book(after, saved.standing, saved.over, sent=saved.sent)


def save(path: Path, book: Book) -> None:
    """Keep it. Raises StorageFullError and OSError."""
    _FORMAT.write(path, _saved(book))


def render(book: Book) -> bytes:
    """What `save` writes."""
    return _FORMAT.render(_saved(book))


def _saved(book: Book) -> _Saved:
    return _Saved(book.standing, book.over, book.sent)
