"""`ddwd credentials`: show the logins of both Orthancs' web pages; `rotate` replaces all passwords and restarts the portal."""

import os
import subprocess
import sys
from argparse import Namespace
from typing import TypedDict

from ddwd.cli.command import Argument, Command, VerbResult, flag, prints
from ddwd.config.schema import Config
from ddwd.core.answers import sometimes
from ddwd.core.audit import Audit, Event
from ddwd.core.errors import InvalidValueError, PeerRefusedError, StateError
from ddwd.core.model import VIEWER
from ddwd.provisioning import credentials
from ddwd.status import units

_RIGHTS = {"admin": "full access", VIEWER: "read only"}
_RESTART_SECONDS = 300


class _Login(TypedDict):
    aet: str
    url: str
    user: str
    password: str


def _run(args: Namespace, config: Config) -> VerbResult:
    return _rotate(args, config) if args.action == "rotate" else _show(config)


def _show(config: Config) -> VerbResult:
    found = credentials.read(config.credentials_file)
    rows: list[_Login] = [
        {"aet": node.aet, "url": node.url, "user": user, "password": found.login(node.name, user)[1]}
        for node in config.own_nodes
        for user in _RIGHTS
    ]
    return VerbResult(
        {"logins": rows},
        ["{aet:<16}  {url:<22}  {user:<7} {password}  ".format(**row) + _RIGHTS[row["user"]] for row in rows],
    )


def _rotate(args: Namespace, config: Config) -> VerbResult:
    path = config.credentials_file
    if not os.access(path.parent, os.W_OK):
        raise StateError(f"{path.parent} cannot be written by this user: run it with sudo")
    credentials.read(path)
    if not args.yes and not _is_confirmed():
        return VerbResult({"changed": False}, ["the passwords are unchanged"], status=1)
    credentials.rotate(path)
    Audit().record(
        Event.CONFIG_CHANGED, "the passwords of both Orthancs were changed", keys="credentials_file"
    )
    is_running = units.is_active(units.systemctl, "ddwd.service")
    if is_running:
        if not args.json:
            sys.stderr.write("the new passwords are written; the portal restarts with them\n")
        _restart()
    line = "the new passwords are in use" if is_running else "the new passwords are used when ddwd starts"
    return VerbResult({"changed": True, "in_use": is_running}, [line])


def _is_confirmed() -> bool:
    """Ask at the terminal. Raises InvalidValueError without one."""
    if not sys.stdin.isatty():
        raise InvalidValueError("there is no terminal to confirm the restart of the portal: add --yes")
    sys.stderr.write("Every password of both Orthancs changes, and the portal restarts. Go on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _restart() -> None:
    """Restart ddwd.service: systemd stops and starts all units in their order, and each finishes the work in hand."""
    command = ["systemctl", "restart", "ddwd.service"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_RESTART_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerRefusedError(f"the passwords are changed; {' '.join(command)}: {error}") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it failed"])[0]
        raise PeerRefusedError(
            f"the passwords are changed, and the portal does not start with them: {reason}; see: systemctl status ddwd"
        )


COMMAND = Command(
    "credentials",
    "show the logins of the web pages, or replace their passwords",
    prints(_run),
    (
        Argument(
            "action",
            nargs="?",
            choices=["show", "rotate"],
            default="show",
            help="show the logins (default), or replace every password",
        ),
        flag("--yes", "with rotate: restart without a question"),
    ),
    about="""admin has full access; viewer may view, search and download, and cannot change anything.
rotate gives every user of both Orthancs a new password, the portal's own user included, and restarts
the portal. For some seconds it refuses the modalities, which send again; no image is lost.""",
    exits={
        0: "shown, or changed and in use",
        1: "not changed, as you answered",
        64: "wrong usage; without a terminal rotate needs --yes",
        65: "only root may change the passwords",
        76: "changed, but the portal did not start with them: systemctl status 'ddwd*'",
        78: "the configuration cannot be used; only root and group ddwd may read it",
    },
    answer=(
        sometimes("logins", list[_Login], "show: the logins of both Orthancs"),
        sometimes("changed", bool, "rotate: whether the passwords were changed"),
        sometimes("in_use", bool, "rotate: whether the portal runs with the new ones"),
    ),
)
