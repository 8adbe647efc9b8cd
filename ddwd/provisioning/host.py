"""Run commands and set owners: what provisioning, backup and restore do to the machine."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

from ddwd.core import clock, safe_folder
from ddwd.core.errors import PeerRefusedError
from ddwd.provisioning import handover

if TYPE_CHECKING:
    from collections.abc import Mapping

    OpenFile = IO[bytes] | None

_SECONDS = 60


class CommandResult(NamedTuple):
    """Result of a command: exit status, standard output, and the line of standard error to show."""

    status: int
    out: str
    complaint: str


class Login(NamedTuple):
    """How to run a client of PostgreSQL for one database: its options, the user to run it as, and its environment."""

    options: list[str]
    user: str | None
    env: Mapping[str, str]
    name: str
    """The database argument: its name, or the URI of an external one."""

    def psql(self, statement: str) -> list[str]:
        """Return the command that runs a statement on this database and prints its bare rows."""
        command = ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", *self.options]
        return [*command, "-d", self.name, "-c", statement]


class Host(Protocol):
    """What provisioning, backup and restore do to the machine; tests pass a fake."""

    units: Path
    """Where drop-ins of the portal's units lie; they are made anew at each boot."""
    slices: Path
    """Where drop-ins of systemd's slices lie; they are in force from the beginning of a boot."""

    def run(self, argv: list[str], login: Login | None = None) -> CommandResult:
        """Run a command for at most 60 s, as the user and with the environment of `login`."""

    def pipe(
        self,
        argv: list[str],
        login: Login | None = None,
        stdin: OpenFile = None,
        stdout: OpenFile = None,
        inherited: tuple[int, ...] = (),
    ) -> CommandResult:
        """Run a command to its end, without a time limit; it reads from and writes to the open files, if any.

        It also gets the `inherited` descriptors, under the same numbers.
        """

    def give(self, place: Path | int, user: str, group: str, mode: int) -> None:
        """Set owner, group and mode of a path, or of an open file or folder, where they differ.

        Raises PeerRefusedError for an unknown user, LinkedError and OSError.
        """

    def hand_over(self, folder: Path, former: str, user: str, group: str, mode: int) -> None:
        """Give a folder and what is in it from one user to another. Raises PeerRefusedError for an unknown user."""

    def wait(self, seconds: float) -> None:
        """Wait."""


class SystemHost(Host):
    """The real machine. A command that cannot be started, or takes too long, has the status 127."""

    units = Path("/run/systemd/system")
    slices = Path("/etc/systemd/system")

    def run(self, argv: list[str], login: Login | None = None) -> CommandResult:
        return completed(argv, login, timeout=_SECONDS)

    def pipe(
        self,
        argv: list[str],
        login: Login | None = None,
        stdin: OpenFile = None,
        stdout: OpenFile = None,
        inherited: tuple[int, ...] = (),
    ) -> CommandResult:
        source, target = stdin or subprocess.DEVNULL, stdout or subprocess.PIPE
        return completed(argv, login, stdin=source, stdout=target, pass_fds=inherited)

    def give(self, place: Path | int, user: str, group: str, mode: int) -> None:
        if isinstance(place, Path):
            safe_folder.give(place, *_ids(user, group), mode)
        else:
            safe_folder.give_open(place, *_ids(user, group), mode)

    def hand_over(self, folder: Path, former: str, user: str, group: str, mode: int) -> None:
        handover.hand_over(folder, _ids(former, group)[0], *_ids(user, group), mode)

    def wait(self, seconds: float) -> None:
        clock.sleep(seconds)


def _ids(user: str, group: str) -> tuple[int, int]:
    """Return the numbers of a user and a group. Raises PeerRefusedError."""
    try:
        return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise PeerRefusedError(f"{error.args[0]}; run systemd-sysusers, then restart ddwd") from None


def completed(
    argv: list[str],
    login: Login | None = None,
    *,
    stdout: int | IO[bytes] = subprocess.PIPE,
    complaint_line: int = -1,
    **options: Any,
) -> CommandResult:
    """Run a command to its end, with further options of subprocess.run; the status is 127 if it cannot be started.

    `complaint_line` selects the line of standard error to show: the first one (0) or the last one (-1).
    """
    if login is not None:
        options["env"] = {**os.environ, **login.env}
        if login.user is not None and pwd.getpwnam(login.user).pw_uid != os.geteuid():
            options |= {"user": login.user, "group": login.user, "extra_groups": [], "cwd": "/"}
    try:
        done = subprocess.run(argv, stdout=stdout, stderr=subprocess.PIPE, check=False, **options)
    except (OSError, KeyError, subprocess.TimeoutExpired) as error:
        return CommandResult(127, "", str(error))
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    out = (done.stdout or b"").decode(errors="replace").strip()
    return CommandResult(done.returncode, out, lines[complaint_line] if lines else "")


def must(answer: CommandResult, who: str) -> CommandResult:
    """Return the result. Raises PeerRefusedError with the command's error if it failed."""
    if answer.status:
        raise PeerRefusedError(f"{who}: {answer.complaint or f'exit status {answer.status}'}")
    return answer
