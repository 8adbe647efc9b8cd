"""`ddwd VERB ...`: the parser, the one line of an error, and the exit status. Each verb is declared in a file of this folder.

Exit status of every verb: 0 done; 1 the answer is no (each verb says what that means); 64 usage or a bad value; 65 a state file
cannot be used, or not by this user; 66 not found; 69 a peer does not answer; 78 the configuration cannot be used.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ddwd import __version__
from ddwd.cli import (
    alert,
    backup,
    config,
    credentials,
    destinations,
    doctor,
    echo,
    hooks,
    logs,
    pause,
    prove,
    quarantine,
    reconcile,
    retention,
    retry,
    routes,
    send,
    status,
    studies,
    support_bundle,
    tls,
    trace,
    try_,
    verify,
)
from ddwd.config.loader import load
from ddwd.config.schema import ROLES, Config, Role
from ddwd.core.errors import DdwdError, NotFoundError
from ddwd.status.formatting import show_utc

_VIEW = (
    status.COMMAND,
    doctor.COMMAND,
    studies.COMMAND,
    trace.COMMAND,
    logs.COMMAND,
    verify.COMMAND,
    prove.COMMAND,
)
_STUDIES = (
    reconcile.COMMAND,
    retry.COMMAND,
    retention.COMMAND,
    pause.PAUSE,
    pause.RESUME,
    quarantine.COMMAND,
)
_HOPS = (
    routes.COMMAND,
    destinations.COMMAND,
    hooks.COMMAND,
    echo.COMMAND,
    send.COMMAND,
    alert.COMMAND,
)
_SETUP = (credentials.COMMAND, tls.TLS, tls.LINK, config.COMMAND, support_bundle.COMMAND)
_WHOLE = (backup.BACKUP, backup.RESTORE, try_.COMMAND)
VERBS = (*_VIEW, *_STUDIES, *_HOPS, *_SETUP, *_WHOLE)
_NEEDED: Mapping[str, tuple[Role, ...]] = {
    **dict.fromkeys(
        (
            "trace",
            "verify",
            "prove",
            "reconcile",
            "retry",
            "retention",
            "pause",
            "resume",
            "quarantine",
            "hooks",
        ),
        ("extractor",),
    ),
    **dict.fromkeys(("backup", "restore"), ROLES),
    "destinations": ("gateway",),
}
"""The roles that the machine must have for a verb."""
_EPILOG = """exit status: 0 done, 1 the answer is no, 64 usage, 65 not for this user, 66 not found,
69 a peer does not answer, 74 no room, 76 a peer refuses, 78 the configuration cannot be used;
`ddwd VERB --help` says what 1 means for that verb"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Write what is wrong and how to find help; exit with EX_USAGE of sysexits.h."""
        self.exit(os.EX_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Name the word that was probably meant instead of all that there are."""
        if action.choices is not None and value not in action.choices:
            near = difflib.get_close_matches(str(value), map(str, action.choices), 1)
            hint = (
                f"did you mean: {near[0]}" if near else f"it is one of: {', '.join(map(str, action.choices))}"
            )
            raise argparse.ArgumentError(action, f"{value!r} is not known; {hint}")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; man page and completion are generated from it."""
    top: argparse.ArgumentParser = _Parser(
        prog="ddwd",
        description="D-DW-D Portal: moves DICOM studies and records their custody.",
        epilog=_EPILOG,
    )
    top.add_argument("--version", action="version", version=f"ddwd {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add_parser(verbs)
    return top


def _require(verb: str, settings: Config) -> None:
    """Raise NotFoundError for a verb whose part runs on another machine."""
    if missing := [role for role in _NEEDED.get(verb, ()) if not settings.has(role)]:
        raise NotFoundError(
            f"{' and '.join(missing)} not on this machine (roles in ddwd.yaml): run {verb} on the machine that has it"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return its exit status."""
    args = parser().parse_args(argv)
    if args.utc:
        show_utc()
    try:
        settings = load() if args.needs_config else None
        if settings is not None:
            _require(args.verb, settings)
        exit_status: int = args.run(args, settings, sys.stdout)
        sys.stdout.flush()
    except DdwdError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"ddwd: {line}\n")
        return error.exit_status
    except KeyboardInterrupt:
        return 130  # as a shell reports SIGINT
    except BrokenPipeError:  # the reader of the pipe has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return exit_status


if __name__ == "__main__":
    sys.exit(main())
