"""Alerts leave by mail and webhook: to a real mail server and a real web server on the loopback."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller

from ddwd.config.schema import Mail
from ddwd.core.errors import PeerDownError
from ddwd.monitoring import notifiers
from ddwd.monitoring.alerts import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE = Message("2026-01-02T03:04:05.000Z", ("ddwd-scp is failed",), ("the disk is short of room",))


class _Inbox:
    def __init__(self) -> None:
        self.mails: list[str] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.mails.append(envelope.content.decode())
        return "250 taken"


@pytest.fixture
def inbox() -> Iterator[tuple[_Inbox, int]]:
    handler = _Inbox()
    with socket.socket() as free:  # the server asks for a number
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    yield handler, port
    controller.stop()


def test_a_mail_says_what_is_wrong_and_what_is_over(inbox: tuple[_Inbox, int]) -> None:
    handler, port = inbox
    settings = Mail(
        server="127.0.0.1", port=port, tls="none", sender="ddwd@example.org", recipient="it@example.org"
    )
    notifiers.mail(settings, MESSAGE)
    (mail,) = handler.mails
    assert "Subject: [ddwd] ddwd-scp is failed" in mail
    assert "! ddwd-scp is failed" in mail
    assert "over: the disk is short of room" in mail


@pytest.mark.parametrize("tls", ["starttls", "tls", "none"])
def test_a_mail_server_that_is_away_or_without_tls_is_one_clear_line(
    inbox: tuple[_Inbox, int], tls: str
) -> None:
    port = 1 if tls == "none" else inbox[1]
    with pytest.raises(PeerDownError, match=f"mail server 127.0.0.1:{port}: ") as raised:
        notifiers.mail(
            Mail(server="127.0.0.1", port=port, tls=tls, user="u", password="hunter2"),  # noqa: S106 - of nobody
            MESSAGE,
        )
    assert "hunter2" not in str(raised.value)
    assert inbox[0].mails == []


class _Hook(BaseHTTPRequestHandler):
    received: list[Any]
    status = 200

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.received.append(json.loads(self.rfile.read(length)))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Quiet."""


@pytest.fixture(params=[200, 301, 500])
def hook(request: pytest.FixtureRequest) -> Iterator[tuple[type[_Hook], str]]:
    handler = type("Hook", (_Hook,), {"received": [], "status": request.param})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_address[1]}/alerts"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_gets_the_whole_message_and_its_refusal_is_told(hook: tuple[type[_Hook], str]) -> None:
    handler, url = hook
    if handler.status == 200:
        notifiers.webhook(url, MESSAGE)
    else:
        with pytest.raises(PeerDownError, match=f"HTTP {handler.status}"):
            notifiers.webhook(url, MESSAGE)
    assert handler.received == [
        {
            "at": MESSAGE.at,
            "subject": "ddwd-scp is failed",
            "standing": ["ddwd-scp is failed"],
            "over": ["the disk is short of room"],
        }
    ]
