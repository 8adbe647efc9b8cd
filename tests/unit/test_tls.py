"""TLS as it is set: who needs which certificate, what is rendered for it, and what `ddwd tls` makes and tells."""

from __future__ import annotations

import io
import json
import re
import ssl
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ddwd.cli.main import main
from ddwd.cli.main import parser as command_line
from ddwd.config import tls
from ddwd.config.checks import ports
from ddwd.config.loader import load
from ddwd.config.schema import Config, TlsConfig, WebConfig
from ddwd.core.errors import ConfigError, InvalidValueError, NotFoundError
from ddwd.provisioning import certificates as made
from ddwd.provisioning import credentials, provision, tls_proxy
from ddwd.provisioning.orthanc_config import base, problems_of
from tests import certificates

if TYPE_CHECKING:
    from pathlib import Path

LOGIN = credentials.generate()
EVERYWHERE = TlsConfig(gateway="both", dicomweb=True, storage=True, scp=True)


def _config(**changes: object) -> Config:
    return replace(Config(), tls=replace(TlsConfig(), **changes))  # type: ignore[arg-type] # keys of TlsConfig


# --- what the settings mean -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, ()),
        ({"gateway": "only"}, ("gateway", "operator")),
        ({"gateway": "both"}, ("gateway", "operator")),
        ({"dicomweb": True}, ("gateway", "storage")),
        ({"storage": True}, ("storage", "extractor", "operator")),
        ({"scp": True}, ("storage", "scp", "extractor", "operator")),
    ],
)
def test_each_hop_needs_the_certificates_of_its_two_ends(
    changes: dict[str, object], wanted: tuple[str, ...]
) -> None:
    assert tls.in_use(_config(**changes)) == wanted


def test_without_tls_nothing_of_it_is_rendered() -> None:
    for node in tls_proxy.WEB.values():
        assert not [key for key in base(Config(), LOGIN, node) if "Tls" in key or "Https" in key]
    assert {tls_proxy.render(Config(), instance) for instance in tls_proxy.INSTANCES} == {None}
    assert set(provision.drop_ins(Config()).values()) == {None}


def test_the_acceptor_takes_dicom_by_tls_and_orthanc_stays_plain(tmp_path: Path) -> None:
    for mode in ("only", "both"):
        rendered = base(_config(gateway=mode), LOGIN, "gateway")
        assert not [key for key in rendered if "Tls" in key]
        assert {tls_proxy.render(_config(gateway=mode), one) for one in tls_proxy.INSTANCES} == {None}
        secured = tls.of_gateway(certificates.with_tls(_config(gateway=mode), certificates.own()))
        assert secured is not None
        assert secured.verify_mode is ssl.CERT_REQUIRED
    assert tls.of_gateway(Config()) is None


def test_stow_goes_by_https_with_a_certificate_of_our_own_authority_on_both_sides() -> None:
    config = _config(dicomweb=True)
    rendered = base(config, LOGIN, "gateway")
    server = rendered["DicomWeb"]["Servers"]["storage"]
    assert server["Url"] == "https://127.0.0.1:8444/dicom-web/"
    assert server["CertificateFile"] == "/etc/ddwd/tls/gateway.pem"
    assert rendered["HttpsVerifyPeers"] is True
    assert rendered["HttpsCACertificates"] == "/etc/ddwd/tls/ca.pem"
    text = tls_proxy.render(config, "storage")
    assert text is not None
    assert {"accept = 127.0.0.1:8444", "CAfile = /etc/ddwd/tls/ca.pem"} <= set(text.splitlines())


@pytest.mark.parametrize(("scp", "storage"), [(True, False), (False, True), (True, True)])
def test_orthanc2_has_its_certificate_for_either_direction(scp: bool, storage: bool) -> None:
    rendered = base(_config(scp=scp, storage=storage), LOGIN, "storage")
    assert rendered["DicomTlsEnabled"] is storage
    assert rendered["DicomModalities"]["PYTHON_SCP"]["UseDicomTls"] is scp
    assert rendered["DicomTlsPrivateKey"] == "/run/credentials/ddwd-storage.service/tls.key"


def test_each_unit_is_given_its_own_key_and_no_other() -> None:
    config = replace(Config(), tls=replace(EVERYWHERE, gateway_key=tls_proxy.PROGRAM.parent / "100% own.key"))
    given = {
        unit: text.splitlines()[-1]
        for (unit, name), text in provision.drop_ins(config).items()
        if name == "50-tls.conf" and text is not None
    }
    gateway = "LoadCredential=tls.key:/usr/bin/100%% own.key"
    assert given == {
        "ddwd-acceptor": gateway,
        "ddwd-gateway": gateway,
        "ddwd-tls@web-gateway": gateway,
        "ddwd-storage": "LoadCredential=tls.key:/etc/ddwd/tls/storage.key",
        "ddwd-tls@storage": "LoadCredential=tls.key:/etc/ddwd/tls/storage.key",
        "ddwd-tls@web-storage": "LoadCredential=tls.key:/etc/ddwd/tls/storage.key",
        "ddwd-scp": "LoadCredential=tls.key:/etc/ddwd/tls/scp.key",
        "ddwd-extractor": "LoadCredential=tls.key:/etc/ddwd/tls/extractor.key",
        "ddwd-inbox": "LoadCredential=tls.key:/etc/ddwd/tls/operator.key",  # a sender on this machine
    }


def test_a_service_reads_its_credential_and_a_command_the_operators_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    config = certificates.with_tls(Config(), certificates.own())
    assert tls.own_key(config, "scp") == certificates.own() / "scp.key"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert tls.own_key(config, "scp") == certificates.own() / "scp.key"
    (tmp_path / tls.CREDENTIAL).touch()
    assert tls.own_key(config, "scp") == tmp_path / tls.CREDENTIAL


def test_the_registered_port_can_be_the_only_one(tmp_path: Path) -> None:
    file = tmp_path / "ddwd.yaml"
    file.write_text("gateway:\n  dicom_port: 2762\ntls:\n  gateway: only\n", encoding="utf-8")
    assert "tls.gateway_port" not in ports(load(file, {"DDWD_DEFAULTS": "/dev/null"}))
    file.write_text("gateway:\n  dicom_port: 2762\ntls:\n  gateway: both\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="port 2762 is used by"):
        load(file, {"DDWD_DEFAULTS": "/dev/null"})


# --- ddwd tls ---------------------------------------------------------------------------------------------------------


def _run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int:
    file = tmp_path / "ddwd.yaml"
    file.write_text(f"tls:\n  folder: {folder}\n", encoding="utf-8")
    monkeypatch.setenv("DDWD_CONFIG", str(file))
    monkeypatch.setenv("DDWD_DEFAULTS", "/dev/null")
    return main(["tls", *words])


def test_what_is_there_stays_and_what_is_missing_is_made(tmp_path: Path) -> None:
    config = certificates.with_tls(Config(), tmp_path)
    for path in certificates.own().glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made.init(config) == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "scp.pem").unlink()
    assert made.init(config, ["storage"]) == [tmp_path / "storage.pem", tmp_path / "scp.pem"]
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {
        "storage.pem", "storage.key", "scp.pem", "scp.key",
    }  # fmt: skip


def test_keys_are_for_their_owner_alone() -> None:
    keys = [*certificates.own().rglob("*.key")]
    assert len(keys) == 8
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} <= {0o600, 0o640}
    assert [path.name for path in keys if stat.S_IMODE(path.stat().st_mode) == 0o640] in (
        [],
        ["operator.key"],
    )
    assert [*certificates.own().rglob("*.new")] == []


def test_each_certificate_stands_the_strictest_check_of_its_own_authority() -> None:
    for name, authority in [*((name, "ca") for name in tls.NAMES), ("issued/CT1", "senders-ca")]:
        context = ssl.create_default_context(cafile=certificates.own() / f"{authority}.pem")
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificates.own() / f"{name}.pem", certificates.own() / f"{name}.key")
        _shake_hands(context, server, "127.0.0.1")


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """A TLS handshake in memory; raises SSLError where the client does not trust the server."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, True),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)


def test_a_modalitys_certificate_opens_no_inner_hop() -> None:
    context = ssl.create_default_context(cafile=certificates.own() / "ca.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.own() / "issued/CT1.pem", certificates.own() / "issued/CT1.key")
    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(context, server, "127.0.0.1")


def test_a_gateway_certificate_of_an_authority_of_the_hospitals_is_known_by_its_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    config = certificates.with_tls(Config(), certificates.own())
    theirs = tls.Files(certificates.strangers() / "gateway.pem", certificates.strangers() / "gateway.key")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*theirs)
    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(tls.with_operator(config), server, "x")
    set_so = replace(
        config.tls, gateway="only", gateway_certificate=theirs.certificate, gateway_key=theirs.key
    )
    client = tls.to_gateway(replace(config, tls=set_so))
    assert client is not None
    _shake_hands(client, server, "x")


@pytest.mark.parametrize("name", ["../ca", "", "a/b", "-x", "A" * 65, "CT 1", "CT\n1"])
def test_a_name_that_could_be_a_path_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidValueError, match="is not a valid name"):
        made.issue(certificates.with_tls(Config(), tmp_path), name)
    assert not [*tmp_path.iterdir()]


def test_without_the_authoritys_key_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"senders-ca\.key does not exist"):
        made.issue(certificates.with_tls(Config(), tmp_path), "CT1")


def test_show_names_whose_until_when_and_which_are_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(tmp_path, monkeypatch, certificates.own(), "show", "--json") == 0
    found = {one["role"]: one for one in json.loads(capsys.readouterr().out)["certificates"]}
    assert set(found) == {"ca", "senders-ca", *tls.NAMES, "issued CT1"}
    assert found["scp"]["issuer"] == found["ca"]["subject"]
    assert found["issued CT1"]["issuer"] == found["senders-ca"]["subject"]
    assert "127.0.0.1" in found["storage"]["names"]
    assert not any(one["in_use"] for one in found.values())
    assert _run(tmp_path, monkeypatch, certificates.own(), "show") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(found)


@pytest.mark.parametrize(("days", "status"), [(29, 1), (32, 0)])
def test_show_answers_no_thirty_days_ahead(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    days: int,
    status: int,
) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    certificates.ending(folder, days).rename(folder / "scp.pem")
    assert _run(tmp_path, monkeypatch, folder, "show") == status
    assert f"({days - 1} days)" in capsys.readouterr().out


def test_show_says_how_to_begin_where_there_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(tmp_path, monkeypatch, tmp_path / "tls", "show") == 0
    assert "ddwd tls init makes them" in capsys.readouterr().out


def test_a_file_that_is_no_certificate_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scp.pem").write_text("not a certificate", encoding="ascii")
    assert _run(tmp_path, monkeypatch, tmp_path, "show") == 1
    assert f"{tmp_path}/scp.pem cannot be read" in capsys.readouterr().err


def test_send_goes_by_tls_where_the_gateway_takes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddwd.cli import send  # noqa: PLC0415 - its _peer is what is looked at

    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    config = certificates.with_tls(Config(), certificates.own())
    for mode, words, port, is_secure in (
        ("off", [], 4242, False),
        ("both", [], 4242, False),
        ("both", ["--tls"], 2762, True),
        ("only", [], 4242, True),
        ("only", ["--tls", "--host", "10.0.0.1", "--port", "2000"], 2000, True),
        ("only", ["--host", "10.0.0.1", "--port", "2000"], 2000, False),
    ):
        wanted = replace(config, tls=replace(config.tls, gateway=mode))
        peer = send._peer(command_line().parse_args(["send", "x", *words]), wanted)
        assert (peer.port, peer.tls is not None) == (port, is_secure)


def test_an_unreadable_output_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert _run(tmp_path, monkeypatch, tmp_path / "file" / "below", "init") == 65


def test_the_web_pages_are_opened_by_https_without_a_certificate_of_the_browser() -> None:
    config = Config(web=WebConfig(open=True))
    for node, port, behind in (("gateway", 8442, 8042), ("storage", 8443, 8043)):
        text = tls_proxy.render(config, f"web-{node}")
        assert text is not None
        assert f"/run/credentials/ddwd-tls@web-{node}.service/" in text
        assert f"accept = {port}\nconnect = 127.0.0.1:{behind}\ncert = /etc/ddwd/tls/{node}.pem\n" in text
        assert "sslVersionMin = TLSv1.2" in text
        assert "requireCert" not in text
    assert tls.in_use(config) == ("gateway", "storage")
    assert tls_proxy.render(replace(config, web=WebConfig()), "web-gateway") is None


def test_people_and_images_never_share_a_proxy_and_people_have_few_connections_that_end_when_idle() -> None:
    config = replace(_config(dicomweb=True), web=WebConfig(open=True))
    texts = {instance: tls_proxy.render(config, instance) or "" for instance in tls_proxy.INSTANCES}
    ports = {
        instance: re.findall(r"^accept = (\S+)$", text, re.MULTILINE) for instance, text in texts.items()
    }
    assert ports == {"storage": ["127.0.0.1:8444"], "web-gateway": ["8442"], "web-storage": ["8443"]}
    assert [instance for instance, text in texts.items() if "TIMEOUTidle = 60\n" in text] == [*tls_proxy.WEB]
    limits = {
        unit for (unit, name), text in provision.drop_ins(config).items() if name == "50-people.conf" and text
    }
    assert limits == {"ddwd-tls@web-gateway", "ddwd-tls@web-storage"}


@pytest.mark.parametrize("node", ["gateway", "storage"])
def test_the_web_pages_are_opened_in_no_other_way(tmp_path: Path, node: str) -> None:
    config = replace(Config(), credentials_file=tmp_path / "etc/credentials.json")
    folder = tmp_path / f"etc/orthanc/{node}.d"
    folder.mkdir(parents=True)
    (folder / "open.json").write_text('{"RemoteAccessAllowed": true}')
    (problem,) = problems_of(config, credentials.generate(), "gateway" if node == "gateway" else "storage")
    assert str(problem).endswith("RemoteAccessAllowed: is not for this file; set web.open in ddwd.yaml")
