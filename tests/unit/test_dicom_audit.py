"""DICOM audit messages: valid by the standard's schema, true to their records; framed, queued and handed over at least once."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lxml import etree

from ddwd.config.schema import AuditConfig, Config
from ddwd.core.audit import Event
from ddwd.core.errors import PeerDownError
from ddwd.monitoring import audit_relay as relaying
from ddwd.monitoring.audit_relay import AuditRelay, frame, send
from ddwd.monitoring.dicom_audit import KINDS, NOT_DISCLOSED, message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCHEMA = etree.RelaxNG(etree.parse(Path(__file__).with_name("audit_message.rng")))


def _record(event: str, number: int = 1, /, **fields: str) -> dict[str, str]:
    return {
        "__CURSOR": f"s={number}",
        "__REALTIME_TIMESTAMP": "1767323045000000",
        "MESSAGE": 'it happened, "so" & <so>',
        "_SYSTEMD_UNIT": "ddwd-extractor.service",
        "SYSLOG_IDENTIFIER": "ddwd-audit",
        "_TRANSPORT": "journal",
        "_UID": "0",
        "DDWD_EVENT": event,
        **{f"DDWD_{key}": value for key, value in fields.items()},
    }


FULL = {"STUDY_UID": "1.2.3", "AET": "CT&1", "ACCESSION": "A-1", "INSTANCES": "12", "STUDY": "0" * 8}


@pytest.mark.parametrize("event", KINDS)
@pytest.mark.parametrize("fields", [{}, FULL])
def test_every_message_is_valid_by_the_schema_of_the_standard(event: Event, fields: dict[str, str]) -> None:
    content = message(_record(event.value, **fields), Config())
    assert content is not None
    SCHEMA.assertValid(etree.fromstring(content))


def test_the_schema_refuses_what_is_no_audit_message() -> None:
    content = message(_record("received", **FULL), Config())
    assert content is not None
    for spoil in (b"EventActionCode", b"UserIsRequestor", b"csd-code", b"AuditSourceIdentification"):
        assert not SCHEMA.validate(etree.fromstring(content.replace(spoil, b"Other")))


NOT_SENT = {
    # no transfer, no deletion, and no matter of access
    *(Event.PEER_DOWN, Event.PEER_UP, Event.DESTINATION_DOWN, Event.DESTINATION_UP),
    *(Event.DISK_LOW, Event.DISK_OK, Event.SELF_TEST, Event.ALERT, Event.HELD, Event.TWO_PATIENTS),
    *(Event.ASSOCIATION_ABORTED, Event.CONTEXT_REFUSED, Event.IMAGE_REFUSED, Event.INBOX_REJECTED),
    *(Event.HOOK_DONE, Event.HOOK_FAILED),
    *(Event.COMMITMENT_ASKED, Event.COMMITMENT_ANSWERED, Event.COMMITMENT_FAILED),
    # part of what has a message: a forward, a retrieval, what the gateway receives, a loss, or what an operator asked for
    *(Event.COPIED, Event.REPAIRED, Event.VERIFIED, Event.INBOX_SENT, Event.LOST_FOUND),
    *(Event.RELEASED, Event.PAUSED, Event.RESUMED),
}


def test_of_every_event_it_is_decided_whether_the_repository_gets_it() -> None:
    assert KINDS.keys() | NOT_SENT == set(Event)
    assert not KINDS.keys() & NOT_SENT


def test_what_is_not_for_the_repository_makes_no_message() -> None:
    assert message(_record("disk-ok"), Config()) is None
    assert message(_record("nonsense"), Config()) is None


def test_what_retention_removes_is_told_once() -> None:
    """By the door of an Orthanc, or by the extractor."""
    assert message(_record("retired", **FULL, PLACE="gateway"), Config()) is None
    assert message(_record("retired", **FULL, PLACE="storage"), Config()) is None
    told = message(_record("retired", **FULL, PLACE="output"), Config())
    assert told is not None
    assert b'csd-code="110105"' in told


def test_a_change_by_rest_names_the_login_its_address_and_what_was_changed() -> None:
    fields = {
        "USER": "admin",
        "ADDRESS": "10.1.2.3",
        "METHOD": "DELETE",
        "RESOURCE": "/series/0a1b",
        "PEER": "gateway",
    }
    for granted, outcome in (("yes", "0"), ("no", "4")):
        told = message(_record("changed-by-rest", **fields, GRANTED=granted), Config())
        assert told is not None
        root = etree.fromstring(told)
        SCHEMA.assertValid(root)
        assert root.xpath("EventIdentification/@EventOutcomeIndicator") == [outcome]
        assert root.xpath("EventIdentification/EventTypeCode/@csd-code") == ["110132"]
        assert root.xpath("ActiveParticipant/@UserID") == ["admin"]
        assert root.xpath("ActiveParticipant/@NetworkAccessPointID") == ["10.1.2.3"]
        assert root.xpath("ParticipantObjectIdentification/@ParticipantObjectID") == ["/series/0a1b"]


def _told(event: str, **fields: str) -> etree._Element:
    content = message(_record(event, **fields), Config())
    assert content is not None
    root = etree.fromstring(content)
    SCHEMA.assertValid(root)
    return root


def test_a_changed_custody_record_is_a_security_alert_about_its_study_without_its_patient() -> None:
    root = _told("record-changed", STUDY="0" * 8, STUDY_UID="1.2.3", RECORD_SHA256="ab" * 32)
    assert root.xpath("EventIdentification/EventID/@csd-code") == ["110113"]
    assert root.xpath("EventIdentification/EventTypeCode/@csd-code") == ["110135"]
    assert root.xpath("EventIdentification/@EventOutcomeIndicator") == ["0"]
    assert root.xpath("EventIdentification/EventOutcomeDescription/text()") == ['it happened, "so" & <so>']
    assert root.xpath("ParticipantObjectIdentification/@ParticipantObjectID") == ["1.2.3"]
    assert root.xpath("ActiveParticipant/@UserID") == ["ddwd-extractor.service"]


def test_what_an_operator_asks_for_is_a_security_alert_that_names_who_asked() -> None:
    root = _told("requested", BY="radiographer", STUDY="0a1b")
    assert root.xpath("EventIdentification/EventTypeCode/@csd-code") == ["110132"]
    assert root.xpath("ActiveParticipant/@UserID") == ["radiographer"]
    assert root.xpath("ActiveParticipant/@UserIsRequestor") == ["true"]
    assert root.xpath("ParticipantObjectIdentification/@ParticipantObjectID") == ["/studies/0a1b"]


def test_a_delivery_names_the_destination() -> None:
    root = _told("delivered", **FULL, PEER="archive")
    assert root.xpath("ActiveParticipant/@UserID") == ["ORTHANC1", "archive"]


def test_a_transfer_names_both_ends_the_study_and_one_patient() -> None:
    content = message(_record("received", **FULL), Config())
    assert content is not None
    root = etree.fromstring(content)
    assert [one.get("UserID") for one in root.iter("ActiveParticipant")] == ["CT&1", "ORTHANC1"]
    ids = [one.get("ParticipantObjectID") for one in root.iter("ParticipantObjectIdentification")]
    assert ids == ["1.2.3", NOT_DISCLOSED]
    assert root.find(".//SOPClass").get("NumberOfInstances") == "12"
    told = message(_record("received", **FULL, PATIENT_ID="DOE-4711"), Config())
    assert told is not None
    assert b"DOE-4711" in told


def test_a_frame_is_syslog_as_the_standard_wants_it() -> None:
    sent = frame(b"<AuditMessage/>", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    head, _, xml = sent.partition(b"\xef\xbb\xbf")
    assert re.fullmatch(rb"<85>1 2026-01-02T03:04:05.000Z \S+ ddwd \d+ DICOM\+RFC3881 - ", head)
    assert xml == b"<AuditMessage/>"


def test_udp_carries_one_message_a_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        settings = AuditConfig(host="127.0.0.1", port=server.getsockname()[1], transport="udp")
        handed = list(send(settings, [(Path("1"), b"<a/>"), (Path("2"), b"<b/>")]))
        assert handed == [Path("1"), Path("2")]
        assert [server.recv(9999).endswith(end) for end in (b"<a/>", b"<b/>")] == [True, True]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for the loopback, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    pem, key = folder / "c.pem", folder / "k.pem"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    words += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(pem)]
    subprocess.run(words, check=True, capture_output=True)
    return pem, key


class Repository:
    """A receiver of syslog over TLS on the loopback."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.received: list[bytes] = []
        self.came = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as secure:
                    content = b""
                    while chunk := secure.recv(65536):
                        content += chunk
                    secure.unwrap()
            except OSError:
                continue  # the client did not trust the certificate
            while content:
                length, _, rest = content.partition(b" ")
                self.received.append(rest[: int(length)])
                content = rest[int(length) :]
            self.came.set()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def repository(certificate: tuple[Path, Path]) -> Iterator[Repository]:
    server = Repository(certificate)
    yield server
    server.close()


def _over_tls(repository: Repository, ca: Path | None) -> AuditConfig:
    return AuditConfig(host="localhost", port=repository.port, ca=ca)


def test_tls_counts_octets_and_checks_the_certificate(
    repository: Repository, certificate: tuple[Path, Path]
) -> None:
    messages = [(Path("1"), b"<a/>"), (Path("2"), "<ü/>".encode())]
    with pytest.raises(PeerDownError, match=r"certificate|self"):
        list(send(_over_tls(repository, None), messages))
    assert list(send(_over_tls(repository, certificate[0]), messages)) == [Path("1"), Path("2")]
    assert repository.came.wait(5)
    assert [one.partition(b"\xef\xbb\xbf")[2] for one in repository.received] == [b"<a/>", "<ü/>".encode()]


class Journal:
    """A journal with these records; answers as journalctl does."""

    def __init__(self, *events: str) -> None:
        self.records = [_record(event, number, **FULL) for number, event in enumerate(events, 1)]
        self.asked: Sequence[str] = ()

    def __call__(self, arguments: Sequence[str]) -> str:
        self.asked = arguments
        after = next(
            (word.partition("=")[2] for word in arguments if word.startswith("--after-cursor")), None
        )
        if after is None:
            shown = self.records[-1:]
        else:
            cursors = [one["__CURSOR"] for one in self.records]
            shown = self.records[cursors.index(after) + 1 :]
        return "".join(json.dumps(one) + "\n" for one in shown)


def _config(settings: AuditConfig) -> Config:
    return replace(Config(), audit=settings)


AWAY = AuditConfig(host="127.0.0.1", port=1, transport="tls")


def test_each_record_is_queued_once_over_restarts_while_the_repository_is_away(tmp_path: Path) -> None:
    journal = Journal("started")
    first = AuditRelay(_config(AWAY), tmp_path / "q", journal)
    first.step()
    journal.records += [
        _record("received", 2, **FULL),
        _record("disk-ok", 3),
        _record("published", 4, **FULL),
    ]
    again = AuditRelay(_config(AWAY), tmp_path / "q", journal)
    again.step()
    again.step()
    kinds = [re.findall(rb'originalText="([^"]+)"', path.read_bytes())[0] for path in again.queued()]
    assert kinds == [b"Application Activity", b"DICOM Instances Transferred", b"DICOM Instances Transferred"]


def test_a_record_that_a_user_forged_is_not_queued_and_does_not_stop_those_behind_it(tmp_path: Path) -> None:
    journal = Journal("started")
    relay = AuditRelay(_config(AWAY), tmp_path / "q", journal)
    relay.step()
    forged = _record("published", 2, **FULL) | {"_UID": "65534"}
    journal.records += [forged, _record("received", 3, **FULL)]
    relay.step()
    relay.step()
    assert [b"Transferred" in path.read_bytes() for path in relay.queued()] == [False, True]
    assert "_UID=0" in journal.asked
    assert "_TRANSPORT=journal" in journal.asked


def test_what_is_queued_is_sent_in_order_and_then_gone(
    tmp_path: Path, repository: Repository, certificate: tuple[Path, Path]
) -> None:
    journal = Journal("started")
    relay = AuditRelay(_config(AWAY), tmp_path / "q", journal)
    relay.step()
    journal.records += [_record("received", 2, **FULL), _record("published", 3, **FULL)]
    config = _config(_over_tls(repository, certificate[0]))
    back = AuditRelay(config, tmp_path / "q", journal)
    back.step()
    assert back.send_some()
    assert back.queued() == []
    assert not back.send_some()
    assert repository.came.wait(5)
    assert [b"110120" in one for one in repository.received] == [True, False, False]


def test_a_full_queue_leaves_the_records_in_the_journal_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relaying, "_MOST_QUEUED", 2)
    journal = Journal("started")
    relay = AuditRelay(_config(AWAY), tmp_path / "q", journal)
    relay.step()
    journal.records += [_record("published", number, **FULL) for number in range(2, 4)]
    relay.step()
    journal.records.append(_record("published", 9, **FULL))
    relay.step()
    relay.step()
    assert len(relay.queued()) == 3
    assert sum("queue is full" in line for line in caplog.messages) == 1
    for path in relay.queued():
        path.unlink()
    relay.step()
    assert len(relay.queued()) == 1
