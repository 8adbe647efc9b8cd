"""What the receiver promises with tls.scp: who has a certificate of the portal is served, nobody else gets past the handshake."""

from __future__ import annotations

import socket
import ssl
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import pytest

from ddwd.config import tls
from ddwd.config.schema import TlsConfig
from ddwd.core.errors import ConfigError
from ddwd.dicom import nodes
from ddwd.dicom.move_scu import echo
from ddwd.dicom.store_scp import Bounds, StoreScp
from ddwd.dicom.upper_layer import Peer
from tests import certificates
from tests.dicom.conftest import Portal, wait_until
from tests.dicom.test_store import body_of, data_set, store
from tests.fuzz.targets import association
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")


class SecurePortal(Portal):
    """The SCP with TLS, and a sender with the extractor's certificate."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.config = replace(self.config, tls=TlsConfig(scp=True, folder=certificates.own()))
        self.scp = StoreScp(self.config, bounds=Bounds(connections=8))
        self.told: list[tuple[str, str]] = []
        self.scp.on_refused(lambda calling, called: self.told.append((calling, called)))

    @property
    def peer(self) -> Peer:
        """The SCP as the extractor reaches it."""
        return self.as_seen_with(certificates.own())

    def as_seen_with(self, folder: Path) -> Peer:
        """The SCP as one reaches it who has the certificates of that folder."""
        config = replace(self.config, tls=replace(self.config.tls, folder=folder))
        config = replace(config, scp=replace(config.scp, port=self.scp.port))
        return nodes.scp(config, "TEST", "extractor")


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[SecurePortal]:
    running = SecurePortal(tmp_path)
    running.scp.start()
    yield running
    running.scp.stop(5)


def _files(folder: Path, name: str) -> tuple[str, str]:
    return str(folder / f"{name}.pem"), str(folder / f"{name}.key")


def _storescu(portal: Portal, *options: str, paths: list[Path]) -> subprocess.CompletedProcess[str]:
    command = ["storescu", "-v", "-xs", "-ta", "60", "-to", "60", *options, "-aec", portal.config.scp.aet]
    command += ["127.0.0.1", str(portal.scp.port), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_object_by_tls_is_as_safe_as_one_without(secure: SecurePortal) -> None:
    encoded = data_set(body=bytes(range(256)) * 4000)
    assert store(secure, encoded) == 0
    (kept,) = secure.spooled()
    assert body_of(kept) == encoded
    assert secure.scp.answers()


def test_a_study_comes_by_tls_from_dcmtk_with_every_image(secure: SecurePortal, tmp_path: Path) -> None:
    made_up_ct(tmp_path / "study", 20, seed=3, size=128)
    certificate, key = _files(certificates.own(), "storage")
    trusted = str(certificates.own() / "ca.pem")
    done = _storescu(secure, "+tls", key, certificate, "+cf", trusted, "+sd", paths=[tmp_path / "study"])
    assert done.returncode == 0, done.stderr
    assert len(secure.spooled()) == 20


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 65_536, 300_001])
def test_no_size_of_a_tls_record_or_a_pdu_makes_it_wait(secure: SecurePortal, size: int) -> None:
    encoded = data_set(body=bytes(size + size % 2))
    assert store(secure, encoded) == 0


@pytest.mark.parametrize("who", ["a stranger", "a modality", "nobody"])
def test_without_a_certificate_of_the_portal_nothing_is_received(
    secure: SecurePortal, tmp_path: Path, who: str
) -> None:
    made_up_ct(tmp_path / "study", 1, seed=4, size=64)
    known = {
        "a stranger": ["+tls", *reversed(_files(certificates.strangers(), "extractor"))],
        "a modality": ["+tls", *reversed(_files(certificates.own() / "issued", "CT1"))],
        "nobody": ["+tla"],
    }
    done = _storescu(secure, *known[who], "-ic", "+sd", paths=[tmp_path / "study"])
    assert done.returncode != 0
    assert secure.spooled() == []
    assert secure.scp.answers()
    wait_until(lambda: secure.told)
    assert [calling for calling, _ in secure.told] == ["?"]


def test_a_plain_sender_gets_no_answer_and_no_harm_is_done(secure: SecurePortal) -> None:
    plain = Peer("127.0.0.1", secure.scp.port, secure.config.scp.aet, "TEST")
    assert not echo(plain, 3)
    assert secure.scp.answers()


def test_we_speak_to_no_receiver_of_a_strangers_authority(secure: SecurePortal) -> None:
    assert not echo(secure.as_seen_with(certificates.strangers()), 3)
    assert echo(secure.peer, 60)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_what_is_older_than_tls_1_2_is_not_spoken(secure: SecurePortal, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(*_files(certificates.own(), "extractor"))
    with (
        socket.create_connection(("127.0.0.1", secure.scp.port), 5) as raw,
        pytest.raises(OSError, match=r"(?i)alert|protocol|eof"),
    ):
        context.wrap_socket(raw)


def test_peers_that_begin_a_handshake_and_fall_silent_hold_up_nobody(secure: SecurePortal) -> None:
    secure.hurry(negotiation=2.0)
    silent = [socket.create_connection(("127.0.0.1", secure.scp.port), 5) for _ in range(6)]
    try:
        for one in silent:
            one.sendall(b"\x16\x03\x01\x02\x00")
        assert store(secure, data_set()) == 0
        for one in silent:
            one.settimeout(None)
            assert one.recv(1024) == b""
    finally:
        for one in silent:
            one.close()


def test_a_tls_record_in_single_bytes_is_waited_for_and_answered(secure: SecurePortal) -> None:
    """A socket that is readable and has no byte for us yet: the reactor must not sit down to wait for a PDU."""
    context = tls.to_scp(secure.config, "extractor")
    assert context is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = context.wrap_bio(incoming, outgoing)
    with socket.create_connection(("127.0.0.1", secure.scp.port), 5) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def exchange(step: Callable[[], T]) -> T:
            while True:
                try:
                    done = step()
                except ssl.SSLWantReadError:
                    raw.sendall(outgoing.read())
                    incoming.write(raw.recv(65536))
                else:
                    raw.sendall(outgoing.read())
                    return done

        exchange(peer.do_handshake)
        peer.write(association())
        for byte in outgoing.read():
            raw.sendall(bytes((byte,)))
        assert exchange(lambda: peer.read(1)) == b"\x02"  # A-ASSOCIATE-AC


def test_a_missing_certificate_is_told_in_one_line(tmp_path: Path) -> None:
    portal = Portal(tmp_path)
    config = replace(portal.config, tls=TlsConfig(scp=True, folder=tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"scp\.pem: tls: does not exist; ddwd tls init"):
        StoreScp(config)
