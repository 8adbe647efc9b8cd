"""`ddwd alert`: send a test message by every configured notifier and report each answer. Writes nothing."""

from argparse import Namespace

from ddwd.cli.command import Command, VerbResult, prints
from ddwd.config.schema import Config
from ddwd.core.answers import Key
from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import DdwdError
from ddwd.monitoring.alerts import Message
from ddwd.monitoring.notifiers import channels


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
    none = "no notifier is configured: set mail.server or alerts.webhook in ddwd.yaml"
    return VerbResult({"notifiers": answers}, lines or [none], 0 if set(answers.values()) == {"sent"} else 1)


COMMAND = Command(
    "alert",
    "send a test alert by mail and webhook",
    prints(_send),
    about="""ddwd-monitor sends alerts by mail and to a webhook, where mail.server and alerts.webhook are set
in ddwd.yaml. This verb sends a message at once that says that it is a test.""",
    exits={
        0: "every notifier sent the message",
        1: "a notifier failed, or none is configured",
    },
    answer=(Key("notifiers", dict[str, str], "mail, webhook: `sent`, or why it failed"),),
)
