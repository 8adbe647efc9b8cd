"""What each sender did: associations, images, refusals with their reasons. Audits refusals and abortions; safe from several threads."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.core.audit import Event
from ddwd.core.clock import stamp
from ddwd.store.status_files import HARMLESS, RETRY, RefusalCount, RefusalKind, SenderStatus

if TYPE_CHECKING:
    from ddwd.core.audit import Audit
    from ddwd.core.clock import Clock

_MINUTE, _MINUTES = 60.0, 60
_AUDITED_A_MINUTE = 20
_STUDIES_A_MINUTE = 100
"""Studies of which the first refusal is audited, however many refusals the sender has had."""
_STANDING_SECONDS = 900.0
_SENDERS = 500
_REASONS = 20
"""Reasons kept of one sender: most are one sender's one fault, again and again."""
EVENTS = {
    RefusalKind.CONNECTION: Event.ASSOCIATION_REFUSED,
    RefusalKind.CERTIFICATE: Event.ASSOCIATION_REFUSED,
    RefusalKind.ASSOCIATION: Event.ASSOCIATION_REFUSED,
    RefusalKind.CONTEXT: Event.CONTEXT_REFUSED,
    RefusalKind.CONTEXTS: Event.CONTEXT_REFUSED,
    RefusalKind.IMAGE: Event.IMAGE_REFUSED,
    RefusalKind.CUT: Event.ASSOCIATION_ABORTED,
    RefusalKind.ABORT: Event.ASSOCIATION_ABORTED,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal: its reason in words, the status where there is one, and of which image it is as far as that is known."""

    kind: RefusalKind
    reason: str
    status: int | None = None
    sop_class: str = ""
    sop_uid: str = ""
    study_uid: str = ""

    @property
    def code(self) -> str:
        """The status as 0xC000; empty without one."""
        return "" if self.status is None else f"0x{self.status:04X}"


@dataclass(slots=True)
class _LastHour:
    """Number of events in each minute of the last hour: bounded, however many there are."""

    minutes: deque[list[int]] = field(default_factory=deque)

    def add(self, now: float) -> None:
        minute = int(now // _MINUTE)
        if not self.minutes or self.minutes[-1][0] != minute:
            self.minutes.append([minute, 0])
        self.minutes[-1][1] += 1
        self.count(now)

    def count(self, now: float) -> int:
        while self.minutes and self.minutes[0][0] < now // _MINUTE - _MINUTES:
            self.minutes.popleft()
        return sum(count for _, count in self.minutes)


@dataclass(slots=True)
class _Reason:
    """One reason: its refusals of the last hour, and when the last one was, in monotonic seconds and as a stamp."""

    hour: _LastHour = field(default_factory=_LastHour)
    at: float = 0.0
    last: str = ""


@dataclass(slots=True)
class _Sender:
    open: int = 0
    images: int = 0
    refused: int = 0
    seen: str = ""
    hour: _LastHour = field(default_factory=_LastHour)
    reasons: OrderedDict[tuple[RefusalKind, str, str], _Reason] = field(default_factory=OrderedDict)
    accepted_at: float = float("-inf")
    stored_at: float = float("-inf")
    minute: float = float("-inf")
    audited: int = 0
    studies: set[str] = field(default_factory=set)
    silent: int = 0

    def counts(self, now: float) -> tuple[RefusalCount, ...]:
        """Return the reasons of the last hour, the latest first."""
        found = []
        for (kind, status, reason), seen in reversed(self.reasons.items()):
            if count := seen.hour.count(now):
                standing = now - seen.at < _STANDING_SECONDS and self._is_open(kind, status, seen.at)
                found.append(RefusalCount(kind, reason, count, seen.last, status, standing))
        return tuple(found)

    def _is_open(self, kind: RefusalKind, status: str, at: float) -> bool:
        """Return whether an image may be missing because of a refusal at that moment."""
        if kind in HARMLESS:
            return False
        if kind is RefusalKind.CONTEXTS or (kind is RefusalKind.IMAGE and status != RETRY):
            return True  # that the sender's other images are taken does not help this one
        if kind is RefusalKind.ASSOCIATION:
            return at > self.accepted_at
        return at > self.stored_at

    def is_audited(self, refusal: Refusal, now: float) -> bool:
        """Count a refusal; return whether it is audited by itself: the first ones of a minute, and the first one of a study."""
        if now - self.minute >= _MINUTE:
            self.minute, self.audited = now, 0
            self.studies.clear()
        is_new = bool(refusal.study_uid) and refusal.study_uid not in self.studies
        if is_new and len(self.studies) < _STUDIES_A_MINUTE:
            self.studies.add(refusal.study_uid)
        elif self.audited >= _AUDITED_A_MINUTE:
            self.silent += 1
            return False
        self.audited += 1
        return True


class Senders:
    """All senders by AE title and address, the latest `_SENDERS` of them."""

    def __init__(self, audit: Audit, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self._lock = threading.Lock()
        self._senders: OrderedDict[tuple[str, str], _Sender] = OrderedDict()

    def associated(self, aet: str, address: str) -> None:
        """Count an association that was accepted."""
        with self._lock:
            sender = self._sender(aet, address)
            sender.open += 1
            sender.accepted_at = self._clock.monotonic()

    def ended(self, aet: str, address: str) -> None:
        """Count the end of an association that was accepted."""
        with self._lock:
            sender = self._sender(aet, address)
            sender.open = max(sender.open - 1, 0)

    def stored(self, aet: str, address: str) -> None:
        """Count an image that ORTHANC1 has acknowledged."""
        with self._lock:
            sender = self._sender(aet, address)
            sender.images += 1
            sender.stored_at = self._clock.monotonic()

    def refused(self, aet: str, address: str, refusal: Refusal) -> None:
        """Count and audit a refusal. More than _AUDITED_A_MINUTE of a sender are counted only, and their number is audited later."""
        now = self._clock.monotonic()
        with self._lock:
            sender = self._sender(aet, address)
            sender.refused += 1
            sender.hour.add(now)
            key = refusal.kind, refusal.code, refusal.reason
            reason = sender.reasons.setdefault(key, _Reason())
            reason.hour.add(now)
            reason.at, reason.last = now, sender.seen
            sender.reasons.move_to_end(key)
            if len(sender.reasons) > _REASONS:
                sender.reasons.popitem(last=False)
            if not sender.is_audited(refusal, now):
                return
            before, sender.silent = sender.silent, 0
        self._record(aet, address, refusal, before)

    def _record(self, aet: str, address: str, refusal: Refusal, before: int) -> None:
        status = refusal.code and f" with status {refusal.code}"
        text = f"{refusal.kind} of {aet or 'no AE title'} at {address} refused{status}: {refusal.reason}"
        if EVENTS[refusal.kind] is Event.ASSOCIATION_ABORTED:
            text = f"association of {aet} at {address} ended before its release: {refusal.reason}"
        if before:
            text += f"; {before} more of this sender in the minutes before"
        fields = {"status": refusal.code, "sop_class": refusal.sop_class, "sop_uid": refusal.sop_uid}
        self._audit.record(
            EVENTS[refusal.kind],
            text,
            study_uid=refusal.study_uid,
            aet=aet,
            address=address,
            peer="gateway",
            **{key: value for key, value in fields.items() if value},
        )

    def held_off(self, aet: str, address: str) -> None:
        """Audit that an address is held off from now on."""
        text = f"associations of {address} are rejected for 10 minutes: images of {aet} ended ORTHANC1 three times"
        self._audit.record(Event.SENDER_HELD_OFF, text, aet=aet, address=address, peer="gateway")

    def status(self) -> tuple[SenderStatus, ...]:
        """Return all senders with their refusals of the last hour, the latest first."""
        now = self._clock.monotonic()
        with self._lock:
            return tuple(
                SenderStatus(
                    aet,
                    address,
                    one.open,
                    one.images,
                    one.refused,
                    one.seen,
                    one.counts(now),
                    one.hour.count(now),
                )
                for (aet, address), one in reversed(self._senders.items())
            )

    def _sender(self, aet: str, address: str) -> _Sender:
        sender = self._senders.setdefault((aet, address), _Sender())
        sender.seen = stamp(self._clock.utc())
        self._senders.move_to_end((aet, address))
        if len(self._senders) > _SENDERS:
            self._senders.pop(
                next((key for key, one in self._senders.items() if not one.open), (aet, address))
            )
        return sender
