"""Declare a verb, run it, and write its result: `--json`, help layout, text output and exit status are decided here alone.

A verb's file declares one Command: name, help, arguments, and a function that returns a VerbResult. A failure is raised as one of the error
tree (core/errors.py), which has the exit status; main.py prints it.
"""

from __future__ import annotations

import argparse
import json
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ddwd.config.schema import Config
from ddwd.core.errors import StateError

OBJECT = "print the result as one JSON object"
LIST = "print the result as JSON"
SAME = "print the same as one JSON object"
CLEAR_SCREEN = "\033[H\033[2J"


@dataclass(frozen=True, slots=True)
class VerbResult:
    """The result of a verb, for programs and for people."""

    data: object
    """For --json: anything that json.dumps takes."""
    lines: Iterable[str]
    """The same as text, without line ends."""
    status: int = 0
    """0: done; 1: the answer is no."""


class Argument:
    """One argument of a verb, in the words of argparse.add_argument."""

    def __init__(self, *names: str, **options: Any) -> None:
        self.names, self.options = names, options


@dataclass(frozen=True, slots=True)
class OneOf:
    """Arguments of which at most one may be given; exactly one if it is required."""

    arguments: tuple[Argument, ...]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Command:
    """One verb, or one action of a verb. It has one of `run`, `run_live` and `actions`."""

    name: str
    help: str
    run: Callable[[argparse.Namespace, Config], VerbResult] | None = None
    arguments: tuple[Argument | OneOf, ...] = ()
    epilog: str | None = None
    actions: tuple[Command, ...] = ()
    run_live: Callable[[argparse.Namespace, Config, TextIO], int] | None = None
    """For a verb whose result is long, or that goes on until it is stopped: it writes as it goes and returns the exit status."""
    needs_config: bool = True
    """Whether the settings are loaded first; without it, `run` gets None for them."""
    action: str = "action"
    """What the usage line calls the actions."""
    json_help: str = OBJECT
    json_first: bool = False
    """Whether --json is listed before the arguments, not after them."""

    def add_parser(self, subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        """Declare the verb with its arguments and actions."""
        layout: dict[str, Any] = (
            {"epilog": self.epilog, "formatter_class": RawDescriptionHelpFormatter} if self.epilog else {}
        )
        parser = subparsers.add_parser(self.name, help=self.help, **layout)
        if self.actions:
            below = parser.add_subparsers(dest=self.action, metavar=self.action.upper(), required=True)
            for action in self.actions:
                action.add_parser(below)
            return
        as_json = (Argument("--json", action="store_true", help=self.json_help),)
        for one in as_json + self.arguments if self.json_first else self.arguments + as_json:
            _add(parser, one)
        parser.set_defaults(run=self.execute, needs_config=self.needs_config)

    def execute(self, args: argparse.Namespace, config: Config, out: TextIO) -> int:
        """Run the verb and write its result; the exit status."""
        if self.run_live is not None:
            return self.run_live(args, config, out)
        if self.run is None:
            raise NotImplementedError(self.name)
        return show(self.run(args, config), out, as_json=args.json)


def _add(parser: argparse.ArgumentParser, argument: Argument | OneOf) -> None:
    if isinstance(argument, Argument):
        parser.add_argument(*argument.names, **argument.options)
        return
    group = parser.add_mutually_exclusive_group(required=argument.required)
    for one in argument.arguments:
        group.add_argument(*one.names, **one.options)


def show(result: VerbResult, out: TextIO, *, as_json: bool) -> int:
    """Write the result; return its exit status."""
    writer = write_json if as_json else write_text
    writer(result, out)
    return result.status


def write_json(result: VerbResult, out: TextIO) -> None:
    """Write the data as one line of JSON."""
    out.write(json.dumps(result.data) + "\n")


def write_text(result: VerbResult, out: TextIO) -> None:
    """Write each line."""
    out.writelines(f"{line}\n" for line in result.lines)


@contextmanager
def file_errors(denied: str = "", *, at: Path | None = None) -> Iterator[None]:
    """Raise StateError for an OSError. With `denied`, only for a PermissionError, and with that text.

    `at` is named where the error names no file.
    """
    try:
        yield
    except PermissionError as error:
        raise StateError(denied or f"{error.filename}: not for this user; run it with sudo") from error
    except OSError as error:
        if denied:
            raise
        raise StateError(f"{error.filename or at}: {error.strerror or error}") from error
