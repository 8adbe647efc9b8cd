"""Read the parsers of the command line, for man pages, completion and the site: the verbs, and what a user may write after each."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple


class Verb(NamedTuple):
    """One verb of the command line, as argparse knows it; `actions` are the verbs below it."""

    name: str
    help: str
    parser: argparse.ArgumentParser
    actions: tuple[Any, ...] = ()


def verbs(parser: argparse.ArgumentParser) -> tuple[Verb, ...]:
    """The verbs of a parser, in their order."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {one.dest: one.help or "" for one in action._choices_actions}
            return tuple(
                Verb(name, helps.get(name, ""), below, verbs(below)) for name, below in action.choices.items()
            )
    return ()


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Everything a user may write after a verb, without --help."""
    shown = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
    return [action for action in shown if "--help" not in action.option_strings]
