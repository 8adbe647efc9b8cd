"""The input of the checks: what every process may look at, and what the doctor may probe besides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.config.paths import Paths
from ddwd.core.problem import problem
from ddwd.core.problem_codes import Code

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from ddwd.config.schema import Config
    from ddwd.config.schema_network import NodeName
    from ddwd.core.clock import Clock
    from ddwd.dicom.nodes import Part
    from ddwd.orthanc.port import ServerChecks
    from ddwd.provisioning.credentials import Credentials
    from ddwd.provisioning.port_holders import Holder
    from ddwd.status.report import Report
    from ddwd.status.units import Systemctl

NOT_PERMITTED = problem(Code.NOT_CHECKED, "not checked: this user has no permission", "run it with sudo")


@dataclass(frozen=True, slots=True)
class CheckContext:
    """The input of the checks that ddwd-monitor runs too. `login` is None if this user may not read the credentials."""

    config: Config
    report: Report
    nodes: Mapping[NodeName, ServerChecks]
    login: Credentials | None
    expiry: Callable[[Path], datetime]
    clock: Clock
    settings: tuple[Path, ...]

    @property
    def paths(self) -> Paths:
        """The portal's files."""
        return Paths(self.config)


@dataclass(frozen=True, slots=True)
class ProbeContext(CheckContext):
    """The input of all checks: the doctor also starts programs and opens associations."""

    systemctl: Systemctl
    echo: Callable[[Part], bool]
    ask_database: Callable[[NodeName], object]
    """Query the server of that Orthanc's index. Raises PeerDownError with its message."""
    clock_is_synchronised: Callable[[], bool | None]
    has_firewall: Callable[[], bool | None]
    holders: Callable[[int], list[Holder]]
