"""`ddwd VERB ...`: the parser, the one line of an error, and the exit status. Each verb is declared in a file of this folder.

Exit status of every verb: 0 done; 1 the answer is no (each verb says what that means); 64 usage or a bad value; 65 a state file
cannot be used, or not by this user; 66 not found; 69 a peer does not answer; 78 the configuration cannot be used.
"""

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from ddwd import __version__
from ddwd.cli.command import Command, Group
from ddwd.config.loader import load
from ddwd.config.schema import ROLES, Config, Role
from ddwd.core.errors import DdwdError, NotFoundError
from ddwd.status.formatting import show_utc

_VERBS = (
    *("status", "doctor", "studies", "trace", "logs", "verify", "prove"),
    *("reconcile", "retry", "retention", "pause", "resume", "quarantine"),
    *("routes", "destinations", "hooks", "echo", "send", "alert"),
    *("credentials", "tls", "link", "config", "support-bundle", "backup", "restore", "try"),
)
"""In the order of the help. Only the module of the verb that runs is imported: all of them take longer than most verbs do."""
_DECLARED: Mapping[str, str] = {
    "pause": "pause.PAUSE",
    "resume": "pause.RESUME",
    "tls": "tls.TLS",
    "link": "tls.LINK",
    "support-bundle": "support_bundle.COMMAND",
    "backup": "backup.BACKUP",
    "restore": "backup.RESTORE",
    "try": "try_.COMMAND",
}
"""Verb -> where it is declared, if that is not COMMAND in the module of its name."""
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


def verbs(only: str | None = None) -> Iterator[Command | Group]:
    """Yield the declarations of all verbs, or of one."""
    for verb in (only,) if only else _VERBS:
        module, _, name = _DECLARED.get(verb, f"{verb}.COMMAND").partition(".")
        yield getattr(importlib.import_module(f"ddwd.cli.{module}"), name)


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line, or of one verb; man page and completion are generated from the whole."""
    top: argparse.ArgumentParser = _Parser(
        prog="ddwd",
        description="D-DW-D Portal: moves DICOM studies and records their custody.",
        epilog=_EPILOG,
    )
    top.add_argument("--version", action="version", version=f"ddwd {__version__}")
    choices = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in verbs(only):
        verb.add_parser(choices)
    return top


def _require(verb: str, settings: Config) -> None:
    """Raise NotFoundError for a verb whose part runs on another machine."""
    if missing := [role for role in _NEEDED.get(verb, ()) if not settings.has(role)]:
        raise NotFoundError(
            f"{' and '.join(missing)} not on this machine (roles in ddwd.yaml): run {verb} on the machine that has it"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return its exit status."""
    words = sys.argv[1:] if argv is None else argv
    args = parser(words[0] if words and words[0] in _VERBS else None).parse_args(words)
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
