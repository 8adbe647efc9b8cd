"""Run every check of the portal, one part after the other; each finding says what to do. Reads only.

A check is a generator of findings; one that fails itself becomes a finding and hides no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core.errors import DdwdError
from ddwd.status import certificates, checks, orthanc_checks
from ddwd.status.findings import CheckContext, Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def examine(context: CheckContext) -> list[Finding]:
    """Check every part, in the order of the flow."""
    found: list[Finding] = []
    for part, check in CHECKS.items():
        try:
            mine = list(check(context))
        except (DdwdError, OSError) as error:
            mine = [_not_checked(part, error)]
        found += mine or [Finding(part, Severity.OK, _FINE[part])]
    return found


def _not_checked(part: str, error: Exception) -> Finding:
    said = (
        str(error) if isinstance(error, DdwdError) else getattr(error, "strerror", "") or type(error).__name__
    )
    if isinstance(error, PermissionError):
        return Finding(part, Severity.NOTE, "not looked at: this user may not", "run it with sudo")
    return Finding(part, Severity.BROKEN, said, "see: ddwd status")


CHECKS: dict[str, Callable[[CheckContext], Iterator[Finding]]] = {
    "units": checks.units_run,
    "settings": orthanc_checks.settings,
    "configuration": orthanc_checks.rendered,
    "Orthancs": orthanc_checks.orthancs,
    "versions": orthanc_checks.versions,
    "C-ECHO": orthanc_checks.echoes,
    "hops": orthanc_checks.hops,
    "daemons": checks.daemons,
    "comparison": checks.sweep,
    "disk": checks.disks,
    "permissions": checks.permissions,
    "clock": checks.clock,
    "certificates": certificates.certificates,
    "senders": checks.senders,
    "firewall": checks.firewall,
    "quickack": checks.quickack_routes,
    "waiting": checks.waiting,
    "self test": checks.self_test,
}
_FINE = {
    "units": "all active, enabled at boot",
    "settings": "sound, with every addition",
    "configuration": "both Orthancs run with what was set, and lose nothing by it",
    "Orthancs": "both answer, with PostgreSQL and DICOMweb",
    "versions": "no known weakness",
    "C-ECHO": "all three AE titles answer",
    "hops": "ORTHANC1 reaches ORTHANC2, ORTHANC2 reaches the SCP",
    "daemons": "both heartbeats fresh, both Orthancs reached",
    "comparison": "every study is compared again and again",
    "disk": "room everywhere",
    "permissions": "patient data is for group ddwd alone",
    "clock": "synchronised, and the same everywhere",
    "certificates": "valid",
    "senders": "only those in the list may send",
    "firewall": "as network.firewall says",
    "quickack": "every network of network.quickack has its routes",
    "waiting": "nothing waits for you",
    "self test": "the last one passed",
}
