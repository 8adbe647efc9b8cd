"""What an Orthanc that accepts connections and never answers costs its callers; over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from ddwd.core import watchdog
from ddwd.core.errors import PeerDownError
from ddwd.core.model import OrthancId
from ddwd.orthanc import transport
from ddwd.orthanc.client import Orthanc

if TYPE_CHECKING:
    from collections.abc import Iterator

SILENCE = 0.5
PROBE = 0.3
CONNECT = 3.0
LONG = 3600.0
"""Longer than any test: where the client's patience or the pause is not what the test is about."""


class Server(ThreadingHTTPServer):
    """An Orthanc that answers `/changes?last`, or hangs when told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hangs = False
        self.drops = 0
        self.asked: list[str] = []
        self.released = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """One answer to everything."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.hangs:
            self.server.released.wait()
        if self.server.drops:
            self.server.drops -= 1
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = b'{"Last": 7}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose client has little patience."""
    for name, seconds in (
        ("_SILENCE_SECONDS", SILENCE),
        ("_FILE_SILENCE_SECONDS", 2 * SILENCE),
        ("_PROBE_SECONDS", PROBE),
        ("_PAUSE_SECONDS", LONG),
        ("_SLOW_SECONDS", 0.2),
    ):
        monkeypatch.setattr(transport, name, seconds)
    monkeypatch.setattr(Orthanc._request, "__kwdefaults__", {"silence": SILENCE})
    running = Server()
    threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    yield running
    running.released.set()
    running.shutdown()
    running.server_close()


def client(server: Server, waits: list[float] | None = None) -> Orthanc:
    watchdog.install((waits if waits is not None else []).append)
    return Orthanc("storage", f"http://127.0.0.1:{server.server_port}", "u", "p")


def seconds_of(orthanc: Orthanc) -> float:
    start = time.monotonic()
    with pytest.raises(PeerDownError):
        orthanc.last_seq()
    return time.monotonic() - start


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client wait for as long as a busy machine takes to answer."""
    for name in ("_FILE_SILENCE_SECONDS", "_PROBE_SECONDS", "_SLOW_SECONDS"):
        monkeypatch.setattr(transport, name, LONG)
    monkeypatch.setattr(Orthanc._request, "__kwdefaults__", {"silence": LONG})


def test_every_wait_is_declared_and_ended(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)
    monkeypatch.setattr(transport, "_FILE_SILENCE_SECONDS", 2 * LONG)
    waits: list[float] = []
    assert client(server, waits).last_seq() == 7
    assert waits[0] == pytest.approx(CONNECT + LONG)
    assert waits[-1] == 0.0
    waits.clear()
    client(server, waits).file(OrthancId("x"))
    assert waits[0] == pytest.approx(CONNECT + 2 * LONG)


def test_the_first_caller_waits_once_and_the_others_not_at_all(server: Server) -> None:
    server.hangs = True
    waits: list[float] = []
    orthanc = client(server, waits)
    assert seconds_of(orthanc) >= SILENCE
    assert waits == [pytest.approx(CONNECT + SILENCE), 0.0]  # once, and not again for a second try
    for _ in range(100):
        seconds_of(orthanc)
    assert len(waits) == 2
    assert len(server.asked) == 1


def test_after_a_pause_one_caller_asks_something_short(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hangs = True
    waits: list[float] = []
    orthanc = client(server, waits)
    hang_with_no_pause(orthanc, monkeypatch)
    waits.clear()
    took: list[float] = []
    callers = [threading.Thread(target=lambda: took.append(seconds_of(orthanc))) for _ in range(5)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert max(took) >= PROBE
    assert waits == [pytest.approx(CONNECT + PROBE), 0.0]  # of one of them; the others did not wait at all
    assert server.asked[1:] == ["/changes?last"]


def hang_with_no_pause(orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it find out that its server hangs, and be due to ask again at once."""
    with monkeypatch.context() as at_once:
        at_once.setattr(transport, "_PAUSE_SECONDS", 0.0)
        seconds_of(orthanc)


def test_it_is_asked_again_once_it_answers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.hangs = True
    orthanc = client(server)
    hang_with_no_pause(orthanc, monkeypatch)
    server.hangs = False
    server.released.set()
    patient(monkeypatch)
    assert orthanc.last_seq() == 7
    assert orthanc.last_seq() == 7


def test_a_refused_connection_costs_nothing_and_closes_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient(monkeypatch)
    waits: list[float] = []
    watchdog.install(waits.append)
    orthanc = Orthanc("storage", "http://127.0.0.1:9", "u", "p")
    assert seconds_of(orthanc) < CONNECT  # no time-out was waited out
    assert seconds_of(orthanc) < CONNECT
    assert waits == [pytest.approx(CONNECT + LONG), 0.0] * 2


def test_a_dropped_keep_alive_connection_is_asked_once_more(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient(monkeypatch)
    orthanc = client(server)
    assert orthanc.last_seq() == 7
    server.drops = 1
    assert orthanc.last_seq() == 7
    server.drops = 2
    with pytest.raises(PeerDownError):
        orthanc.last_seq()
