"""Findings of the doctor, and the input of its checks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Literal

from ddwd.config.paths import Paths

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from ddwd.config.schema import Config
    from ddwd.config.schema_network import NodeName
    from ddwd.core.clock import Clock
    from ddwd.orthanc.port import ServerChecks
    from ddwd.provisioning.credentials import Credentials
    from ddwd.provisioning.port_holders import Holder
    from ddwd.status.report import Report
    from ddwd.status.units import Systemctl

Part = Literal["gateway", "storage", "scp"]


class Severity(IntEnum):
    """How bad a finding is; the order is from good to bad."""

    OK = 0
    NOTE = 1
    WARN = 2
    BROKEN = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check of one part, and the remedy if it is not well."""

    part: str
    level: Severity
    text: str
    remedy: str = ""


note = partial(Finding, "", Severity.NOTE)
"""The checks make their findings with `note`, `warn` and `broken`; `doctor.examine` fills in the part."""
warn = partial(Finding, "", Severity.WARN)
broken = partial(Finding, "", Severity.BROKEN)


NOT_PERMITTED = note("not checked: this user has no permission", "run it with sudo")


@dataclass(frozen=True, slots=True)
class CheckContext:
    """The input of the checks. `login` is None if this user may not read the credentials."""

    config: Config
    report: Report
    nodes: Mapping[NodeName, ServerChecks]
    login: Credentials | None
    systemctl: Systemctl
    echo: Callable[[Part], bool]
    ask_database: Callable[[NodeName], object]
    """Query the server of that Orthanc's index. Raises PeerDownError with its message."""
    clock_is_synchronised: Callable[[], bool | None]
    expiry: Callable[[Path], datetime]
    has_firewall: Callable[[], bool | None]
    holders: Callable[[int], list[Holder]]
    clock: Clock
    settings: tuple[Path, ...]

    @property
    def paths(self) -> Paths:
        """The portal's files."""
        return Paths(self.config)
