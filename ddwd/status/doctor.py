"""Run every check of the portal, one part after the other, and join what they find with the problems of the report. Reads only.

A check is a generator of problems. An error of a check becomes a problem, and the other checks still run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ddwd.core.errors import DdwdError, failure_of
from ddwd.core.problem import Severity, problem, with_all
from ddwd.core.problem_codes import Code
from ddwd.status import certificates, checks, orthanc_checks
from ddwd.status.check_context import NOT_PERMITTED, CheckContext, ProbeContext
from ddwd.status.root_causes import folded

if TYPE_CHECKING:
    from ddwd.core.problem import Problem

_Probe = Callable[[ProbeContext], "Iterator[Problem]"]
_Check = Callable[[CheckContext], "Iterator[Problem]"]


@dataclass(frozen=True, slots=True)
class Examination:
    """What the doctor found: the problems, causes with their consequences; and for each part without any, what is well there."""

    problems: tuple[Problem, ...]
    fine: dict[str, str]

    def of(self, part: str) -> list[Problem]:
        """Return the problems of a part; the remedy of a consequence is its cause."""
        own = [replace(cause, consequences=()) for cause in self.problems if cause.part == part]
        return own + [
            replace(one, remedy=f"comes of: {cause.cause}")
            for cause in self.problems
            for one in with_all(cause.consequences)
            if one.part == part
        ]


def examine(context: ProbeContext) -> Examination:
    """Check every part, in the order of the flow."""
    found = list(with_all(context.report.problems))
    keys = {one.key for one in found}
    for part, (check, _) in CHECKS.items():
        # ddwd-monitor may have noticed it before
        found += [one for one in _checked(part, partial(check, context)) if one.key not in keys]
    parts = {one.part for one in found}
    return Examination(folded(found), {part: fine for part, (_, fine) in CHECKS.items() if part not in parts})


def examine_standing(context: CheckContext) -> tuple[Problem, ...]:
    """Run the checks that ddwd-monitor may run: of what stands on the disk and what the Orthancs say. Notes are left out."""
    found = [one for part, check in STANDING.items() for one in _checked(part, partial(check, context))]
    return tuple(one for one in found if one.severity > Severity.NOTE)


def _checked(part: str, check: Callable[[], Iterator[Problem]]) -> list[Problem]:
    try:
        found = list(check())
    except PermissionError:
        found = [NOT_PERMITTED]
    except (DdwdError, OSError) as error:
        text = getattr(error, "strerror", "") or failure_of(error).reason
        found = [problem(Code.CHECK_FAILED, text, "ddwd status")]
    return [
        replace(one, part=part, subject=part) if one.code in {Code.NOT_CHECKED, Code.CHECK_FAILED} else one
        for one in found
    ]


def _in_report(_context: CheckContext) -> Iterator[Problem]:
    """Check nothing: the report has all problems of the part."""
    yield from ()


STANDING: dict[str, _Check] = {
    "destinations": orthanc_checks.destinations,
    "comparison": checks.sweep,
    "disk": checks.retention,
    "permissions": checks.permissions,
    "clock": checks.clock,
    "certificates": certificates.certificates,
    "waiting": checks.waiting,
}
"""Part -> its check, of those that ddwd-monitor runs by a timer, so that every view has what they find."""
CHECKS: dict[str, tuple[_Probe, str]] = {
    "PostgreSQL": (orthanc_checks.database, "it takes connections"),
    "units": (checks.units_run, "all active, enabled at boot"),
    "settings": (orthanc_checks.settings, "valid, with every addition"),
    "configuration": (
        orthanc_checks.rendered,
        "both Orthancs run with the current settings, and no setting can lose images",
    ),
    "Orthancs": (orthanc_checks.orthancs, "both answer, with PostgreSQL and DICOMweb"),
    "versions": (orthanc_checks.versions, "no known weakness"),
    "C-ECHO": (orthanc_checks.echoes, "all three AE titles answer"),
    "hops": (orthanc_checks.hops, "ORTHANC1 reaches ORTHANC2, ORTHANC2 reaches the SCP"),
    "destinations": (orthanc_checks.destinations, "each one that is configured answers"),
    "daemons": (_in_report, "all heartbeats fresh, both Orthancs reached"),
    "chain": (_in_report, "every event is entered and signed"),
    "comparison": (checks.sweep, "every study is compared regularly"),
    "disk": (checks.retention, "enough space on every volume"),
    "permissions": (checks.permissions, "patient data is for group ddwd alone"),
    "clock": (checks.synchronised, "synchronised, and the same on both Orthancs"),
    "certificates": (certificates.certificates, "valid"),
    "senders": (checks.senders, "only the senders in the list may send"),
    "ports": (checks.ports, "no other process holds one"),
    "firewall": (checks.firewall, "as network.firewall is set"),
    "waiting": (checks.waiting, "no task for the operator"),
    "self test": (checks.self_test, "the last one passed"),
}
"""Part -> its check, and the text to show if there is no problem of that part."""
