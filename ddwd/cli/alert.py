"""`ddwd alert`: send a test message every way that alerts go, and say what the other side answered. Writes nothing."""

from __future__ import annotations

import json
from argparse import RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, TextIO

from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import DdwdError
from ddwd.monitoring.alerts import Message
from ddwd.monitoring.notifiers import channels

if TYPE_CHECKING:
    import argparse

    from ddwd.config.loader import Config

_EPILOG = """Alerts are sent by ddwd-monitor, by mail and to a webhook, as far as mail.server and
alerts.webhook are set in ddwd.yaml. This sends one at once that says it is a test.

exit status:
  0   every way took the message
  1   a way did not, or none is set
  64  wrong usage
  78  the configuration cannot be used"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb and its arguments."""
    parser = subparsers.add_parser(
        "alert",
        help="send a test alert by mail and webhook",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config, out: TextIO) -> int:
    """Send; the exit status."""
    message = Message(stamp(SystemClock().utc()), ("this is a test of the alerts: nothing is wrong",), ())
    answers = {}
    for name, send in channels(config).items():
        try:
            send(message)
            answers[name] = "sent"
        except DdwdError as error:
            answers[name] = str(error)
    if args.json:
        out.write(json.dumps(answers) + "\n")
    elif not answers:
        out.write("no way is set: mail.server and alerts.webhook in ddwd.yaml\n")
    out.writelines(() if args.json else (f"{name}: {answer}\n" for name, answer in answers.items()))
    return 0 if answers and set(answers.values()) == {"sent"} else 1
