"""Which problem explains which: puts the consequences of a cause below it. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ddwd.core.problem import problem, with_all
from ddwd.core.problem_codes import Code

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ddwd.core.problem import Problem

_UNFINISHED = frozenset({Code.STUDIES_WAIT, Code.SELF_TEST_FAILED, Code.HOP_STILL, Code.HOP_SLOW})
"""What any part that does not work can bring about."""
_OF_A_PART = frozenset(
    {Code.ORTHANC_SILENT, Code.DAEMON_SILENT, Code.PEER_UNREACHED, Code.ECHO_SILENT, Code.HOP_UNREACHED}
)
"""What comes of one part alone; the subject is the part: gateway, storage, scp, extractor, acceptor."""
_OF_A_UNIT = {
    Code.CHAIN_BEHIND: "ddwd-signer",
    Code.DESTINATION_UNKNOWN: "ddwd-courier",
    Code.FIREWALL_MISSING: "ddwd-firewall",
}
_INDEXED = frozenset({"gateway", "storage"})
_UNITS_OF_THE_INDEX = frozenset({"ddwd-databases", "ddwd-gateway", "ddwd-storage"})
_OF_THE_FLOW = _UNITS_OF_THE_INDEX | {"ddwd", "ddwd-provision", "ddwd-acceptor", "ddwd-scp", "ddwd-extractor"}
_NEEDED_BY = {"ddwd-provision": _UNITS_OF_THE_INDEX, "ddwd-databases": _UNITS_OF_THE_INDEX}
"""Units that systemd does not start without that one; without `ddwd` it starts none."""
_CAUSES = (
    Code.PORT_HELD,
    Code.POSTGRESQL_DOWN,
    Code.DATABASE_REFUSES,
    Code.VOLUME_READ_ONLY,
    Code.VOLUME_UNREADABLE,
    Code.VOLUME_FULL,
    Code.UNIT_DOWN,
    Code.ORTHANC_SILENT,
    Code.DAEMON_SILENT,
    Code.LEDGER_UNREACHED,
    Code.PEER_UNREACHED,
    Code.HOP_UNREACHED,
    Code.ECHO_SILENT,
)
"""The deepest cause first: it takes the consequences of those that it explains."""


def folded(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the causes, what is broken first, each with what it explains; consequences given by the caller are taken apart first."""
    rest = list(with_all(problems))
    causes = []
    for code in _CAUSES:
        for cause in [one for one in rest if one.code is code]:
            if cause in rest:
                followers = [one for one in rest if one is not cause and _explains(cause, one)]
                rest = [one for one in rest if one is not cause and one not in followers]
                causes.append(replace(cause, consequences=tuple(followers)))
    return tuple(sorted((*causes, *rest), key=lambda one: -one.severity))


def of_unfinished(problems: Iterable[Problem]) -> Problem | None:
    """Return the cause that keeps studies from being complete on disk, the deepest if there are several; None if there is none."""
    causes = [
        one for one in problems if one.code in _CAUSES and _explains(one, problem(Code.STUDIES_WAIT, ""))
    ]
    return min(causes, key=lambda one: _CAUSES.index(one.code), default=None)


def _explains(cause: Problem, other: Problem) -> bool:
    if other.code in _UNFINISHED:
        return cause.code is not Code.UNIT_DOWN or cause.subject in _OF_THE_FLOW
    if cause.code is Code.UNIT_DOWN:
        return _of_unit(cause.subject, other)
    if cause.code is Code.POSTGRESQL_DOWN:
        is_unit = other.code is Code.UNIT_DOWN and other.subject in _UNITS_OF_THE_INDEX
        return is_unit or other.subject in _INDEXED or other.code is Code.LEDGER_UNREACHED
    is_of_a_part = other.code is Code.UNIT_DOWN or other.code in _OF_A_PART
    return is_of_a_part and other.subject in {cause.subject, f"ddwd-{cause.subject}"}


def _of_unit(unit: str, other: Problem) -> bool:
    """Return whether a problem comes of that unit's absence, or of that of a unit which needs it."""
    if other.code is Code.UNIT_DOWN:
        needing = other.subject
    elif other.code in _OF_A_PART:
        needing = f"ddwd-{other.subject}"
    elif other.code in _OF_A_UNIT:
        needing = _OF_A_UNIT[other.code]
    else:
        return False
    return unit in {"ddwd", needing} or needing in _NEEDED_BY.get(unit, ())
