"""Send alerts by mail (SMTP) and webhook (JSON over HTTP), each channel from a queue and in a thread of its own.

The queues are bounded: the oldest messages are dropped, since the newest describe the present state. A restart of the monitor loses
queued messages, not conditions: those that still hold are reported again.
"""

from __future__ import annotations

import logging
import queue
import smtplib
import ssl
import threading
from dataclasses import asdict
from email.message import EmailMessage
from functools import partial
from typing import TYPE_CHECKING

import requests

from ddwd.core.errors import DdwdError, PeerDownError
from ddwd.core.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddwd.config.schema import Config, Mail
    from ddwd.monitoring.alerts import Message

log = logging.getLogger("ddwd.monitoring")

_SECONDS = 20.0
_TAKEN = range(200, 300)
"""HTTP statuses of a message that was accepted; a redirection, which is not followed, is none."""
_MOST_QUEUED = 20
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 30.0, 1800.0
_MOST_TRIES = 105
"""About two days: after that the message is dropped."""


def channels(config: Config) -> dict[str, Callable[[Message], None]]:
    """Return the configured channels by name; each sends a message, or raises PeerDownError."""
    found: dict[str, Callable[[Message], None]] = {}
    if config.mail.server:
        found["mail"] = partial(mail, config.mail)
    if config.alerts.webhook:
        found["webhook"] = partial(webhook, config.alerts.webhook)
    return found


def mail(settings: Mail, message: Message) -> None:
    """Send the message by SMTP, over TLS according to the settings; the server's certificate is verified. Raises PeerDownError."""
    out = EmailMessage()
    out["Subject"] = f"[ddwd] {message.subject}"[:200]
    out["From"], out["To"] = settings.sender, settings.recipient
    out.set_content(message.body)
    context = ssl.create_default_context()
    connect = partial(smtplib.SMTP_SSL, context=context) if settings.tls == "tls" else smtplib.SMTP
    try:
        with connect(settings.server or "", settings.port, timeout=_SECONDS) as server:
            if settings.tls == "starttls":
                server.starttls(context=context)
            if settings.user:
                server.login(settings.user, settings.password or "")
            server.send_message(out)
    except (OSError, smtplib.SMTPException) as error:
        code = getattr(error, "smtp_code", None)  # never the text of the error, which may hold the login
        reason = f"answered {code}" if code else type(error).__name__
        raise PeerDownError(f"mail server {settings.server}:{settings.port}: {reason}") from error


def webhook(url: str, message: Message) -> None:
    """POST the message as JSON: at, subject, standing, over. Raises PeerDownError."""
    body = asdict(message) | {"subject": message.subject}
    with requests.Session() as session:
        session.trust_env = False  # a proxy of the environment is not the operator's choice
        try:
            answer = session.post(url, json=body, timeout=_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            raise PeerDownError(f"webhook: {type(error).__name__}") from error
    if answer.status_code not in _TAKEN:
        raise PeerDownError(f"webhook: HTTP {answer.status_code}")


class Outbox:
    """The queue of one channel; `put` never waits."""

    def __init__(self, name: str, send: Callable[[Message], None]) -> None:
        self._name = name
        self._send = send
        self._waiting: queue.Queue[Message] = queue.Queue(_MOST_QUEUED)
        self._stopping = threading.Event()
        threading.Thread(target=self._run, name=f"ddwd-{name}", daemon=True).start()

    def put(self, message: Message) -> None:
        """Queue the message."""
        while True:
            try:
                self._waiting.put_nowait(message)
            except queue.Full:
                self._waiting.get_nowait()
            else:
                return

    def stop(self) -> None:
        """End soon, without waiting for queued messages."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                message = self._waiting.get(timeout=1.0)
            except queue.Empty:
                continue
            self._deliver(message)

    def _deliver(self, message: Message) -> None:
        """Retry until the message is accepted, or the monitor stops."""
        backoff = Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
        while backoff.failures < _MOST_TRIES:
            try:
                self._send(message)
            except DdwdError as error:
                seconds = backoff.failed()
                log.warning("%s: not sent; next try in %.0f s: %s", self._name, seconds, error)
            else:
                return
            if self._stopping.wait(seconds):
                return
