"""More than one machine: what runs where, what each machine needs of the others, and that nothing goes between them in plain."""

from __future__ import annotations

import io
import json
import ssl
import stat
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.cli import status
from ddwd.cli.config import database_problems
from ddwd.cli.main import main
from ddwd.cli.main import parser as command_line
from ddwd.config.checks import ports
from ddwd.config.loader import load
from ddwd.config.parsers import Receiver, Share, Station
from ddwd.config.paths import Paths
from ddwd.config.retention import Retention
from ddwd.config.schema import (
    ROLES,
    CommitmentConfig,
    Config,
    DatabaseConfig,
    LinkConfig,
    Loaded,
    OrthancNode,
    Role,
)
from ddwd.core.errors import ConfigError, NotFoundError, PeerDownError
from ddwd.provisioning import credentials, databases, firewall, machine_link, provision, tls_proxy
from ddwd.provisioning.orthanc_config import base, problems_of
from ddwd.status import report, units
from tests.unit.fakes import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ddwd.config.schema_network import NodeName
    from ddwd.orthanc.port import ServerStatus

LOGIN = credentials.generate()
INSIDE, DMZ, THIRD = "10.0.0.2", "10.0.0.1", "10.0.0.3"


def _config(*roles: Role, extractors: tuple[Receiver, ...] = ()) -> Config:
    """A machine with these roles; the others are on machines of their own."""
    gateway, storage = Config().gateway, Config().storage
    return replace(
        Config(),
        roles=roles,
        extractors=extractors,
        gateway=gateway if "gateway" in roles else replace(gateway, host=DMZ),
        storage=storage if "storage" in roles else replace(storage, host=INSIDE),
    )


OUTSIDE = _config("gateway")
WITHIN = _config("storage", "extractor")
HELPER = _config("extractor")
FIRST = _config(*ROLES, extractors=(Receiver("SCP_B", THIRD),))


# --- who needs what ---------------------------------------------------------------------------------------------------


def test_one_machine_has_no_link_and_every_unit() -> None:
    assert not Config().is_linked
    assert (machine_link.tunnels(Config()), machine_link.offers(Config()), machine_link.render(Config())) == (
        (),
        (),
        None,
    )
    assert "link.port" not in ports(Config())
    assert all(map(Config().has, ROLES))


def test_a_part_elsewhere_is_found_at_its_usual_port_of_this_machine() -> None:
    assert [(one.part, one.host, one.accept) for one in machine_link.tunnels(HELPER)] == [
        ("gateway-dicom", DMZ, "127.0.0.1:4242"),
        ("gateway-http", DMZ, "127.0.0.1:8042"),
        ("storage-dicom", INSIDE, "127.0.0.1:4243"),
        ("storage-http", INSIDE, "127.0.0.1:8043"),
    ]
    assert HELPER.storage.url == "http://127.0.0.1:8043"


def test_a_gateway_reaches_nothing_but_stow_of_storage() -> None:
    assert [one.part for one in machine_link.tunnels(OUTSIDE)] == ["storage-http"]
    allowed = {offer.part: offer.roles for offer in machine_link.offers(WITHIN)}
    assert [part for part, roles in allowed.items() if "gateway" in roles] == ["storage-http"]


def test_what_one_machine_needs_the_other_offers_to_it() -> None:
    for here, there in ((OUTSIDE, WITHIN), (WITHIN, OUTSIDE), (HELPER, FIRST), (FIRST, HELPER)):
        offered = {offer.part: set(offer.roles) for offer in machine_link.offers(there)}
        for one in machine_link.tunnels(here):
            assert offered[one.part] & set(here.roles)
            assert there.has(one.role)


def test_orthanc2_knows_each_extractor_and_is_asked_from_this_machine_alone() -> None:
    tree = base(FIRST, LOGIN, "storage")["DicomModalities"]
    assert (tree["PYTHON_SCP"]["Host"], tree["SCP_B"]["Host"]) == ("127.0.0.1", "127.0.1.1")
    assert ("scp", THIRD, "127.0.1.1:11112") in [
        (one.part, one.host, one.accept) for one in machine_link.tunnels(FIRST)
    ]
    assert tree["DDWD_EXTRACTOR"]["Host"] == "127.0.0.1"
    assert not tree["SCP_B"]["AllowTranscoding"]
    assert (
        "PYTHON_SCP"
        not in base(_config("storage", extractors=FIRST.extractors), LOGIN, "storage")["DicomModalities"]
    )


@pytest.mark.parametrize("config", [OUTSIDE, WITHIN, HELPER, FIRST])
def test_every_way_and_every_offer_of_the_link_checks_the_other_side(config: Config) -> None:
    text = machine_link.render(config) or ""
    common, *services = text.split("\n[")
    assert "verifyChain = yes" in common
    assert "requireCert = yes" in common
    assert "sessionResume = no" in common
    assert len(services) == 1 + len(machine_link.offers(config)) + len(machine_link.tunnels(config))
    for service in services:
        assert "checkHost = " in service
        listens = (
            "accept = 127.0." in service if "client = yes" in service else "connect = 127.0.0.1:" in service
        )
        assert listens


# --- what a machine starts --------------------------------------------------------------------------------------------


def test_units_start_only_where_their_role_is() -> None:
    folder = Path(__file__).parents[2] / "systemd"
    for name, role in units.ROLE_OF.items():
        path = Paths(Config()).role(role)
        assert f"\nConditionPathExists={path}\n" in (folder / f"{name}.service").read_text(encoding="utf-8")
    conditional = {
        path.stem
        for path in folder.glob("*.service")
        if "/run/ddwd/roles/" in path.read_text(encoding="utf-8")
    }
    assert conditional == set(units.ROLE_OF)


def test_provisioning_tells_the_units_which_roles_are_here(tmp_path: Path) -> None:
    config = replace(WITHIN, run_dir=tmp_path)
    stale = Paths(config).role("gateway")
    stale.parent.mkdir()
    stale.touch()
    provision.ensure_roles(config)
    assert sorted(path.name for path in stale.parent.iterdir()) == ["extractor", "storage"]


def test_the_key_of_the_link_is_given_to_its_unit_alone() -> None:
    wanted = {place for place, text in provision.drop_ins(WITHIN).items() if text is not None}
    assert wanted == {("ddwd-tls@link", "50-tls.conf")}
    assert "LoadCredential=tls.key:/etc/ddwd/link/machine.key" in str(
        provision.drop_ins(WITHIN)["ddwd-tls@link", "50-tls.conf"]
    )


def test_a_role_elsewhere_is_not_down() -> None:
    def systemctl(arguments: Sequence[str]) -> str:
        rows = (name for name in arguments if name.endswith(".service"))
        return "\n\n".join(f"Id={name}\nLoadState=loaded\nActiveState=active" for name in rows)

    shown = {unit.name for unit in units.ask(systemctl, OUTSIDE.roles)}
    assert {"ddwd-gateway", "ddwd-inbox", "ddwd-monitor"} <= shown
    assert not shown & {"ddwd-storage", "ddwd-scp", "ddwd-extractor", "ddwd-hooks"}


def _sources(orthanc: Callable[[OrthancNode, credentials.Credentials], ServerStatus]) -> report.ReportSources:
    return report.ReportSources(lambda _: None, orthanc, FakeClock(), lambda _: "")


def test_a_gateway_alone_asks_nobody_else_and_shows_what_its_door_put_aside(tmp_path: Path) -> None:
    config = replace(
        OUTSIDE, data_dir=tmp_path, run_dir=tmp_path / "run", credentials_file=tmp_path / "none.json"
    )
    aside = Paths(config).conflicts("gateway")
    aside.mkdir(parents=True)
    (aside / "one.dcm").touch()
    found = report.collect(config, _sources(_nobody))
    assert [server.name for server in found.servers] == ["gateway"]
    assert found.hearts == ()
    assert found.aside == {str(aside): 1}
    assert [volume.use for volume in found.volumes] == ["data"]
    assert "the extractor runs on another machine" in status.render(found)
    assert "in flight" not in status.render(found)
    assert any("1 image of other content" in line for line in (one.cause for one in found.problems))


def test_an_orthanc_elsewhere_that_does_not_answer_is_told_with_its_machine(tmp_path: Path) -> None:
    config = replace(
        WITHIN, data_dir=tmp_path, run_dir=tmp_path / "run", credentials_file=tmp_path / "credentials.json"
    )
    credentials.write(config.credentials_file, LOGIN)
    found = report.collect(config, _sources(_silent))
    gateway, storage = (server.problem for server in found.servers)
    assert gateway == f"no answer; it runs on {DMZ}, ddwd-tls@link leads there"
    assert storage == "no answer"


class _Silent:
    def system(self) -> dict[str, Any]:
        raise PeerDownError("no answer")

    statistics = system


def _silent(_node: OrthancNode, _login: credentials.Credentials) -> ServerStatus:
    return _Silent()


def _nobody(_node: OrthancNode, _login: credentials.Credentials) -> ServerStatus:
    raise AssertionError


@pytest.mark.parametrize(
    ("here", "verb", "missing"),
    [
        ("gateway", ["trace", "1.2"], "extractor"),
        ("gateway", ["retry", "1.2"], "extractor"),
        ("gateway", ["pause"], "extractor"),
        ("gateway", ["quarantine", "list"], "extractor"),
        ("gateway", ["backup", "/mnt"], "storage and extractor"),
        ("storage", ["destinations", "list"], "gateway"),
    ],
)
def test_a_verb_of_a_part_elsewhere_says_so(
    here: str,
    verb: list[str],
    missing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = tmp_path / "ddwd.yaml"
    settings.write_text(f"roles: [{here}]\n", encoding="utf-8")
    monkeypatch.setenv("DDWD_CONFIG", str(settings))
    assert main(verb) == NotFoundError.exit_status
    wanted = (
        f"ddwd: {missing} not on this machine (roles in ddwd.yaml): run {verb[0]} on the machine that has it"
    )
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize("node", ["gateway", "storage"])
def test_what_is_rendered_for_each_machine_keeps_the_minimum(node: NodeName) -> None:
    for config in (OUTSIDE, WITHIN, FIRST):
        assert problems_of(config, LOGIN, node) == []


def test_no_terminator_stands_before_an_orthanc_that_is_elsewhere() -> None:
    config = replace(WITHIN, web=replace(WITHIN.web, open=True))
    assert tls_proxy.render(config, "web-gateway") is None
    assert tls_proxy.render(config, "web-storage") is not None


def test_the_firewall_opens_the_link_to_the_other_machines_alone() -> None:
    networks = (ip_network("10.0.0.1"),)
    known = {port.key: port for port in firewall.ports(replace(WITHIN, link=LinkConfig(networks=networks)))}
    assert known["link.port"].networks == networks
    assert known["gateway.dicom_port"].networks == ()


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "key", "words"),
    [
        (replace(Config(), roles=()), "roles", "no role is given"),
        (replace(OUTSIDE, storage=Config().storage), "storage.host", "its machine is not given"),
        (replace(Config(), gateway=replace(Config().gateway, host=DMZ)), "gateway.host", "so it runs here"),
        (_config("storage"), "extractors", "no extractor retrieves from storage"),
        (replace(HELPER, extractors=FIRST.extractors), "extractors", "storage runs on another machine"),
        (
            _config(*ROLES, extractors=(Receiver("PYTHON_SCP", THIRD),)),
            "extractors",
            "AE title PYTHON_SCP is used twice",
        ),
        (
            replace(FIRST, tls=replace(FIRST.tls, storage=True)),
            "tls.storage",
            "is for hops within one machine",
        ),
        (
            replace(OUTSIDE, tls=replace(OUTSIDE.tls, dicomweb=True)),
            "tls.dicomweb",
            "is for hops within one machine",
        ),
        (
            replace(WITHIN, commitment=CommitmentConfig((Station("CT1", "10.1.2.3", 104),))),
            "commitment.modalities",
            "with all roles",
        ),
        (
            replace(WITHIN, retention=Retention(gateway_free=Share("10%", 10))),
            "retention.gateway_free",
            "is on another machine",
        ),
        (OUTSIDE, "roles", "/etc/ddwd/link/machine.key does not exist"),
    ],
)
def test_what_cannot_be_is_refused_with_one_line(config: Config, key: str, words: str) -> None:
    found = [str(problem) for problem in machine_link.problems(Loaded(config, {}))]
    assert [line for line in found if f": {key}: " in line and words in line and "\n" not in line]


def test_one_machine_has_nothing_to_refuse() -> None:
    assert list(machine_link.problems(Loaded(Config(), {}))) == []


def test_the_settings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ddwd.yaml"
    path.write_text(
        "roles: [extractor]\ngateway: {host: 10.0.0.1}\nstorage: {host: storage.example}\nlink: {port: 9000}\n",
        encoding="utf-8",
    )
    config = load(path, {})
    assert (config.roles, config.gateway.host, config.storage.host) == (
        ("extractor",),
        DMZ,
        "storage.example",
    )
    assert config.link.port == 9000
    path.write_text("roles: [cleaner]\nextractors: [PYTHON_SCP_B]\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert "'cleaner' is not known; write gateway or storage or extractor" in str(caught.value)
    assert "'PYTHON_SCP_B' has no host" in str(caught.value)


# --- ddwd link --------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> Config:
    """A machine with passwords, and room for the link's certificates."""
    config = replace(
        Config(), credentials_file=tmp_path / "credentials.json", link=LinkConfig(folder=tmp_path / "link")
    )
    credentials.write(config.credentials_file, LOGIN)
    return config


def _link(config: Config, folder: Path, roles: str) -> dict[str, dict[str, str]]:
    args = command_line().parse_args(["link", str(folder), "--roles", roles])
    assert args.run(args, config, io.StringIO()) == 0
    found: dict[str, dict[str, str]] = json.loads((folder / "credentials.json").read_text(encoding="utf-8"))
    return found


def test_the_other_machine_gets_the_passwords_of_its_roles_and_no_other(here: Config, tmp_path: Path) -> None:
    found = _link(here, tmp_path / "dmz", "gateway")
    own = {node: LOGIN.of(node) for node in ("gateway", "storage")}
    assert found["gateway"] == own["gateway"]
    assert [user for user in own["storage"] if found["storage"][user] == own["storage"][user]] == ["gateway"]
    credentials.read(tmp_path / "dmz/credentials.json")


def test_the_other_machine_gets_a_certificate_of_its_roles_and_not_the_authority_s_key(
    here: Config, tmp_path: Path
) -> None:
    _link(here, tmp_path / "dmz", "gateway,extractor")
    given = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "dmz/link").iterdir()}
    assert given == {"ca.pem": 0o644, "machine.pem": 0o644, "machine.key": 0o600}
    assert stat.S_IMODE((tmp_path / "dmz").stat().st_mode) == 0o700
    assert machine_link.subject("gateway").encode() in _der(tmp_path / "dmz/link/machine.pem")
    assert machine_link.subject("storage").encode() not in _der(tmp_path / "dmz/link/machine.pem")
    authority = (here.link.folder / "ca.pem").read_bytes()
    _link(here, tmp_path / "second", "extractor")
    assert (tmp_path / "second/link/ca.pem").read_bytes() == authority


def test_only_the_machine_with_the_authority_s_key_makes_more(here: Config, tmp_path: Path) -> None:
    _link(here, tmp_path / "dmz", "gateway")
    (here.link.folder / "ca.key").unlink()
    with pytest.raises(NotFoundError, match=r"ca\.key does not exist"):
        _link(here, tmp_path / "third", "extractor")
    assert not (tmp_path / "third").exists()


def _der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text(encoding="ascii"))


# --- an external database ---------------------------------------------------------------------------------------------


def _database(**changes: object) -> Config:
    return replace(Config(), database=replace(DatabaseConfig(), **changes))  # type: ignore[arg-type] # keys of Database


CLUSTER = "postgresql://db1.example:5432,db2.example:5433/?sslmode=verify-full&sslrootcert=/etc/ssl/db.pem"


def test_a_cluster_is_asked_for_the_server_that_can_be_written_to() -> None:
    assert databases.address(_database(url=CLUSTER), "storage") == (
        "postgresql://ddwd-storage@db1.example:5432,db2.example:5433/ddwd_storage"
        "?sslmode=verify-full&sslrootcert=/etc/ssl/db.pem&target_session_attrs=read-write"
    )
    assert databases.place(_database(url=CLUSTER)) == "db1.example:5432,db2.example:5433"


def test_orthanc_gets_the_cluster_with_the_password_of_the_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("p@ss/word\n", encoding="utf-8")
    section = base(_database(url=CLUSTER, password_file=secret), LOGIN, "gateway")["PostgreSQL"]
    assert section["ConnectionUri"].startswith("postgresql://ddwd-gateway:p%40ss%2Fword@db1.example:5432,db2")
    assert section["Lock"] is True


def test_a_password_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    config = _database(url=CLUSTER, password_file=tmp_path / "none")
    found = database_problems(Loaded(config, {}))
    assert [(one.key, one.what) for one in found] == [
        ("database.password_file", "cannot be read (No such file or directory)")
    ]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("postgresql://ddwd@db.example/", "has a role or a password in it"),
        ("postgresql://db.example/?password=x", "has a role or a password in it"),
        ("postgresql://db.example/name", "is not a URL of PostgreSQL servers"),
        ("mysql://db.example", "is not a URL of PostgreSQL servers"),
    ],
)
def test_a_url_says_where_the_servers_are_and_nothing_else(tmp_path: Path, written: str, words: str) -> None:
    path = tmp_path / "ddwd.yaml"
    path.write_text(f"database:\n  url: {written}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert words in str(caught.value)
    assert "=x" not in str(caught.value)
