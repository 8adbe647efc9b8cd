"""Send an alert by mail (SMTP) or webhook (JSON over HTTP), each with a bounded wait. Raises PeerDownError."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from functools import partial
from typing import TYPE_CHECKING

import requests

from ddwd.core.errors import PeerDownError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddwd.config.loader import Config, Mail
    from ddwd.monitoring.alerts import Message

_SECONDS = 20.0
_FIRST_ERROR = 400


def mail(settings: Mail, message: Message) -> None:
    """Send the message by SMTP, over TLS according to the settings; the server's certificate is verified."""
    out = EmailMessage()
    out["Subject"] = f"[ddwd] {message.subject}"[:200]
    out["From"], out["To"] = settings.sender, settings.recipient
    out.set_content(message.body)
    context, host = ssl.create_default_context(), settings.server or ""
    try:
        if settings.tls == "tls":
            with smtplib.SMTP_SSL(host, settings.port, timeout=_SECONDS, context=context) as server:
                _hand_over(server, settings, out)
            return
        with smtplib.SMTP(host, settings.port, timeout=_SECONDS) as server:
            if settings.tls == "starttls":
                server.starttls(context=context)
            _hand_over(server, settings, out)
    except (OSError, smtplib.SMTPException) as error:
        raise PeerDownError(f"mail server {settings.server}:{settings.port}: {_why(error)}") from error


def _hand_over(server: smtplib.SMTP, settings: Mail, out: EmailMessage) -> None:
    if settings.user:
        server.login(settings.user, settings.password or "")
    server.send_message(out)


def _why(error: Exception) -> str:
    """Return the server's status code if there is one, else the type of the error; never the login."""
    code = getattr(error, "smtp_code", None)
    return f"answered {code}" if code else type(error).__name__


def webhook(url: str, message: Message) -> None:
    """POST the message as JSON: at, subject, standing, over."""
    body = {
        "at": message.at,
        "subject": message.subject,
        "standing": list(message.standing),
        "over": list(message.over),
    }
    with requests.Session() as session:
        session.trust_env = False  # a proxy of the environment is not the operator's choice
        try:
            answer = session.post(url, json=body, timeout=_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            raise PeerDownError(f"webhook: {type(error).__name__}") from error
    if answer.status_code >= _FIRST_ERROR:
        raise PeerDownError(f"webhook: HTTP {answer.status_code}")


def channels(config: Config) -> dict[str, Callable[[Message], None]]:
    """Return how alerts leave this machine, as configured, by name."""
    found: dict[str, Callable[[Message], None]] = {}
    if config.mail.server:
        found["mail"] = partial(mail, config.mail)
    if config.alerts.webhook:
        found["webhook"] = partial(webhook, config.alerts.webhook)
    return found
