"""Provisioning without root: what it asks of the machine, that a second run changes nothing, and what it says when it cannot."""

from __future__ import annotations

import grp
import json
import pwd
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddwd.config.paths import Paths
from ddwd.config.schema import Config, InboxConfig, LedgerConfig
from ddwd.core.errors import ConfigError, DdwdError, PeerDownError, PeerRefusedError
from ddwd.provisioning import credentials, database_setup, port_reservation, provision, tls_proxy
from ddwd.provisioning.host import CommandResult, Login, SystemHost
from ddwd.provisioning.orthanc_config import RENDERED_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

NODES = tuple(tls_proxy.WEB.values())
OUTPUT_DROP_IN = ("ddwd-scp", "50-output-dir.conf")


@dataclass
class FakeHost:
    """A machine with a PostgreSQL that knows roles and databases, and remembers what it was asked."""

    units: Path
    slices: Path
    starting: int = 0
    refuse: str = ""
    roles: set[str] = field(default_factory=set)
    databases: dict[str, str] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)
    users: list[str | None] = field(default_factory=list)
    environments: list[Mapping[str, str]] = field(default_factory=list)
    owners: dict[Path, tuple[str, str, int]] = field(default_factory=dict)
    handed_over: dict[Path, tuple[str, str]] = field(default_factory=dict)
    waited: float = 0.0

    def run(self, argv: list[str], login: Login | None = None) -> CommandResult:
        self.commands.append(argv)
        self.users.append(login.user if login else None)
        self.environments.append(login.env if login else {})
        if argv[0] != "psql":
            return CommandResult(0, "", "")
        if self.starting:
            self.starting -= 1
            return CommandResult(2, "", "the database system is starting up")
        if self.refuse and self.refuse in argv[-1]:
            return CommandResult(1, "", "ERROR:  permission denied to create role")
        return CommandResult(0, self._answer(argv[-1]), "")

    def _answer(self, statement: str) -> str:
        if found := re.fullmatch(r"SELECT 1 FROM pg_(roles|database) WHERE \w+ = '([^']+)'", statement):
            known = self.roles if found[1] == "roles" else self.databases.keys()
            return "1" if found[2] in known else ""
        if found := re.fullmatch(r'CREATE ROLE "([^"]+)" LOGIN', statement):
            self.roles.add(found[1])
        elif found := re.match(r'CREATE DATABASE "([^"]+)" OWNER "([^"]+)" ', statement):
            assert found[2] in self.roles
            self.databases[found[1]] = found[2]
        else:
            assert statement == "SELECT 1" or statement.startswith('REVOKE ALL ON DATABASE "'), statement
        return ""

    def pipe(self, argv: list[str], *_: object, **__: object) -> CommandResult:
        raise AssertionError(argv)

    def give(self, place: Path | int, user: str, group: str, mode: int) -> None:
        assert isinstance(place, Path)
        assert place.exists()
        self.owners[place] = (user, group, mode)

    def hand_over(self, folder: Path, former: str, user: str, group: str, mode: int) -> None:
        assert group.startswith("ddwd")
        assert mode & 0o007 in {0, 0o005}
        self.handed_over[folder] = (former, user)

    def wait(self, seconds: float) -> None:
        self.waited += seconds

    @property
    def statements(self) -> list[str]:
        return [argv[-1] for argv in self.commands if argv[0] == "psql"]

    @property
    def changes(self) -> list[str]:
        """What was asked that changes anything."""
        return [" ".join(argv) for argv in self.commands if not argv[-1].startswith("SELECT 1")]


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(units=tmp_path / "units", slices=tmp_path / "slices")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    # the folder of the tests stands for /var/lib/ddwd, so that it needs no drop-in
    monkeypatch.setattr(provision, "_SYSTEM_DATA", tmp_path / "data")
    return replace(
        Config(),
        output_dir=tmp_path / "data" / "received_dicom",
        data_dir=tmp_path / "data",
        run_dir=tmp_path / "run",
        credentials_file=tmp_path / "etc" / "credentials.json",
        inbox=InboxConfig(folder=tmp_path / "data" / "inbox"),
    )


def _with_database(config: Config, **values: object) -> Config:
    return replace(config, database=replace(config.database, **values))  # type: ignore[arg-type]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(config: Config, host: FakeHost) -> None:
    """As ddwd-provision and then ddwd-databases, which needs it."""
    provision.provision(config, host)
    database_setup.ensure_databases(config, host)


# --- the whole --------------------------------------------------------------------------------------------------------


def test_first_run_makes_everything(config: Config, host: FakeHost) -> None:
    start(config, host)
    assert host.roles == {"ddwd-gateway", "ddwd-storage"}
    assert host.databases == {"ddwd_gateway": "ddwd-gateway", "ddwd_storage": "ddwd-storage"}
    for node in NODES:
        file = Paths(config).rendered(node) / RENDERED_NAME
        assert json.loads(file.read_text())["DicomAet"] == config.node(node).aet
        assert host.owners[file] == ("root", f"ddwd-{node}", 0o640)
        assert host.owners[file.parent] == ("root", f"ddwd-{node}", 0o750)
    assert host.owners[config.credentials_file] == ("root", "ddwd", 0o640)
    assert host.owners[config.output_dir] == ("ddwd", "ddwd", 0o750)


def test_second_run_changes_nothing(config: Config, host: FakeHost, tmp_path: Path) -> None:
    start(config, host)
    before = _files(tmp_path)
    host.commands.clear()
    start(config, host)
    assert _files(tmp_path) == before
    assert host.changes == []


def test_folders_are_handed_over_first_and_handed_back_for_an_older_version(
    config: Config, host: FakeHost
) -> None:
    provision.provision(config, host)
    over = dict(host.handed_over)
    assert over[config.inbox.folder] == ("ddwd", "ddwd-inbox")
    host.handed_over.clear()
    provision.hand_back(config, host)
    assert host.handed_over == {folder: (new, old) for folder, (old, new) in over.items()}


def test_run_that_was_cut_short_is_finished_by_the_next(config: Config, host: FakeHost) -> None:
    host.refuse = 'CREATE DATABASE "ddwd_storage"'
    with pytest.raises(PeerRefusedError):
        start(config, host)
    host.refuse = ""
    start(config, host)
    assert set(host.databases) == {"ddwd_gateway", "ddwd_storage"}
    assert Paths(config).rendered("storage").exists()


def test_broken_addition_stops_before_the_databases(config: Config, host: FakeHost) -> None:
    folder = Paths(config).additions("gateway")
    folder.mkdir(parents=True)
    (folder / "mine.json").write_text('{"OverwriteInstances": true}')
    with pytest.raises(ConfigError, match="OverwriteInstances"):
        start(config, host)
    assert host.commands == []


# --- passwords and rendered files -------------------------------------------------------------------------------------


def test_passwords_are_made_once_and_kept(config: Config, host: FakeHost) -> None:
    first = provision.ensure_credentials(config, host)
    assert config.credentials_file.stat().st_mode & 0o777 == 0o600  # closed until group ddwd is set
    assert provision.ensure_credentials(config, host) == first
    assert credentials.read(config.credentials_file) == first


def test_damaged_passwords_are_not_replaced_silently(config: Config, host: FakeHost) -> None:
    config.credentials_file.parent.mkdir()
    config.credentials_file.write_text("{}")
    with pytest.raises(ConfigError, match="remove it and restart ddwd"):
        provision.ensure_credentials(config, host)
    assert config.credentials_file.read_text() == "{}"


def test_stray_json_beside_the_rendered_file_goes_away(config: Config, host: FakeHost) -> None:
    folder = Paths(config).rendered("gateway")
    folder.mkdir(parents=True)
    (folder / "99-old.json").write_text("{}")
    provision.write_rendered(config, "gateway", "{}\n", host)
    assert [path.name for path in folder.iterdir()] == [RENDERED_NAME]


def test_rendered_file_is_never_open_to_others(config: Config, host: FakeHost) -> None:
    provision.write_rendered(config, "storage", "{}\n", host)
    assert (Paths(config).rendered("storage") / RENDERED_NAME).stat().st_mode & 0o077 == 0


# --- OUTPUT_DIR -------------------------------------------------------------------------------------------------------


def test_output_dir_of_the_operator_must_exist_and_is_left_alone(
    config: Config, host: FakeHost, tmp_path: Path
) -> None:
    config = replace(config, output_dir=tmp_path / "elsewhere")
    with pytest.raises(DdwdError, match=f"install -d -o ddwd -g ddwd -m 0750 {config.output_dir}"):
        provision.ensure_output_dir(config, host)
    config.output_dir.mkdir()
    provision.ensure_output_dir(config, host)
    assert host.owners == {}


def test_drop_in_comes_changes_and_goes_with_output_dir(
    config: Config, host: FakeHost, tmp_path: Path
) -> None:
    inside, outside = config, replace(config, output_dir=tmp_path / "a")
    steps = [
        (inside, 0),
        (outside, 1),
        (outside, 0),
        (replace(config, output_dir=tmp_path / "b"), 1),
        (inside, 1),
    ]
    for wanted, reloads in steps:
        host.commands.clear()
        provision.ensure_drop_ins(wanted, host)
        assert host.commands == [["systemctl", "daemon-reload"]] * reloads
        texts = {path.read_text() for path in host.units.rglob("*.conf")}
        assert texts == ({provision.drop_ins(wanted)[OUTPUT_DROP_IN]} if wanted is not inside else set())


def _with_firewall(config: Config, wanted: str) -> Config:
    return replace(config, network=replace(config.network, firewall=wanted))  # type: ignore[arg-type]


def test_the_ports_are_reserved_until_the_firewall_is_off(config: Config, host: FakeHost) -> None:
    moved = _with_port(config, "scp.port", 11113)
    steps = [
        (config, 1, {4242, 4243, 4252, 8042, 8043, 11112}),
        (_with_firewall(config, "true"), 0, {4242, 4243, 4252, 8042, 8043, 11112}),
        (moved, 1, {4242, 4243, 4252, 8042, 8043, 11113}),
        (_with_firewall(moved, "false"), 1, set()),
    ]
    for wanted, changes, ports in steps:
        host.commands.clear()
        provision.reserve_ports(port_reservation.drop_in(wanted), host)
        assert host.commands == [*port_reservation.ENFORCE] * changes
        texts = [path.read_text() for path in host.slices.glob("*.slice.d/*.conf")]
        assert len(texts) == (3 if ports else 0)
        for text in texts:
            assert set(re.findall(r"^SocketBindDeny=tcp:(\d+)$", text, re.MULTILINE)) == set(map(str, ports))


def test_an_older_version_gets_unreserved_ports(config: Config, host: FakeHost) -> None:
    provision.provision(config, host)
    others = host.slices / "user.slice.d" / "memory.conf"
    others.write_text("[Slice]\nMemoryHigh=50%\n")
    provision.hand_back(config, host)
    assert [path for path in host.slices.rglob("*") if path.is_file()] == [others]
    assert [path.name for path in host.slices.iterdir()] == ["user.slice.d"]


def test_units_that_listen_are_in_the_slice_that_may(config: Config) -> None:
    folder = Path(__file__).parents[2] / "systemd"
    inside = {
        path.stem.removesuffix("@")
        for path in folder.glob("*.service")
        if "\nSlice=ddwd.slice\n" in path.read_text()
    }
    assert inside == {unit.partition("@")[0] for unit in provision.ports_of(config)}


def test_drop_in_is_for_the_two_python_units(config: Config, host: FakeHost, tmp_path: Path) -> None:
    provision.ensure_drop_ins(replace(config, output_dir=tmp_path / "a"), host)
    names = {str(path.relative_to(host.units)) for path in host.units.rglob("*.conf")}
    assert names == {f"ddwd-{name}.service.d/50-output-dir.conf" for name in ("scp", "extractor")}


def test_a_drop_folder_elsewhere_is_opened_to_its_own_unit_alone(config: Config, host: FakeHost) -> None:
    provision.ensure_drop_ins(replace(config, inbox=InboxConfig(folder=Path("/srv/100% new"))), host)
    (path,) = host.units.rglob("*.conf")
    assert str(path.relative_to(host.units)) == "ddwd-inbox.service.d/50-folder.conf"
    assert path.read_text().endswith('[Service]\nReadWritePaths="/srv/100%% new"\n')


@pytest.mark.parametrize(
    ("servers", "allowed"),
    [("10.0.0.7:5432,[fd00::2]:5432", "10.0.0.7 fd00::2"), ("db1,10.0.0.7", "any")],
)
def test_the_shared_ledger_is_opened_to_the_units_that_use_it(servers: str, allowed: str) -> None:
    ledger = LedgerConfig(shared=f"postgresql://ddwd@{servers}/ddwd_ledger")
    found = provision.drop_ins(replace(Config(), ledger=ledger))
    units = {unit: text for (unit, name), text in found.items() if name == "50-ledger.conf"}
    assert units.keys() == {"ddwd-extractor", "ddwd-doctor", "ddwd-commitment"}
    assert all(text and f"\nIPAddressAllow={allowed}\n" in text for text in units.values())
    assert provision.drop_ins(Config())["ddwd-extractor", "50-ledger.conf"] is None


@pytest.mark.parametrize(
    ("folder", "written"),
    [
        ("/srv/dicom", '"/srv/dicom"'),
        ("/srv/my dicom", '"/srv/my dicom"'),
        ("/srv/100%", '"/srv/100%%"'),
        ('/srv/a"b', '"/srv/a\\"b"'),
        ("/srv/a\\b", '"/srv/a\\\\b"'),
        ("/var/lib/ddwd-else", '"/var/lib/ddwd-else"'),
    ],
)
def test_drop_in_quotes_for_systemd(folder: str, written: str) -> None:
    text = provision.drop_ins(replace(Config(), output_dir=Path(folder)))[OUTPUT_DROP_IN]
    assert text is not None
    assert text.splitlines()[1:] == ["[Service]", f"ReadWritePaths={written}"]


def test_no_drop_in_below_var_lib_ddwd() -> None:
    extractor = ("ddwd-extractor", OUTPUT_DROP_IN[1])
    elsewhere = replace(Config(), output_dir=Path("/var/lib/ddwd/other/place"))
    assert provision.drop_ins(Config())[OUTPUT_DROP_IN] is None
    assert provision.drop_ins(Config())[extractor] is None
    assert provision.drop_ins(elsewhere)[extractor] is None


def test_the_receiver_may_write_to_any_output_dir_but_the_default_as_a_whole() -> None:
    elsewhere = provision.drop_ins(replace(Config(), output_dir=Path("/var/lib/ddwd/other")))
    assert 'ReadWritePaths="/var/lib/ddwd/other"' in (elsewhere[OUTPUT_DROP_IN] or "")


# --- ports below 1024 -------------------------------------------------------------------------------------------------


def _with_port(config: Config, key: str, port: int) -> Config:
    section, name = key.split(".")
    return replace(config, **{section: replace(getattr(config, section), **{name: port})})


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        ("gateway.dicom_port", "ddwd-acceptor"),
        ("gateway.orthanc_port", "ddwd-gateway"),
        ("gateway.http_port", "ddwd-gateway"),
        ("storage.dicom_port", "ddwd-storage"),
        ("scp.port", "ddwd-scp"),
        ("tls.gateway_port", "ddwd-acceptor"),
        ("web.gateway_port", "ddwd-tls@web-gateway"),
        ("tls.dicomweb_port", "ddwd-tls@storage"),
    ],
)
def test_only_the_unit_with_a_port_below_1024_gets_a_capability(
    config: Config, host: FakeHost, key: str, unit: str
) -> None:
    provision.ensure_drop_ins(_with_port(config, key, 1024), host)
    assert list(host.units.rglob("*.conf")) == []
    provision.ensure_drop_ins(_with_port(config, key, 1023), host)
    texts = {str(path.relative_to(host.units)): path.read_text() for path in host.units.rglob("*.conf")}
    assert list(texts) == [f"{unit}.service.d/50-low-port.conf"]
    for text in texts.values():
        assert re.findall(r"CAP_\w+", text) == ["CAP_NET_BIND_SERVICE"] * 2
        assert "PrivateUsers=no\n" in text


def test_the_capability_goes_when_the_port_is_back_above_1024(config: Config, host: FakeHost) -> None:
    provision.ensure_drop_ins(_with_port(config, "gateway.dicom_port", 104), host)
    host.commands.clear()
    provision.ensure_drop_ins(config, host)
    assert list(host.units.rglob("*.conf")) == []
    assert host.commands == [["systemctl", "daemon-reload"]]


# --- databases --------------------------------------------------------------------------------------------------------


def test_statements_quote_every_name_and_run_as_postgres(config: Config, host: FakeHost) -> None:
    config = _with_database(config, gateway_name="select", gateway_user="Mixed-Case", port=5433)
    database_setup.ensure_databases(config, host)
    assert host.statements[:5] == [
        "SELECT 1",
        "SELECT 1 FROM pg_roles WHERE rolname = 'Mixed-Case'",
        'CREATE ROLE "Mixed-Case" LOGIN',
        "SELECT 1 FROM pg_database WHERE datname = 'select'",
        'CREATE DATABASE "select" OWNER "Mixed-Case" ENCODING \'UTF8\' TEMPLATE template0',
    ]
    assert host.statements[5] == 'REVOKE ALL ON DATABASE "select" FROM PUBLIC'
    assert set(host.users) == {"postgres"}
    assert all(argv[argv.index("-p") + 1] == "5433" for argv in host.commands)
    assert all("-X" in argv and "ON_ERROR_STOP=1" in argv for argv in host.commands)


def test_local_database_never_sees_the_password(config: Config, host: FakeHost) -> None:
    database_setup.ensure_databases(_with_database(config, password="made up"), host)  # noqa: S106 - it is
    assert not any("made up" in " ".join(argv) for argv in host.commands)
    assert all(env == {"PGOPTIONS": "-c search_path=pg_catalog"} for env in host.environments)


def test_postgresql_that_comes_up_late_is_waited_for(config: Config, host: FakeHost) -> None:
    host.starting = 20
    database_setup.ensure_databases(config, host)
    assert host.waited == 20
    assert len(host.databases) == 2


def test_postgresql_that_stays_away_is_said_with_the_command(config: Config, host: FakeHost) -> None:
    host.starting = 1000
    with pytest.raises(PeerDownError) as caught:
        database_setup.ensure_databases(config, host)
    assert host.waited == 90
    assert str(caught.value) == (
        "the local PostgreSQL did not answer within 90 s (the database system is starting up); "
        "see: systemctl status postgresql"
    )


def test_refusal_of_the_server_is_told_in_its_words(config: Config, host: FakeHost) -> None:
    host.refuse = "CREATE ROLE"
    with pytest.raises(PeerRefusedError, match="PostgreSQL: ERROR:  permission denied to create role"):
        database_setup.ensure_databases(config, host)


def test_external_server_is_only_looked_at_with_the_password_in_the_environment(
    config: Config, host: FakeHost
) -> None:
    config = _with_database(config, host="db.example", password="made up")  # noqa: S106 - it is
    database_setup.ensure_databases(config, host)
    assert host.statements == ["SELECT 1", "SELECT 1"]
    assert set(host.users) == {None}
    assert [argv[argv.index("-d") + 1] for argv in host.commands] == [
        f"postgresql://ddwd-{node}@db.example:5432/ddwd_{node}?target_session_attrs=read-write"
        for node in ("gateway", "storage")
    ]
    assert all(environment["PGPASSWORD"] == "made up" for environment in host.environments)
    assert not any("made up" in " ".join(argv) for argv in host.commands)


def test_external_server_that_does_not_answer_names_what_to_check(config: Config, host: FakeHost) -> None:
    host.starting = 1000
    config = _with_database(config, host="db.example", password="made up")  # noqa: S106 - it is
    with pytest.raises(PeerDownError, match=r"db\.example:5432 \(database ddwd_gateway\).*pg_hba") as caught:
        database_setup.ensure_databases(config, host)
    assert "made up" not in str(caught.value)


def test_an_external_server_is_asked_over_the_network_by_a_user_who_may_read_its_password(
    config: Config,
) -> None:
    place = ("ddwd-databases", "50-external.conf")
    assert provision.drop_ins(config)[place] is None
    external = _with_database(config, host="db.example", password="made up")  # noqa: S106 - it is
    text = provision.drop_ins(external)[place] or ""
    assert {"User=ddwd", "PrivateNetwork=no", "IPAddressAllow=any"} <= set(text.splitlines())
    assert "made up" not in text
    assert provision.drop_ins(_with_database(config, engine="sqlite"))[place] is None


def test_sqlite_needs_no_server(config: Config, host: FakeHost) -> None:
    start(_with_database(config, engine="sqlite"), host)
    assert {argv[0] for argv in host.commands} == {"systemctl", "systemd-run"}


# --- the machine itself -----------------------------------------------------------------------------------------------


def test_command_that_cannot_be_started_is_an_answer() -> None:
    answer = SystemHost().run(["/nonexistent/psql"])
    assert answer.status == 127
    assert "nonexistent" in answer.complaint


def test_answer_has_the_last_complaint_and_the_environment() -> None:
    script = 'echo " $GREETING "; echo one >&2; echo two >&2; exit 3'
    answer = SystemHost().run(["sh", "-c", script], Login([], None, {"GREETING": "hello"}, ""))
    assert answer == CommandResult(3, "hello", "two")


def test_unknown_user_says_what_makes_users(tmp_path: Path) -> None:
    with pytest.raises(PeerRefusedError, match="systemd-sysusers"):
        SystemHost().give(tmp_path, "no-such-user-here", "no-such-group", 0o750)


def test_give_sets_the_mode_where_it_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tmp_path.stat()
    monkeypatch.setattr(pwd, "getpwnam", lambda _: _Id(found.st_uid))
    monkeypatch.setattr(grp, "getgrnam", lambda _: _Id(found.st_gid))
    SystemHost().give(tmp_path, "me", "mine", 0o701)
    assert tmp_path.stat().st_mode & 0o7777 == 0o701


class _Id:
    """Stands for a passwd or group entry."""

    def __init__(self, number: int) -> None:
        self.pw_uid = self.gr_gid = number


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (PeerDownError("the database is away"), 69, "the database is away\n"),
        (OSError(28, "No space left on device", "/run/ddwd"), 1, "/run/ddwd: No space left on device\n"),
        (None, 0, ""),
    ],
)
def test_exit_status_and_one_line(
    error: Exception | None,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(provision, "load", Config)
    monkeypatch.setattr(provision, "provision", fail)
    assert provision.main() == status
    assert capsys.readouterr().err == said
