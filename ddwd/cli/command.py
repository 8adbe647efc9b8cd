"""Declare a verb, run it, and write its result. `--json`, the layout of the help and the text output are decided only in this module.

A verb's file declares a Command, or a Group of Commands. Most of their functions return a VerbResult and are wrapped by `prints`. A failure is
raised as an error of core/errors.py, which has the exit status; main.py prints it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import textwrap
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ddwd.config.schema import Config
from ddwd.core.answers import Key, printed
from ddwd.core.clock import sleep
from ddwd.core.errors import StateError
from ddwd.status.formatting import GREEN, RED, YELLOW, is_coloured, painted, terminal_width

_HELP_WIDTH = 96
_WIDEST_TEXT = 120
_COLOURS = (GREEN, GREEN, YELLOW, RED)
"""By core.problem.Severity."""
_CLEAR_SCREEN = "\033[H\033[2J"
_EXITS = {64: "wrong usage", 78: "the configuration cannot be used"}
"""Exit statuses that every verb has, unless it describes them itself."""


@dataclass(frozen=True, slots=True)
class VerbResult:
    """The result of a verb, for programs and for people."""

    data: Mapping[str, Any]
    """For --json: the keys that the Command declares."""
    lines: Iterable[str]
    """The same as text, without line ends."""
    status: int = 0
    """0: done, and all is well; 1: the answer is no."""


class Marked(str):
    """A line of text that a terminal shows in the colour of a severity; of 0, in that of what is well."""

    __slots__ = ("severity",)
    severity: int

    @classmethod
    def of(cls, text: str, severity: int) -> Marked:
        """Return the line with its severity (core.problem.Severity)."""
        line = cls(text)
        line.severity = severity
        return line


class Argument:
    """One argument of a verb, as argparse.add_argument takes it."""

    def __init__(self, *names: str, **options: Any) -> None:
        self.names, self.options = names, options


def flag(name: str, help_text: str) -> Argument:
    """Return an argument without a value."""
    return Argument(name, action="store_true", help=help_text)


def count(text: str) -> int:
    """Parse a number of things, 0 or more. Raises ValueError, which argparse reports as wrong usage."""
    if (number := int(text)) < 0:
        raise ValueError
    return number


class OneOf:
    """Arguments of which at most one may be given; exactly one if it is required."""

    def __init__(self, *arguments: Argument, required: bool = True) -> None:
        self.arguments, self.required = arguments, required


_JSON = flag("--json", "print the result as JSON, with times in UTC")
_UTC = flag("--utc", "show times in UTC, not in local time")
STUDY = Argument("study", nargs="?", metavar="STUDY", help="StudyInstanceUID, accession number or Orthanc ID")
PATIENT = Argument("--patient", metavar="ID", help="every study of this PatientID")


@dataclass(frozen=True, slots=True)
class Command:
    """One verb, or one action of a verb."""

    name: str
    help: str
    run: Callable[[Namespace, Config, TextIO], int]
    """Write the result to the TextIO and return the exit status; see `prints`."""
    arguments: tuple[Argument | OneOf, ...] = ()
    about: str = ""
    """What the help says below the arguments."""
    exits: Mapping[int, str] = field(default_factory=dict)
    """What each exit status means, besides those of _EXITS."""
    needs_config: bool = True
    """Whether the settings are loaded first; without it, `run` gets None for them."""
    answer: tuple[Key, ...] = ()
    """What --json prints, besides `schema` and `well`."""

    def add_parser(self, verbs: argparse._SubParsersAction[argparse.ArgumentParser], group: str = "") -> None:
        """Declare the verb with its arguments; `group` is the verb of which it is an action."""
        parser = verbs.add_parser(self.name, help=self.help, **_layout(self))
        for one in (*self.arguments, _JSON, _UTC):
            if isinstance(one, OneOf):
                one_of = parser.add_mutually_exclusive_group(required=one.required)
                for each in one.arguments:
                    one_of.add_argument(*each.names, **each.options)
            else:
                parser.add_argument(*one.names, **one.options)
        name = f"{group}.{self.name}" if group else self.name
        parser.set_defaults(run=self.run, needs_config=self.needs_config, answers=name)


@dataclass(frozen=True, slots=True)
class Group:
    """A verb that consists of actions. The fields have the meaning of those of Command."""

    name: str
    help: str
    actions: tuple[Command, ...]
    about: str
    exits: Mapping[int, str]

    def add_parser(self, verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        """Declare the verb with its actions."""
        parser = verbs.add_parser(self.name, help=self.help, **_layout(self))
        actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
        for action in self.actions:
            action.add_parser(actions, self.name)


def _layout(verb: Command | Group) -> dict[str, Any]:
    """Return the end of the help: what the verb does, and its exit statuses."""
    text = _wrapped(verb.about)
    if verb.exits:
        text = f"{text}\n\nexit status:".lstrip()
        for status, meaning in sorted((_EXITS | dict(verb.exits)).items()):
            text += "\n" + textwrap.fill(
                meaning, _HELP_WIDTH, initial_indent=f"  {status:<4}", subsequent_indent=" " * 6
            )
    return {"epilog": text, "formatter_class": argparse.RawDescriptionHelpFormatter}


def _wrapped(text: str) -> str:
    """Return a text in lines of the help's width; empty and indented lines, as a list or an example has them, stay as they are."""
    pieces = []
    for is_running, lines in itertools.groupby(
        text.splitlines(), lambda line: bool(line.strip()) and line[0] != " "
    ):
        whole = "\n".join(lines)
        pieces.append(textwrap.fill(whole, _HELP_WIDTH, break_on_hyphens=False) if is_running else whole)
    return "\n".join(pieces)


def prints(verb: Callable[[Namespace, Config], VerbResult]) -> Callable[[Namespace, Config, TextIO], int]:
    """Return the `run` of a Command that writes the result of `verb` when it is complete."""
    return lambda args, config, out: show(verb(args, config), args, out)


def show(result: VerbResult, args: Namespace, out: TextIO) -> int:
    """Write the data as one line of JSON, or the lines; return the exit status."""
    if args.json:
        out.write(printed(args.answers, result.data, well=result.status == 0))
    else:
        coloured = is_coloured(out)
        out.writelines(f"{_shown(line) if coloured else line}\n" for line in result.lines)
    return result.status


def _shown(line: str) -> str:
    return painted(line, _COLOURS[line.severity]) if isinstance(line, Marked) else line


def width() -> int:
    """Return the columns that a table fills."""
    return terminal_width(sys.stdout)


def watch(
    look: Callable[[], VerbResult],
    seconds: float | None,
    args: Namespace,
    out: TextIO,
    *,
    to_end: bool = False,
) -> int:
    """Show the result once, or every `seconds` on a cleared screen: with `to_end` until its status is 0, else until Ctrl-C."""
    while True:
        result = look()
        if seconds is not None and out.isatty() and not args.json:
            out.write(_CLEAR_SCREEN)
        show(result, args, out)
        if seconds is None or (to_end and result.status == 0):
            return result.status
        out.flush()
        sleep(seconds)


def escaped(value: object) -> str:
    """Return printable text: a modality may have sent control sequences of a terminal."""
    return str(value).encode("unicode_escape").decode("ascii")


def wrapped(text: str, head: str, indent: int) -> list[str]:
    """Return the text as lines that begin with `head`, then with `indent` spaces; no wider than is read with ease."""
    return textwrap.wrap(
        text,
        min(width(), _WIDEST_TEXT),
        initial_indent=head,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


@contextmanager
def file_errors(at: Path | None = None) -> Iterator[None]:
    """Raise StateError for an OSError; `at` is named where the error names no file."""
    try:
        yield
    except PermissionError as error:
        raise StateError(f"{error.filename or at}: not for this user; run it with sudo") from error
    except OSError as error:
        raise StateError(f"{error.filename or at}: {error.strerror or error}") from error
