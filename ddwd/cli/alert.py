"""`ddwd alert`: send a test message by every configured notifier and report each answer. Writes nothing."""

from __future__ import annotations

from argparse import Namespace

from ddwd.cli.command import Command, VerbResult
from ddwd.config.schema import Config
from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import DdwdError
from ddwd.monitoring.alerts import Message
from ddwd.monitoring.notifiers import channels

_EPILOG = """Alerts are sent by ddwd-monitor, by mail and to a webhook, as far as mail.server and
alerts.webhook are set in ddwd.yaml. This sends one at once that says it is a test.

exit status:
  0   every way took the message
  1   a way did not, or none is set
  64  wrong usage
  78  the configuration cannot be used"""


def _send(_args: Namespace, config: Config) -> VerbResult:
    message = Message(stamp(SystemClock().utc()), ("this is a test of the alerts: nothing is wrong",), ())
    answers = {}
    for name, send in channels(config).items():
        try:
            send(message)
            answers[name] = "sent"
        except DdwdError as error:
            answers[name] = str(error)
    lines = [f"{name}: {answer}" for name, answer in answers.items()]
    sent = bool(answers) and set(answers.values()) == {"sent"}
    none = "no way is set: mail.server and alerts.webhook in ddwd.yaml"
    return VerbResult(answers, lines or [none], 0 if sent else 1)


COMMAND = Command("alert", "send a test alert by mail and webhook", _send, epilog=_EPILOG)
