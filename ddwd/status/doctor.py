"""Run every check of the portal, one part after the other; each finding has a remedy. Reads only.

A check is a generator of findings. An error of a check becomes a finding, and the other checks still run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ddwd.core.errors import DdwdError, failure_of
from ddwd.status import certificates, checks, orthanc_checks
from ddwd.status.findings import NOT_PERMITTED, CheckContext, Finding, Severity, broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def examine(context: CheckContext) -> list[Finding]:
    """Check every part, in the order of the flow."""
    findings: list[Finding] = []
    for part, (check, fine) in CHECKS.items():
        try:
            of_part = list(check(context))
        except PermissionError:
            of_part = [NOT_PERMITTED]
        except (DdwdError, OSError) as error:
            of_part = [broken(getattr(error, "strerror", "") or failure_of(error).reason, "see: ddwd status")]
        findings += [replace(finding, part=part) for finding in of_part] or [Finding(part, Severity.OK, fine)]
    return findings


CHECKS: dict[str, tuple[Callable[[CheckContext], Iterator[Finding]], str]] = {
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
    "daemons": (checks.daemons, "both heartbeats fresh, both Orthancs reached"),
    "comparison": (checks.sweep, "every study is compared regularly"),
    "disk": (checks.disks, "enough space on every volume"),
    "permissions": (checks.permissions, "patient data is for group ddwd alone"),
    "clock": (checks.clock, "synchronised, and the same on both Orthancs"),
    "certificates": (certificates.certificates, "valid"),
    "senders": (checks.senders, "only the senders in the list may send"),
    "ports": (checks.ports, "no other process holds one"),
    "firewall": (checks.firewall, "as network.firewall is set"),
    "waiting": (checks.waiting, "no task for the operator"),
    "self test": (checks.self_test, "the last one passed"),
}
"""Part -> its check, and the text to show if the check has no finding."""
