"""The error tree: every failure that ddwd raises on purpose has a code, an exit status and says whether a retry can help.

Lowest layer: imports nothing of ddwd. Raised everywhere, printed by the command line and the daemons.
No message may carry patient data: identifiers in messages are UIDs, Orthanc IDs or paths of ddwd's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class DdwdError(Exception):
    """Root of all deliberate failures."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    retryable: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in the configuration: where it stands, what is wrong, what to write instead."""

    source: str
    line: int | None
    key: str
    what: str
    instead: str

    def __str__(self) -> str:
        """Render as one line: file:line: key: what; instead."""
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{where}: {self.key}: {self.what}; {self.instead}"


class ConfigError(DdwdError):
    """The configuration cannot be used; holds every problem found, not only the first."""

    code = "config"
    exit_status = 78  # EX_CONFIG of sysexits.h, which systemd names in `systemctl status`

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InvalidValueError(DdwdError):
    """A value breaks the rules of its type (AE title, UID, study identifier)."""

    code = "invalid-value"
    exit_status = 64


class PeerDownError(DdwdError):
    """An Orthanc, the SCP or the database did not answer; waiting and trying again is right."""

    code = "peer-down"
    exit_status = 69
    retryable = True


class PeerRefusedError(DdwdError):
    """A peer answered, and the answer was no (HTTP status, DIMSE failure status, rejected association)."""

    code = "peer-refused"
    exit_status = 76
    retryable = True

    def __init__(self, message: str, reason: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        """Orthanc's own error code (OrthancStatus) where it gave one, else the HTTP status, else 0."""


class NotFoundError(DdwdError):
    """The study, series or instance is not known at the place that was asked."""

    code = "not-found"
    exit_status = 66


class HeldElsewhereError(DdwdError):
    """Another extractor works at the study; this one may once that one is done with it."""

    code = "held-elsewhere"
    exit_status = 75  # EX_TEMPFAIL of sysexits.h
    retryable = True


class StorageFullError(DdwdError):
    """The disk has no room, or less than the reserve."""

    code = "disk-full"
    exit_status = 74
    retryable = True


class LinkedError(DdwdError):
    """Where the portal writes, a symbolic link (or a file) stands in the place of a folder or file; it is not followed."""

    code = "link"
    exit_status = 73  # EX_CANTCREAT
    retryable = True


class StateError(DdwdError):
    """A state file cannot be trusted (unknown schema version, damaged beyond its own repair)."""

    code = "state"
    exit_status = 65


class DamagedStateError(StateError):
    """A state file that is no JSON, has not the values of its format, or whose checksum is wrong; `reason` says which."""

    def __init__(self, where: str, noun: str, reason: str) -> None:
        super().__init__(f"{where}: the {noun} is damaged ({reason})")
        self.reason = reason


class NewerStateError(StateError):
    """A sound state file of a newer version, which this one neither reads nor replaces."""

    code = "newer-state"


class DeliveryError(DdwdError):
    """Some of what was asked for could not be delivered; nothing is lost, the summary names each."""

    code = "delivery"
    exit_status = 1
    retryable = True
