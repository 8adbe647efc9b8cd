"""What becomes of `destinations`: the gateway's configuration, without a sender more; no password where people look; what they see of them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.cli.config import shown, tls_problems
from ddwd.cli.main import parser
from ddwd.config.loader import load_with_sources
from ddwd.config.paths import Paths
from ddwd.config.routing import Destination, Route, stow_jobs_elsewhere
from ddwd.config.schema import Config, TlsConfig, flatten
from ddwd.core.errors import NotFoundError, PeerDownError, PeerRefusedError
from ddwd.delivery.transports import Dicomweb, Dimse, transport_to
from ddwd.monitoring import alerts
from ddwd.monitoring.alerts import Condition
from ddwd.provisioning import credentials, destinations, provision
from ddwd.provisioning.orthanc_config import problems_of, render
from ddwd.status.redaction import secrets_of
from ddwd.status.report import destination_states
from ddwd.store.settings_snapshot import changed_settings
from ddwd.store.statefile import decode
from ddwd.store.status_files import DestinationStatus
from tests.unit.test_flow import report

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ddwd.core.model import OrthancId

TEACHING = Destination("teaching", "https://teach.example/dicom-web", "u", "s3cret", Path("/etc/teach.pem"))
PACS = Destination("pacs", aet="PACS", host="10.1.2.9", port=11112)
AWAY = {
    "name": "teaching",
    "kind": "DICOMweb",
    "state": "away",
    "since": "2026-01-02T03:00:00.000Z",
    "reason": "no route to host",
    "studies": 2,
    "images": 12,
    "oldest": "2026-01-02T02:00:00.000Z",
    "delivered": 0,
    "delivered_at": "",
}
FINE = AWAY | {"name": "pacs", "kind": "DIMSE", "state": "ok", "reason": "", "studies": 0, "images": 0}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return replace(
        Config(),
        destinations=(TEACHING, PACS),
        routes=(Route("all", also=("teaching", "pacs")),),
        data_dir=tmp_path / "data",
        run_dir=tmp_path / "run",
        credentials_file=tmp_path / "etc" / "credentials.json",
    )


def _tree(config: Config, node: Any = "gateway") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(render(config, credentials.generate(), node))
    return found


def _tell(config: Config, *rows: dict[str, Any]) -> None:
    path = Paths(config).courier_status
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"at": "2026-01-02T03:04:05.000Z", "destinations": rows}))


# --- the gateway ------------------------------------------------------------------------------------------------------


def test_the_gateway_knows_each_destination_by_a_name_that_no_part_of_the_portal_has(config: Config) -> None:
    tree = _tree(config)
    servers = tree["DicomWeb"]["Servers"]
    assert set(servers) == {"storage", "to-teaching", "ask-teaching"}
    assert servers["to-teaching"]["Url"] == "https://teach.example/dicom-web/"
    assert (servers["to-teaching"]["Username"], servers["to-teaching"]["Password"]) == ("u", "s3cret")
    assert servers["ask-teaching"]["Timeout"] < 20 < servers["to-teaching"]["Timeout"]
    pacs = tree["DicomModalities"]["to-pacs"]
    assert (pacs["AET"], pacs["Host"], pacs["Port"], pacs["UseDicomTls"]) == (
        "PACS",
        "10.1.2.9",
        11112,
        False,
    )
    assert pacs["AllowTranscoding"] is False
    assert "to-pacs" not in _tree(config, "storage")["DicomModalities"]


def test_a_destination_may_ask_the_gateway_for_nothing(config: Config) -> None:
    pacs = _tree(config)["DicomModalities"]["to-pacs"]
    assert [key for key, value in pacs.items() if key.startswith("Allow") and value] == []


def test_one_that_is_a_sender_too_may_send_as_before(config: Config) -> None:
    known = destinations.modalities(
        (PACS,), {"sender-1": {"AET": "pacs", "AllowStore": True, "AllowEcho": True}}
    )
    assert [key for key, value in known["to-pacs"].items() if value is True] == ["AllowEcho", "AllowStore"]


def test_the_gateway_has_jobs_for_destinations_beside_those_for_storage(config: Config) -> None:
    assert _tree(config)["ConcurrentJobs"] == 8
    assert _tree(replace(config, destinations=()))["ConcurrentJobs"] == 4
    assert stow_jobs_elsewhere(config.destinations) == 2


def test_an_addition_may_not_change_where_a_destination_is(config: Config) -> None:
    folder = Paths(config).additions("gateway")
    folder.mkdir(parents=True)
    (folder / "mine.json").write_text('{"DicomModalities": {"to-pacs": ["OTHER", "10.9.9.9", 104]}}')
    (problem,) = problems_of(config, credentials.generate(), "gateway")
    assert problem.key == "DicomModalities.to-pacs"


def test_https_takes_the_authority_of_the_destination_beside_the_portals_own(config: Config) -> None:
    tree = _tree(config)
    assert tree["HttpsVerifyPeers"] is True
    assert tree["HttpsCACertificates"] == str(Paths(config).tls / "destinations.pem")
    assert destinations.authorities(config) == [TEACHING.ca]
    both = replace(config, tls=TlsConfig(dicomweb=True))
    assert destinations.authorities(both) == [Path("/etc/ddwd/tls/ca.pem"), TEACHING.ca]
    plain = replace(config, destinations=(replace(TEACHING, url="http://teach.example/", ca=None),))
    assert destinations.authorities(plain) == []
    public = replace(config, destinations=(replace(TEACHING, ca=None),))
    assert destinations.authorities(public) == [Path("/etc/ssl/certs/ca-certificates.crt")]


def test_dimse_by_tls_shows_the_gateways_certificate_and_opens_no_port(config: Config) -> None:
    secure = replace(config, destinations=(replace(PACS, tls=True, ca=Path("/etc/pacs.pem")),))
    tree = _tree(secure)
    assert tree["DicomModalities"]["to-pacs"]["UseDicomTls"] is True
    assert tree["DicomTlsEnabled"] is False
    assert tree["DicomTlsCertificate"] == "/etc/ddwd/tls/gateway.pem"
    assert destinations.dimse_authorities(secure) == [Path("/etc/pacs.pem")]
    assert "DicomTlsCertificate" not in _tree(config)
    assert provision.drop_ins(secure)["ddwd-gateway", "50-tls.conf"] is not None
    assert provision.drop_ins(config)["ddwd-gateway", "50-tls.conf"] is None


def test_what_is_trusted_is_put_together(config: Config, tmp_path: Path) -> None:
    authority = tmp_path / "teach.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----\n", encoding="ascii")
    provision.ensure_tls(replace(config, destinations=(replace(TEACHING, ca=authority), PACS)))
    assert (Paths(config).tls / "destinations.pem").read_text() == authority.read_text()


def test_an_authority_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "ddwd.yaml"
    file.write_text(
        "destinations: [{name: a, url: 'https://h/', ca: /nowhere/ca.pem}]\nroutes: [{name: r, also: [a]}]\n"
    )
    loaded = load_with_sources(file, {"DDWD_DEFAULTS": "/dev/null"})
    assert "/nowhere/ca.pem does not exist" in [one.what for one in tls_problems(loaded)]


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_a_password_is_in_nothing_that_people_see(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "ddwd.yaml"
    file.write_text("destinations:\n  - {name: a, url: 'https://h/', user: u, password: s3cret}\n")
    loaded = load_with_sources(file, {"DDWD_DEFAULTS": "/dev/null"})
    assert loaded.config.destinations[0].password == "s3cret"  # noqa: S105 - made up
    assert "s3cret" not in json.dumps(shown(loaded))
    assert "s3cret" not in repr(config)
    assert "s3cret" not in str(flatten(config))
    changed_settings(config, tmp_path / "settings.json")
    assert "s3cret" not in (tmp_path / "settings.json").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "  - {name: a, user: u, password: s3cret, ca: /c}",
        "  - name: a\n    password: s3cret",
        "  - password: 's3cret'",
    ],
)
def test_the_support_bundle_knows_it_from_the_settings_and_from_a_file_that_is_not_sound(
    config: Config, text: str
) -> None:
    assert "s3cret" in secrets_of(config, None, ())
    assert "s3cret" in secrets_of(replace(config, destinations=()), None, [text])


# --- the two ways -----------------------------------------------------------------------------------------------------


class _Gateway:
    """Orthanc's answers to what the courier has it ask."""

    def __init__(self, answers: Iterable[object] = ()) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[object, ...]] = []

    def _answer(self, *call: object) -> Any:
        self.calls.append(call)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stow(self, server: str, resources: Iterable[OrthancId], priority: int = 0) -> str:
        return str(self._answer("stow", server, list(resources), priority))

    def store(self, modality: str, instances: Iterable[OrthancId], priority: int = 0) -> str:
        return str(self._answer("store", modality, list(instances), priority))

    def search(self, server: str, uri: str, arguments: Mapping[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._answer("search", server, uri, dict(arguments))
        return found

    def echoes(self, modality: str) -> None:
        self._answer("echo", modality)


def _page(*uids: str) -> list[dict[str, Any]]:
    return [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids]


def test_dicomweb_is_sent_to_by_stow_and_asked_page_by_page() -> None:
    gateway = _Gateway(["job1", _page("1.1", "1.2"), _page("1.3"), []])
    transport = transport_to(TEACHING, gateway)
    assert isinstance(transport, Dicomweb)
    assert transport.submit([], 10) == "job1"
    assert transport.listed("1") == frozenset({"1.1", "1.2", "1.3"})
    assert gateway.calls[0] == ("stow", "to-teaching", [], 10)
    assert [call[1:] for call in gateway.calls[1:]] == [
        ("ask-teaching", "/studies/1/instances", {"limit": "1000", "offset": offset})
        for offset in ("0", "2", "3")
    ]


def test_a_server_that_answers_the_same_page_again_does_not_tell_what_it_leaves_out() -> None:
    assert Dicomweb(TEACHING, _Gateway([_page("1.1")] * 2)).listed("1") is None


@pytest.mark.parametrize("error", [PeerRefusedError("no", 9), PeerRefusedError("no", 8), NotFoundError("no")])
def test_who_answers_no_search_is_taken_at_its_word(error: Exception) -> None:
    assert Dicomweb(TEACHING, _Gateway([error])).listed("1") is None


@pytest.mark.parametrize(
    ("answer", "is_there"),
    [
        ([], True),
        (NotFoundError("no"), True),
        (PeerRefusedError("not you", 401), True),
        (PeerRefusedError("away", 9), False),
    ],
)
def test_only_who_does_not_answer_at_all_is_away(answer: object, is_there: bool) -> None:
    assert Dicomweb(TEACHING, _Gateway([answer])).answers() is is_there


def test_that_the_gateway_itself_is_away_is_no_word_of_a_destination() -> None:
    with pytest.raises(PeerDownError):
        Dicomweb(TEACHING, _Gateway([PeerDownError("gateway")])).listed("1")


def test_dimse_is_sent_to_by_c_store_and_is_there_when_it_answers_an_echo() -> None:
    gateway = _Gateway(["job1", None, PeerRefusedError("refused", 9)])
    transport = transport_to(PACS, gateway)
    assert isinstance(transport, Dimse)
    assert transport.submit([], -10) == "job1"
    assert gateway.calls == [("store", "to-pacs", [], -10)]
    assert transport.listed("1") is None
    assert (transport.answers(), transport.answers()) == (True, False)


# --- what people see --------------------------------------------------------------------------------------------------


def _run(what: str, config: Config, out: io.StringIO, *, as_json: bool = False) -> int:
    args = parser().parse_args(["destinations", what, *(["--json"] if as_json else [])])
    status: int = args.run(args, config, out)
    return status


def _list(config: Config, *, as_json: bool = False) -> tuple[int, str]:
    out = io.StringIO()
    return _run("list", config, out, as_json=as_json), out.getvalue()


def test_each_destination_is_listed_with_its_backlog_and_why(config: Config) -> None:
    _tell(config, AWAY, FINE)
    status, said = _list(config)
    assert status == 1
    assert said == (
        "teaching  DICOMweb, away since 2026-01-02 03:00 UTC\n"
        "   2 studies wait (12 images), the oldest since 2026-01-02 02:00 UTC; no delivery since the start\n"
        "   no route to host\n"
        "pacs  DIMSE, ok since 2026-01-02 03:00 UTC\n"
        "   no study waits; no delivery since the start\n"
    )
    assert json.loads(_list(config, as_json=True)[1])["destinations"] == [AWAY, FINE]


def test_where_all_is_well_the_list_says_so_by_its_exit_status(config: Config) -> None:
    _tell(config, AWAY | {"state": "ok", "reason": ""}, FINE)
    assert _list(config)[0] == 0
    assert _list(replace(config, destinations=(), routes=())) == (0, "there are no other destinations\n")


def test_one_that_nobody_has_told_of_is_listed_too(config: Config) -> None:
    status, said = _list(config)
    assert status == 1
    assert "teaching  DICOMweb, unknown\n" in said
    assert "systemctl status ddwd-courier" in said


def test_one_that_is_no_longer_in_the_settings_is_not_told_of(config: Config) -> None:
    _tell(config, AWAY, FINE)
    assert destination_states(replace(config, destinations=(PACS,))) == (decode(DestinationStatus, FINE),)


def test_a_retry_is_asked_of_the_courier(config: Config) -> None:
    Paths(config).deliveries.mkdir(parents=True)
    out = io.StringIO()
    assert _run("retry", config, out) == 0
    assert (Paths(config).deliveries / "now").exists()


def test_one_that_is_away_is_wrong_and_told_of_in_an_alert(config: Config) -> None:
    _tell(config, AWAY, FINE)
    told = report(destinations=destination_states(config))
    away = "teaching does not answer since 2026-01-02 03:00 UTC (no route to host)"
    line = f"{away}; 2 studies wait for it; do: ddwd destinations list"
    assert [one.line for one in told.problems] == [line]
    assert alerts.conditions(told.problems) == {"destination-silent teaching": Condition(line, 2)}
