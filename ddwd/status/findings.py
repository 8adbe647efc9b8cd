"""Findings of the doctor, and what its checks look at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
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
    from ddwd.provisioning.quickack import JsonRoute
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
    """What a check found of one part, and what to do if it is not well."""

    part: str
    level: Severity
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class CheckContext:
    """Everything the checks look at. `login` is None if this user may not read the credentials."""

    config: Config
    report: Report
    nodes: Mapping[NodeName, ServerChecks]
    login: Credentials | None
    systemctl: Systemctl
    echo: Callable[[Part], bool]
    ask_database: Callable[[NodeName], object]
    """Ask the server of that Orthanc's index. Raises PeerDownError with its message."""
    clock_is_synchronised: Callable[[], bool | None]
    expiry: Callable[[Path], datetime]
    routes: Callable[[], list[JsonRoute]]
    has_firewall: Callable[[], bool]
    clock: Clock
    settings: tuple[Path, ...]

    @property
    def paths(self) -> Paths:
        """The portal's files."""
        return Paths(self.config)


def own_nodes(config: Config) -> tuple[NodeName, ...]:
    """Return the Orthancs that run on this machine."""
    return tuple(node.name for node in config.own_nodes)
