"""What each sender did: associations, images, refusals with their reasons. Audits refusals and abortions; safe from several threads."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ddwd.core.audit import Event
from ddwd.core.clock import stamp
from ddwd.store.status_files import RefusalCount, SenderStatus

if TYPE_CHECKING:
    from ddwd.core.audit import Audit
    from ddwd.core.clock import Clock

_MINUTE, _HOUR = 60.0, 3600.0
_AUDITED_A_MINUTE = 20
_SENDERS = 500
_REASONS = 20
"""Reasons kept of one sender: most are one sender's one fault, again and again."""


class RefusalKind(StrEnum):
    """What was refused, or ended before its time."""

    CONNECTION = "connection"
    ASSOCIATION = "association"
    CONTEXT = "presentation context"
    IMAGE = "image"
    ABORT = "abort"


EVENTS = {
    RefusalKind.CONNECTION: Event.ASSOCIATION_REFUSED,
    RefusalKind.ASSOCIATION: Event.ASSOCIATION_REFUSED,
    RefusalKind.CONTEXT: Event.CONTEXT_REFUSED,
    RefusalKind.IMAGE: Event.IMAGE_REFUSED,
    RefusalKind.ABORT: Event.ASSOCIATION_ABORTED,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal: its reason in words, and the status or the SOP class where there is one."""

    kind: RefusalKind
    reason: str
    status: int | None = None
    sop_class: str = ""
    sop_uid: str = ""


@dataclass(slots=True)
class _Sender:
    open: int = 0
    images: int = 0
    refused: int = 0
    seen: str = ""
    reasons: OrderedDict[tuple[RefusalKind, str], deque[float]] = field(default_factory=OrderedDict)
    last: dict[tuple[RefusalKind, str], str] = field(default_factory=dict)
    minute: float = float("-inf")
    audited: int = 0
    silent: int = 0


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
            self._sender(aet, address).open += 1

    def ended(self, aet: str, address: str) -> None:
        """Count the end of an association that was accepted."""
        with self._lock:
            self._sender(aet, address).open -= 1

    def stored(self, aet: str, address: str) -> None:
        """Count an image that ORTHANC1 has acknowledged."""
        with self._lock:
            self._sender(aet, address).images += 1

    def refused(self, aet: str, address: str, refusal: Refusal) -> None:
        """Count and audit a refusal. More than _AUDITED_A_MINUTE of a sender are counted only, and their number is audited later."""
        now = self._clock.monotonic()
        with self._lock:
            sender = self._sender(aet, address)
            sender.refused += 1
            key = refusal.kind, refusal.reason
            times = sender.reasons.setdefault(key, deque(maxlen=10_000))
            times.append(now)
            sender.last[key] = sender.seen
            sender.reasons.move_to_end(key)
            while len(sender.reasons) > _REASONS:
                gone, _ = sender.reasons.popitem(last=False)
                sender.last.pop(gone)
            if now - sender.minute >= _MINUTE:
                sender.minute, sender.audited = now, 0
            if sender.audited >= _AUDITED_A_MINUTE:
                sender.silent += 1
                return
            sender.audited += 1
            before, sender.silent = sender.silent, 0
        self._record(aet, address, refusal, before)

    def _record(self, aet: str, address: str, refusal: Refusal, before: int) -> None:
        status = "" if refusal.status is None else f" with status 0x{refusal.status:04X}"
        text = f"{refusal.kind} of {aet or 'no AE title'} at {address} refused{status}: {refusal.reason}"
        if refusal.kind is RefusalKind.ABORT:
            text = f"association of {aet} at {address} ended before its release: {refusal.reason}"
        if before:
            text += f"; {before} more of this sender in the minutes before"
        fields = {"status": f"0x{refusal.status:04X}"} if refusal.status is not None else {}
        fields |= {"sop_class": refusal.sop_class} if refusal.sop_class else {}
        fields |= {"sop_uid": refusal.sop_uid} if refusal.sop_uid else {}
        self._audit.record(EVENTS[refusal.kind], text, aet=aet, address=address, peer="gateway", **fields)

    def held_off(self, aet: str, address: str) -> None:
        """Audit that an address is held off from now on."""
        text = f"associations of {address} are rejected for 10 minutes: images of {aet} ended ORTHANC1 three times"
        self._audit.record(Event.SENDER_HELD_OFF, text, aet=aet, address=address, peer="gateway")

    def status(self) -> tuple[SenderStatus, ...]:
        """Return all senders with their refusals of the last hour, the latest first."""
        since = self._clock.monotonic() - _HOUR
        with self._lock:
            return tuple(
                SenderStatus(aet, address, one.open, one.images, one.refused, one.seen, _counts(one, since))
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


def _counts(sender: _Sender, since: float) -> tuple[RefusalCount, ...]:
    counts = []
    for key, times in reversed(sender.reasons.items()):
        if recent := sum(at >= since for at in times):
            counts.append(RefusalCount(key[0].value, key[1], recent, sender.last[key]))
    return tuple(counts)
