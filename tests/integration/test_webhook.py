"""The webhook of a rule, at a real HTTP server."""

from __future__ import annotations

import http.server
import json
import threading
from typing import TYPE_CHECKING

import pytest

from ddwd.hooks.dispatcher import Hook, HookFailedError, run_hook
from tests.unit.test_hooks import NOTICE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Ris(http.server.BaseHTTPRequestHandler):
    """Answers with the status in its path."""

    bodies: list[bytes] = []  # noqa: RUF012 - the class is the server's state here

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(int(self.path.strip("/").partition("?")[0]))
        if "nowhere" not in self.path:
            self.send_header("Location", "/200")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture
def ris() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Ris)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_gets_the_notice_as_json(ris: str, tmp_path: Path) -> None:
    run_hook(Hook(None, f"{ris}/204", 60.0), NOTICE, tmp_path / "said.txt", threading.Event())
    assert json.loads(_Ris.bodies.pop())["study_uid"] == "1.2.3"


def test_a_redirection_to_nowhere_is_no_success(ris: str, tmp_path: Path) -> None:
    hook = Hook(None, f"{ris}/301?nowhere", 60.0)
    with pytest.raises(HookFailedError, match="HTTP 301"):
        run_hook(hook, NOTICE, tmp_path / "said.txt", threading.Event())


def test_a_proxy_of_the_environment_does_not_get_the_notice(
    ris: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    run_hook(Hook(None, f"{ris}/204", 60.0), NOTICE, tmp_path / "said.txt", threading.Event())


@pytest.mark.parametrize("status", [500, 404, 302])
def test_a_webhook_that_does_not_take_it_is_told_by_its_host_alone(
    ris: str, tmp_path: Path, status: int
) -> None:
    with pytest.raises(HookFailedError) as caught:
        run_hook(
            Hook(None, f"{ris}/{status}?token=SECRET", 60.0), NOTICE, tmp_path / "said.txt", threading.Event()
        )
    assert str(caught.value) == f"the webhook at 127.0.0.1 answered HTTP {status}"


def test_a_webhook_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        HookFailedError, match=r"the webhook at 127\.0\.0\.1 does not answer .ConnectionError"
    ):
        run_hook(Hook(None, "http://127.0.0.1:1/x", 1.0), NOTICE, tmp_path / "said.txt", threading.Event())
