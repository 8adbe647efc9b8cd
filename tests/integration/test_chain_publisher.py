"""The heads of the chain elsewhere, at real servers: an HTTPS receiver, and a time stamp authority of openssl's own."""

from __future__ import annotations

import http.server
import json
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest
import requests

from ddwd.chain import check_proof
from ddwd.chain.head import FORMAT, HeadFiles
from ddwd.chain.log import ChainWriter
from ddwd.chain.proof import build
from ddwd.config.paths import Paths
from ddwd.config.schema import ChainConfig, Config
from ddwd.core.clock import SystemClock
from ddwd.monitoring.chain_publisher import ChainPublisher
from ddwd.store.status_files import CHAIN_PUBLICATION
from tests.unit.chain import STAMP, STUDY, entry, lines, signed

if TYPE_CHECKING:
    from collections.abc import Iterator

AUTHORITY = """
[tsa]
default_tsa = one
[one]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
"""


def _openssl(*arguments: object, content: bytes | None = None) -> bytes:
    return subprocess.run(
        ["openssl", *map(str, arguments)], input=content, check=True, capture_output=True
    ).stdout


class _Server(http.server.BaseHTTPRequestHandler):
    """Takes heads at /heads, stamps at /stamp, forges a stamp at /forged, and answers with a status at /STATUS."""

    folder: ClassVar[Path]
    heads: ClassVar[list[dict[str, object]]] = []

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        status, answer = 200, b""
        if self.path == "/heads":
            self.heads.append(json.loads(content))
        elif self.path in {"/stamp", "/forged"}:
            if self.path == "/forged":
                content = _openssl("ts", "-query", "-data", self.folder / "serial", "-sha256", "-cert")
            (self.folder / "query").write_bytes(content)
            answer = _openssl(
                "ts", "-reply", "-queryfile", self.folder / "query", "-config", self.folder / "conf"
            )
        else:
            status = int(self.path[1:])
        self.send_response(status)
        self.send_header("Location", "/heads")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@contextmanager
def _serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Server)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A folder with a time stamp authority, whose certificate is its own authority."""
    folder = tmp_path / "authority"
    folder.mkdir()
    (folder / "conf").write_text(AUTHORITY.format(folder=folder))
    (folder / "serial").write_text("01")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    usage = [
        "-addext",
        "extendedKeyUsage=critical,timeStamping",
        "-addext",
        "keyUsage=critical,digitalSignature",
    ]
    _openssl(*new, *usage, "-keyout", folder / "tsa.key", "-out", folder / "tsa.pem")
    _openssl(*new, "-keyout", folder / "web.key", "-out", folder / "web.pem")
    _Server.folder = folder
    _Server.heads.clear()
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A portal with a chain and one published head."""
    found = replace(Config(), data_dir=tmp_path / "data")
    folder = Paths(found).chain
    (folder.parent / "monitor").mkdir(parents=True)
    _extend(found, [*lines(3), entry(images=[])])
    return found


def _extend(config: Config, entries: list[bytes]) -> None:
    """Enter these, and publish a head."""
    folder = Paths(config).chain
    ChainWriter(folder).append(entries)
    HeadFiles(folder).add_published(signed(folder))


def _publisher(config: Config, **settings: object) -> ChainPublisher:
    chain = replace(ChainConfig(), **settings)  # type: ignore[arg-type]
    return ChainPublisher(chain, Paths(config), SystemClock())


def _problem(config: Config) -> str:
    state = CHAIN_PUBLICATION.read(Paths(config).chain_publication)
    assert state is not None
    return state.problem


def test_each_head_is_posted_once_in_order_over_https(
    config: Config, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "web.pem", authority / "web.key")
    system = requests.Session.request
    trusting = partialmethod(
        system, verify=str(authority / "web.pem")
    )  # as if it were one of the system's authorities
    monkeypatch.setattr("requests.Session.request", trusting)
    with _serving(context) as port:
        publisher = _publisher(config, publish_to=f"https://localhost:{port}/heads")
        assert publisher.publish_new()
        _extend(config, lines(9, 3))
        assert publisher.publish_new()
        assert publisher.publish_new()
    published = HeadFiles(Paths(config).chain).read_published()
    assert _Server.heads == [FORMAT.body(head) for head in published]


def test_what_does_not_arrive_is_said_and_tried_again(config: Config, authority: Path) -> None:
    with _serving() as port:
        for status in (500, 302, 404):
            publisher = _publisher(config, publish_to=f"http://127.0.0.1:{port}/{status}")
            assert not publisher.publish_new()
            assert _problem(config) == f"the receiver of heads: HTTP {status}"
        assert not _publisher(config, publish_to=f"https://127.0.0.1:{port}/heads").publish_new()
        assert _problem(config) == "the receiver of heads: SSLError"
        assert _publisher(config, publish_to=f"http://127.0.0.1:{port}/heads").publish_new()
        assert _problem(config) == ""
    assert len(_Server.heads) == 1
    assert authority.is_dir()


def test_a_folder_gets_a_file_a_head_which_is_never_replaced(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    publisher = _publisher(config, publish_to=str(folder))
    assert not publisher.publish_new()
    assert _problem(config) == "FileNotFoundError: No such file or directory"
    folder.mkdir()
    _extend(config, lines(9, 3))
    assert publisher.publish_new()
    published = HeadFiles(Paths(config).chain).read_published()
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == [
        FORMAT.render(head) for head in published
    ]
    Paths(config).chain_publication.unlink()
    (folder / "head-000000000004.json").write_text("of another machine")
    assert not publisher.publish_new()
    assert "is of another chain" in _problem(config)


def test_a_time_stamp_is_checked_kept_and_part_of_the_proof(
    config: Config, authority: Path, tmp_path: Path
) -> None:
    certificate = authority / "tsa.pem"
    with _serving() as port:
        forged = _publisher(config, timestamp_url=f"http://127.0.0.1:{port}/forged", timestamp_ca=certificate)
        assert not forged.publish_new()
        assert _problem(config) == "the time stamp authority: its stamp does not hold"
        url = f"http://127.0.0.1:{port}/stamp"
        foreign = _publisher(config, timestamp_url=url, timestamp_ca=authority / "web.pem")
        assert not foreign.publish_new()
        assert _publisher(config, timestamp_url=url, timestamp_ca=certificate).publish_new()
    proof = build(Paths(config).chain, STUDY, [], STAMP, Paths(config).chain_stamps)
    file, folder = tmp_path / "proof.json", tmp_path / "study"
    file.write_text(json.dumps(proof))
    folder.mkdir()
    script = [sys.executable, "-I", check_proof.__file__, str(file), str(folder), "--tsa"]
    assert subprocess.run([*script, certificate], capture_output=True, check=False).returncode == 0
    other = subprocess.run([*script, authority / "web.pem"], capture_output=True, check=False)
    assert other.returncode == 1
    file.write_text(json.dumps(proof | {"published": proof["head"] | {"time": STAMP[:-2] + "1Z"}}))
    assert subprocess.run([*script, certificate], capture_output=True, check=False).returncode == 1
