"""Errors that ddwd raises on purpose: each has a code, an exit status, and whether a retry can help.

Lowest layer: imports no other module of ddwd. Raised everywhere, printed by the commands and the daemons.
A message must hold no patient data: it may name UIDs, Orthanc IDs and the portal's own paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple


class DdwdError(Exception):
    """Base class of all errors that ddwd raises on purpose."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    status: str = ""
    """Status code in a peer's response, as `status_codes.MEANINGS` spells it: 0xA702, HTTP 503."""


class Failure(NamedTuple):
    """Why something failed: one line for people, and the status code in the peer's response, empty if there is none."""

    reason: str
    status: str = ""


def failure_of(error: BaseException) -> Failure:
    """Return message and status of a DdwdError; of any other error only the name, since its text may contain a path."""
    if isinstance(error, DdwdError):
        return Failure(str(error), error.status)
    return Failure(type(error).__name__)


def reason_of(error: DdwdError | OSError) -> str:
    """Return why something failed, in one line that names no path of an OSError."""
    return str(error) if isinstance(error, DdwdError) else f"{type(error).__name__}: {error.strerror}"


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One mistake in the configuration: its place, what is wrong, and what to write instead."""

    source: str
    line: int | None
    key: str
    what: str
    instead: str

    def __str__(self) -> str:
        """Return one line: file:line: key: what; instead."""
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{where}: {self.key}: {self.what}; {self.instead}"


@dataclass(frozen=True, slots=True)
class AccessProblem(ConfigProblem):
    """A configuration file that this user may not read."""


class ConfigError(DdwdError):
    """The configuration cannot be used; `problems` has all mistakes that were found, not only the first."""

    code = "config"
    exit_status = 78  # EX_CONFIG of sysexits.h, which systemd names in `systemctl status`

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InvalidValueError(DdwdError):
    """A value breaks the rules of its type (AE title, UID, study identifier)."""

    code = "invalid-value"
    exit_status = 64


class PeerDownError(DdwdError):
    """An Orthanc, the SCP or the database did not respond; the caller waits and tries again."""

    code = "peer-down"
    exit_status = 69
    retryable = True


class PeerRefusedError(DdwdError):
    """A peer refused the request (HTTP status, DIMSE failure status, rejected association)."""

    code = "peer-refused"
    exit_status = 76
    retryable = True

    def __init__(self, message: str, reason: int = 0, status: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        """Orthanc's error code (OrthancStatus) if it gave one, else the HTTP status, else 0."""


class ImageRefusedError(PeerRefusedError):
    """A peer that answers does not take this very image; the message has its words."""

    code = "image-refused"


class NotFoundError(DdwdError):
    """The study, series or instance does not exist where it was looked for."""

    code = "not-found"
    exit_status = 66


class HeldElsewhereError(DdwdError):
    """Another extractor holds the claim of the study; this one can take it once it is released."""

    code = "held-elsewhere"
    exit_status = 75  # EX_TEMPFAIL of sysexits.h
    retryable = True


class StorageFullError(DdwdError):
    """The disk is full, or has less free space than the reserve."""

    code = "disk-full"
    exit_status = 74
    retryable = True


class LinkedError(DdwdError):
    """A symbolic link, or a file instead of a folder, is in the path that the portal writes to; it is not followed."""

    code = "link"
    exit_status = 73  # EX_CANTCREAT
    retryable = True


class StateError(DdwdError):
    """A state file cannot be used: its schema version is unknown, or it is damaged and cannot be repaired."""

    code = "state"
    exit_status = 65


class DamagedStateError(StateError):
    """A state file that is not JSON, has other values than its format allows, or has a wrong checksum; `reason` says which."""

    def __init__(self, where: str, noun: str, reason: str) -> None:
        super().__init__(f"{where}: the {noun} is damaged ({reason})")
        self.reason = reason


class NewerStateError(StateError):
    """A valid state file was written by a newer version; this version neither reads nor replaces it."""

    code = "newer-state"

    def __init__(self, where: object, schema: object, newest: object) -> None:
        super().__init__(
            f"{where}: schema {schema}, from a newer ddwd; this one reads {newest} and before, and has changed no file: "
            "install the newer one again, or downgrade as docs/upgrade.md describes"
        )


class DeliveryError(DdwdError):
    """Some of the requested files could not be delivered; none is lost, and the summary names each."""

    code = "delivery"
    exit_status = 1
    retryable = True
