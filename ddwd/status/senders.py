"""What the views say of senders: how many associations are open, who is refused and why, and what to do. Reads the Report only."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ddwd.core.printable import many
from ddwd.core.problem import problem
from ddwd.core.problem_codes import Code
from ddwd.status.formatting import plain, span, time
from ddwd.store.status_files import HARMLESS, RETRY, AcceptorStatus, RefusalCount, RefusalKind, SenderStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.core.problem import Problem
    from ddwd.status.report import Report

_FULL = 0.8
"""Part of the possible associations from which on it is a problem."""
_MOST = 5
"""Refused senders that are named: anyone may send by any AE title."""
_PAGE = "docs/senders.md"
_REMEDIES = {
    RefusalKind.CERTIFICATE: "give the sender a valid certificate (docs/encryption.md)",
    RefusalKind.ASSOCIATION: f"compare AE titles, address and senders in ddwd.yaml ({_PAGE})",
    RefusalKind.CONTEXTS: f"set the sender to another transfer syntax ({_PAGE})",
    RefusalKind.CUT: f"look at the sender and at the network ({_PAGE})",
}
_AGAIN = "sending it again can help"
_NEVER = "sending it again cannot help, it has to be corrected at the sender"


def again(status: str) -> str:
    """Return whether an image that was refused with that status can be sent again."""
    return _AGAIN if status == RETRY else _NEVER


def remedy(reason: RefusalCount) -> str:
    """Return what to do about a refusal."""
    if reason.kind in HARMLESS:
        return "keeps no image away"
    return _REMEDIES.get(RefusalKind(reason.kind), f"{again(reason.status)} ({_PAGE})")


def who(sender: SenderStatus) -> str:
    """Return AE title and address, as printable text."""
    return f"{plain(sender.aet) or 'no AE title'} at {sender.address}"


def what(reason: RefusalCount) -> str:
    """Return how often, what and why, as printable text."""
    status = reason.status and f", {reason.status}"
    return f"{reason.count:,} x {reason.kind}{status}: {plain(reason.reason)}"


def recent(acceptor: AcceptorStatus) -> int:
    """Return the refusals of the last hour, of all senders."""
    return sum(sender.recent for sender in acceptor.senders)


def summary(acceptor: AcceptorStatus) -> str:
    """Return one line: open associations, and refusals of the last hour; since the start of ddwd-acceptor, if that is later."""
    refused = many(recent(acceptor), "refusal", "refusals")
    return f"{acceptor.associations} of {acceptor.limit} associations; {refused} {_period(acceptor)}"


def _period(acceptor: AcceptorStatus) -> str:
    if acceptor.since and acceptor.at:
        age = datetime.fromisoformat(acceptor.at) - datetime.fromisoformat(acceptor.since)
        if age < timedelta(hours=1):
            return f"since {time(acceptor.since)}, when ddwd-acceptor started"
    return "in the last hour"


def problems(report: Report) -> Iterator[Problem]:
    """Yield what is wrong: too many associations of a part, an address that is held off, a refused sender."""
    yield from _full(report)
    yield from _acceptor_problems(report)


def _full(report: Report) -> Iterator[Problem]:
    for heart in report.hearts:
        if _is_full(heart.scp.associations, heart.scp.limit):
            cause = f"{heart.scp.associations} of {heart.scp.limit} associations of the receiver are open"
            yield problem(
                Code.ASSOCIATIONS_FULL, cause, "journalctl -u ddwd-scp -u ddwd-storage -n 50", "scp"
            )
    for server in report.servers:
        if server.associations is not None and _is_full(server.associations, server.limit):
            cause = f"{server.associations} of {server.limit} associations of {server.name} are open"
            yield problem(Code.ASSOCIATIONS_FULL, cause, server.log, server.name)


def _is_full(count: int, limit: int) -> bool:
    return bool(limit) and count >= _FULL * limit


def _acceptor_problems(report: Report) -> Iterator[Problem]:
    if report.acceptor is None or report.acceptor.problem:
        return
    acceptor = report.acceptor.acceptor
    if _is_full(acceptor.associations, acceptor.limit):
        most = max(acceptor.senders, key=lambda sender: sender.open, default=SenderStatus("?", "?"))
        opened = (
            f"{acceptor.associations} of {acceptor.limit} associations are open, {most.open} by {who(most)}"
        )
        cause = f"{opened}; when all are, every sender is rejected"
        yield problem(Code.ASSOCIATIONS_FULL, cause, "see gateway.associations in ddwd.yaml", "acceptor")
    for address, seconds in acceptor.held_off.items():
        cause = f"{address} is held off for {span(seconds)} more: its images ended ORTHANC1 again and again"
        remedy = "journalctl -t ddwd-audit DDWD_EVENT=sender-held-off"
        yield problem(Code.SENDER_HELD_OFF, cause, remedy, address)
    yield from _refused(acceptor)


def _refused(acceptor: AcceptorStatus) -> Iterator[Problem]:
    found = [
        (sender, reason)
        for sender in acceptor.senders
        if (reason := next((one for one in sender.reasons if one.standing), None))
    ]
    for sender, reason in found[:_MOST]:
        cause = f"{who(sender)} is refused: {what(reason)}; last {time(reason.last)}"
        subject = f"{sender.aet} {sender.address}"
        yield problem(Code.SENDER_REFUSED, cause, remedy(reason), subject, count=reason.count)
    if (more := len(found) - _MOST) > 0:
        cause = f"{many(more, 'sender more is', 'senders more are')} refused"
        yield problem(Code.SENDER_REFUSED, cause, "ddwd-top, key s", count=more)
