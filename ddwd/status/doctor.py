"""Run every check of the portal, one part after the other; each finding has a remedy. Reads only.

A check is a generator of findings. An error of a check becomes a finding, and the other checks still run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ddwd.core.errors import DdwdError, failure_of
from ddwd.status import certificates, checks, orthanc_checks
from ddwd.status.findings import NO_PERMISSION, CheckContext, Finding, Severity, broken, note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def examine(context: CheckContext) -> list[Finding]:
    """Check every part, in the order of the flow."""
    findings: list[Finding] = []
    for part, check in CHECKS.items():
        try:
            of_part = list(check(context))
        except PermissionError:
            of_part = [note(NO_PERMISSION, "run it with sudo")]
        except (DdwdError, OSError) as error:
            of_part = [broken(getattr(error, "strerror", "") or failure_of(error).reason, "see: ddwd status")]
        findings += [replace(one, part=part) for one in of_part] or [Finding(part, Severity.OK, _FINE[part])]
    return findings


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
    "settings": "valid, with every addition",
    "configuration": "both Orthancs run with the current settings, and no setting can lose images",
    "Orthancs": "both answer, with PostgreSQL and DICOMweb",
    "versions": "no known weakness",
    "C-ECHO": "all three AE titles answer",
    "hops": "ORTHANC1 reaches ORTHANC2, ORTHANC2 reaches the SCP",
    "daemons": "both heartbeats fresh, both Orthancs reached",
    "comparison": "every study is compared regularly",
    "disk": "enough space on every volume",
    "permissions": "patient data is for group ddwd alone",
    "clock": "synchronised, and the same on both Orthancs",
    "certificates": "valid",
    "senders": "only the senders in the list may send",
    "firewall": "as network.firewall is set",
    "quickack": "every network of network.quickack has its routes",
    "waiting": "no task for the operator",
    "self test": "the last one passed",
}
