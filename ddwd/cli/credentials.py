"""`ddwd credentials`: show the logins of both Orthancs' web pages; `rotate` replaces all passwords and restarts the portal."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace

from ddwd.cli.command import Argument, Command, VerbResult
from ddwd.config.schema import Config
from ddwd.core.audit import Audit, Event
from ddwd.core.errors import InvalidValueError, PeerRefusedError, StateError
from ddwd.core.model import VIEWER
from ddwd.provisioning import credentials
from ddwd.status import units

_EPILOG = """admin may do everything; viewer may look, search and download, and change nothing.
rotate gives every user of both Orthancs a new password, the portal's own included, and restarts the
portal: for some seconds the modalities are refused, and send again; nothing is lost.

exit status:
  0   shown, or changed and in use
  1   not changed, as you said
  64  wrong usage; without a terminal rotate needs --yes
  65  only root may change them
  76  changed, and the portal did not start with them: systemctl status 'ddwd*'
  78  the configuration cannot be used, or not by this user: root and group ddwd may look"""
_PEOPLE = {"admin": "everything", VIEWER: "looks only"}
_RESTART_SECONDS = 300


def _run(args: Namespace, config: Config) -> VerbResult:
    return _rotate(args, config) if args.action == "rotate" else _show(config)


def _show(config: Config) -> VerbResult:
    found = credentials.read(config.credentials_file)
    rows = [
        (node.aet, node.url, user, found.login(node.name, user)[1])
        for node in config.own_nodes
        for user in _PEOPLE
    ]
    names = ("aet", "url", "user", "password")
    return VerbResult(
        {"logins": [dict(zip(names, row, strict=True)) for row in rows]},
        [f"{aet:<16}  {url:<22}  {user:<7} {password}  {_PEOPLE[user]}" for aet, url, user, password in rows],
    )


def _rotate(args: Namespace, config: Config) -> VerbResult:
    path = config.credentials_file
    if not os.access(path.parent, os.W_OK):
        raise StateError(f"{path.parent} cannot be written by this user: run it with sudo")
    credentials.read(path)
    if not args.yes and not _agreed():
        return VerbResult({"changed": False}, ["nothing was changed"], status=1)
    credentials.rotate(path)
    Audit().record(
        Event.CONFIG_CHANGED, "the passwords of both Orthancs were changed", keys="credentials_file"
    )
    runs = units.is_active(units.systemctl, "ddwd.service")
    if runs:
        _say("new passwords are written; the portal restarts with them", args)
        _restart()
    line = "the new passwords are in use" if runs else "they come into use when ddwd starts"
    return VerbResult({"changed": True, "in_use": runs}, [line])


def _agreed() -> bool:
    """Ask at the terminal. Raises InvalidValueError without one."""
    if not sys.stdin.isatty():
        raise InvalidValueError("nobody can be asked here whether the portal may restart: add --yes")
    sys.stderr.write("Every password of both Orthancs changes, and the portal restarts. Go on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _say(text: str, args: Namespace) -> None:
    if not args.json:
        sys.stderr.write(f"{text}\n")


def _restart() -> None:
    """Restart ddwd.service: systemd stops and starts all units in their order, and each finishes the work in hand."""
    command = ["systemctl", "restart", "ddwd.service"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_RESTART_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerRefusedError(f"the passwords are changed; {' '.join(command)}: {error}") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it failed"])[0]
        raise PeerRefusedError(
            f"the passwords are changed, and the portal does not start with them: {said}; see: systemctl status ddwd"
        )


_ACTION = Argument(
    "action",
    nargs="?",
    choices=["show", "rotate"],
    default="show",
    help="show them (default), or make new ones and put them in use",
)
_YES = Argument("--yes", action="store_true", help="with rotate: do not ask before the restart")
COMMAND = Command(
    "credentials",
    "show the logins of the web pages, or give them new passwords",
    _run,
    (_ACTION, _YES),
    epilog=_EPILOG,
)
