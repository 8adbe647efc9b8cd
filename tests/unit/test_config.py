"""The settings: sources and their order, every kind of problem, and the commented file that is shipped."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ddwd.cli import config as config_verb
from ddwd.config.checks import hooks_at_fault
from ddwd.config.loader import load, load_with_sources
from ddwd.config.parsers import DEFAULT, Raw
from ddwd.config.routing import Route
from ddwd.config.schema import LONGEST_POLL, MOST_NAMED, SETTINGS, VARIABLES, Config, Loaded, flatten
from ddwd.core import safe_folder
from ddwd.core.errors import ConfigError
from ddwd.core.model import OrthancId, Series, Study
from ddwd.extractor.steps.retrieve import next_block
from ddwd.provisioning.port_holders import Holder

REPO = Path(__file__).parents[2]
SHIPPED = REPO / "etc" / "ddwd.yaml"


class Sources:
    """One throw-away set of sources."""

    def __init__(self, folder: Path) -> None:
        self.yaml = folder / "ddwd.yaml"
        self.defaults = folder / "default"
        self.yaml.write_text("# as it was shipped\n")
        self.defaults.write_text("")

    @property
    def environ(self) -> dict[str, str]:
        return {"DDWD_CONFIG": str(self.yaml), "DDWD_DEFAULTS": str(self.defaults)}

    def config(self, **variables: str) -> Config:
        return load(environ=self.environ | variables)

    def loaded(self) -> Loaded:
        return load_with_sources(environ=self.environ)

    def problems(self, **variables: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.config(**variables)
        return str(caught.value).replace(f"{self.yaml.parent}/", "").splitlines()


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path)


def test_nothing_written_gives_the_contract(sources: Sources) -> None:
    config = sources.config()
    assert config == Config()
    assert (config.gateway.aet, config.gateway.dicom_port, config.gateway.http_port) == (
        "ORTHANC1",
        4242,
        8042,
    )
    assert (config.storage.aet, config.storage.dicom_port, config.storage.http_port) == (
        "ORTHANC2",
        4243,
        8043,
    )
    assert (config.poll_interval, config.stable_age) == (5.0, 3)


def test_shipped_file_has_every_key_with_its_default(sources: Sources) -> None:
    loaded = load_with_sources(SHIPPED, {"DDWD_DEFAULTS": str(sources.defaults)})
    assert loaded.config == Config()
    tree = yaml.safe_load(SHIPPED.read_text())
    flat = {f"{a}.{b}" for a, inner in tree.items() if isinstance(inner, dict) for b in inner}
    flat |= {a for a, inner in tree.items() if not isinstance(inner, dict)}
    assert flat == set(SETTINGS)


def test_shipped_file_comments_every_key_and_names_every_variable() -> None:
    lines = SHIPPED.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\s*[a-z_]+:", line) and not re.match(r"(  storage|data|run|  \w+_user)", line):
            previous = lines[number - 1].strip()
            assert previous.startswith("#") or re.match(r"(gateway|storage|data|run)_", previous), line
    for variable in set(VARIABLES) - {"ORTHANC__STABLE_AGE"}:
        assert f"[{variable}]" in SHIPPED.read_text()


def test_later_source_wins_and_is_named(sources: Sources) -> None:
    sources.yaml.write_text("gateway:\n  dicom_port: 1001\n  http_port: 1002\npoll_interval: 0.5\n")
    sources.defaults.write_text('# ours\nHTTP_PORT1="2002"\nexport POLL_INTERVAL=2.5\n')
    loaded = load_with_sources(environ=sources.environ | {"POLL_INTERVAL": "3", "HTTP_PORT1": "2002"})
    assert loaded.config.gateway.dicom_port == 1001
    assert loaded.config.gateway.http_port == 2002
    assert loaded.config.poll_interval == 3.0
    assert str(loaded.sources["gateway.dicom_port"]) == f"{sources.yaml}:2"
    assert str(loaded.sources["gateway.http_port"]) == f"{sources.defaults}:2"
    assert str(loaded.sources["poll_interval"]) == "environment POLL_INTERVAL"
    assert str(loaded.sources["scp.port"]) == "default"


@pytest.mark.parametrize(("variable", "key"), VARIABLES.items())
def test_each_variable_sets_its_key(sources: Sources, variable: str, key: str) -> None:
    text = "/srv/x" if variable == "OUTPUT_DIR" else "7"
    value = flatten(sources.config(**{variable: text}))[key]
    assert str(value) in {text, "7.0"}


def test_stable_age_has_two_names_and_the_short_one_wins(sources: Sources) -> None:
    assert sources.config(ORTHANC__STABLE_AGE="9").stable_age == 9
    assert sources.config(ORTHANC__STABLE_AGE="9", STABLE_AGE="4").stable_age == 4


def test_empty_variable_is_no_setting(sources: Sources) -> None:
    sources.defaults.write_text("DICOM_PORT1=\nOUTPUT_DIR=''\n")
    assert sources.config(HTTP_PORT1="") == Config()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("outputdir: /x", "ddwd.yaml:1: outputdir: is not a known key; write output_dir"),
        (
            "gateway:\n  dicom_prt: 1",
            "ddwd.yaml:2: gateway.dicom_prt: is not a known key; write gateway.dicom_port",
        ),
        ("HTTP_PORT2: 1", "ddwd.yaml:1: HTTP_PORT2: is not a known key; write storage.http_port"),
        ("batch: 1", "ddwd.yaml:1: batch: is not a known key; write forward.batch"),
        (
            "retrieve:\n  zzz: 1",
            "ddwd.yaml:2: retrieve.zzz: is not a known key; known here: batch, timeout, tries",
        ),
        (
            "stable_age: 3\n\nstable_age: 4",
            "ddwd.yaml:3: stable_age: is given twice; keep one of the two lines",
        ),
        (
            "stable_age:",
            "ddwd.yaml:1: stable_age: has no value; write one, or remove the line for the default",
        ),
        ("forward: 3", "ddwd.yaml:1: forward: is not a section; write `key: value` lines, indented below it"),
        ("- a", "ddwd.yaml:1: the file: is not a section; write `key: value` lines, indented below it"),
        (
            "poll_interval: [1]",
            "ddwd.yaml:1: poll_interval: has a list or a section for a value; write one value",
        ),
        (
            "scp:\n  port: 'x'",
            "ddwd.yaml:2: scp.port: 'x' is not a whole number; write a whole number from 1 to 65535, without quotes",
        ),
        (
            "scp:\n  port: '11112'",
            "ddwd.yaml:2: scp.port: '11112' is text in quotes; write a whole number from 1 to 65535, without quotes",
        ),
        (
            "scp:\n  port: 65536",
            "ddwd.yaml:2: scp.port: 65536 is out of range; write a whole number from 1 to 65535, without quotes",
        ),
        (
            "poll_interval: 5 s",
            (
                "ddwd.yaml:1: poll_interval: '5 s' is not a number of seconds; "
                "write a number of seconds from 0.1 to 10, without quotes or unit"
            ),
        ),
        (
            "disk:\n  reserve: 2 GB",
            "ddwd.yaml:2: disk.reserve: '2 GB' is not a size; write a size from 64 MiB to 1 TiB, as 500 MiB or 2 GiB",
        ),
        (
            "disk:\n  reserve: 1 MiB",
            "ddwd.yaml:2: disk.reserve: 1 MiB is out of range; write a size from 64 MiB to 1 TiB, as 500 MiB or 2 GiB",
        ),
        (
            "network:\n  quickack: 10.1.0.0/33",
            (
                "ddwd.yaml:2: network.quickack: '10.1.0.0/33' is not a network; "
                "write a network as 10.1.0.0/16 or 2001:db8::/32, or one address"
            ),
        ),
        (
            "network:\n  quickack: [10.1.2.3/16]",
            "ddwd.yaml:2: network.quickack: 10.1.2.3/16 has bits beyond its length; write 10.1.0.0/16",
        ),
        (
            "network:\n  quickack: [224.0.0.0/4]",
            (
                "ddwd.yaml:2: network.quickack: 224.0.0.0/4 is for multicast: no sender has such an address; "
                "write a network as 10.1.0.0/16 or 2001:db8::/32, or one address"
            ),
        ),
        (
            "network:\n  quickack: ['::1']",
            (
                "ddwd.yaml:2: network.quickack: no route can go before the kernel's own to ::1/128; "
                "let senders on this machine use 127.0.0.1"
            ),
        ),
        (
            "network:\n  quickack: [[10.0.0.0/8]]",
            "ddwd.yaml:2: network.quickack: has a list or a section for an entry; write a list, as [A, B]",
        ),
        (
            "network:\n  quickack: {a: b}",
            "ddwd.yaml:2: network.quickack: has a list or a section for an entry; write a list, as [A, B]",
        ),
        (
            "forward:\n  mode: fast",
            "ddwd.yaml:2: forward.mode: 'fast' is not known; write streaming or stable",
        ),
        (
            "output_dir: dicom",
            "ddwd.yaml:1: output_dir: 'dicom' is not an absolute path; write a path that begins with /",
        ),
        (
            "output_dir: /srv/../etc",
            (
                "ddwd.yaml:1: output_dir: '/srv/../etc' is not a folder of its own; "
                "write the full path, without .. in it"
            ),
        ),
        (
            "gateway:\n  aet: 'A_TITLE_TOO_LONG_'",
            (
                "ddwd.yaml:2: gateway.aet: 'A_TITLE_TOO_LONG_' is not an AE title: an AE title has 1 to 16 characters, "
                "this one has 17; write 1 to 16 plain characters"
            ),
        ),
        (
            "database:\n  host: db.example:5432/x",
            (
                "ddwd.yaml:2: database.host: 'db.example:5432/x' is not a host; "
                "write a host name or an IP address, without a port"
            ),
        ),
        (
            "database:\n  gateway_name: a b",
            (
                "ddwd.yaml:2: database.gateway_name: 'a b' is not a PostgreSQL name; "
                "write letters, digits, _ and -, 63 at most"
            ),
        ),
        (
            "ledger:\n  shared: postgresql://ddwd:s3cret@db1/ddwd_ledger",
            "ddwd.yaml:2: ledger.shared: it has a password in it; put the password into ledger.password_file",
        ),
        (
            "ledger:\n  shared: db1",
            (
                "ddwd.yaml:2: ledger.shared: it is not the URL of a PostgreSQL database; "
                "write postgresql://USER@HOST:PORT/NAME, several servers as HOST1:PORT,HOST2:PORT"
            ),
        ),
        (
            "gateway:\n  http_port: 4242",
            "ddwd.yaml:2: gateway.http_port: port 4242 is used by gateway.dicom_port too; give each its own port",
        ),
        (
            "storage:\n  aet: PYTHON_SCP",
            "ddwd.yaml:2: storage.aet: AE title PYTHON_SCP is used by scp.aet too; give each its own AE title",
        ),
        (
            "poll_interval: 60",
            (
                "ddwd.yaml:1: poll_interval: 60 is out of range; "
                "write a number of seconds from 0.1 to 10, without quotes or unit"
            ),
        ),
        (
            "mail:\n  server: mail.example:25",
            (
                "ddwd.yaml:2: mail.server: 'mail.example:25' is not a host; "
                "write a host name or an IP address, without a port"
            ),
        ),
        (
            "senders:\n- CT1, 10.1.2.3",
            (
                "ddwd.yaml:2: senders: 'CT1, 10.1.2.3' has an address in its AE title; write \"AET from NETWORK\", "
                'as "CT1 from 10.1.2.3", "MR* from 10.2.0.0/16" or "* from 10.3.0.0/16"'
            ),
        ),
        (
            "routes:\n- name: all\n- name: ct\n  when: {Modality: CT}\n- name: mr\n  when: {Modality: MR}",
            (
                "ddwd.yaml:2: routes: all matches every study, so that no study gets to ct, mr; "
                "put it last, or say in its `when` what it is for"
            ),
        ),
        (
            " \n",
            "ddwd.yaml: file: is empty; put its content back, or remove the file: each setting has a default",
        ),
        (
            "retrieve:\n  batch: 5000",
            "ddwd.yaml:2: retrieve.batch: 5000 is out of range; write a whole number from 1 to 500, without quotes",
        ),
    ],
)
def test_one_problem_is_one_line(sources: Sources, text: str, expected: str) -> None:
    sources.yaml.write_text(text)
    assert sources.problems() == [expected]


@pytest.mark.parametrize("place", ["::1", "2001:db8::25", "10.1.2.3", "mail.example", "mail_1"])
def test_a_host_is_a_name_or_an_address_of_either_kind(sources: Sources, place: str) -> None:
    sources.yaml.write_text(f"mail:\n  server: '{place}'\n")
    assert sources.config().mail.server == place


@pytest.mark.parametrize("title", ["CT, ROOM 1", "A;B", "10.1.2.3"])
def test_a_sender_s_title_may_have_any_character_that_an_ae_title_may(sources: Sources, title: str) -> None:
    sources.yaml.write_text(f"senders:\n- '{title}'\n")
    assert [sender.aet for sender in sources.config().senders] == [title]


def test_a_file_of_comments_alone_is_one_of_defaults(sources: Sources) -> None:
    sources.yaml.write_text("# nothing yet\n")
    assert sources.config() == Config()


@pytest.mark.parametrize(
    ("user", "is_taken"), [("ddwd-gateway", False), ("postgres", True), ("root", True), ("ddwd", False)]
)
def test_a_port_that_another_user_holds_is_taken_while_the_portal_runs_too(
    sources: Sources, monkeypatch: pytest.MonkeyPatch, user: str, is_taken: bool
) -> None:
    sources.yaml.write_text("gateway:\n  http_port: 5432\n")
    monkeypatch.setattr(config_verb, "_running_units", lambda: {"ddwd-gateway", "ddwd-acceptor"})
    monkeypatch.setattr(
        config_verb, "holders", lambda port: [Holder(user, "x (process 1)")] if port == 5432 else []
    )
    monkeypatch.setattr(config_verb, "_is_taken", lambda _host, _port: False)
    told = [str(problem) for problem in config_verb.port_problems(sources.loaded())]
    wanted = f"gateway.http_port: port 5432 is taken by x (process 1), user {user}; stop that program"
    assert [wanted in line for line in told] == [True] * is_taken


def test_the_longest_poll_interval_is_one_that_no_watchdog_cuts_short() -> None:
    units = ("extractor", "courier", "commitment")  # daemon/loop.py waits a third of WatchdogSec at most
    texts = [(REPO / f"systemd/ddwd-{unit}.service").read_text() for unit in units]
    watchdogs = [
        int(found) for text in texts for found in re.findall(r"^WatchdogSec=(\d+)$", text, re.MULTILINE)
    ]
    assert len(watchdogs) == len(units)
    assert min(watchdogs) >= 3 * LONGEST_POLL


@pytest.mark.parametrize(("text", "batch"), [("1", 1), ("500", 500)])
def test_every_batch_that_is_accepted_is_used_as_it_is(sources: Sources, text: str, batch: int) -> None:
    sources.yaml.write_text(f"retrieve:\n  batch: {text}\n")
    lacking = frozenset(OrthancId(f"i{number}") for number in range(1, 601))
    study = Study(
        OrthancId("s"), "1.2", "P", "", (Series(OrthancId("x"), "1.2.1", lacking | {OrthancId("i0")}),)
    )
    assert len(next_block(study, lacking, sources.config().retrieve.batch)) == batch


def test_the_texts_name_the_limits_that_are_checked() -> None:
    assert f"requested by UID in one C-MOVE, {MOST_NAMED} at most" in SHIPPED.read_text()
    assert f"{LONGEST_POLL:g} at most" in SHIPPED.read_text()


def test_every_default_is_within_the_limits_of_its_own_parser() -> None:
    for key, setting in SETTINGS.items():
        default = flatten(Config())[key]
        assert setting.optional == (default is None)
        if setting.table is None and default is not None:
            for one in default if isinstance(default, tuple) else (default,):
                text = str(one).lower() if isinstance(one, bool) else str(one)
                assert setting.parse(Raw(text, True, DEFAULT)) == one, key


def test_the_shared_ledger_may_be_on_any_of_several_servers(sources: Sources) -> None:
    sources.yaml.write_text(
        "ledger:\n  shared: postgresql://ddwd@db1:5432,[fd00::2]:5433,10.0.0.3/l?sslmode=require"
    )
    ledger = sources.config().ledger
    assert ledger.is_shared
    assert ledger.hosts == ("db1", "fd00::2", "10.0.0.3")
    assert Config().ledger.hosts == ()


def test_broken_yaml_names_the_line(sources: Sources) -> None:
    sources.yaml.write_text("a: 1\nb: [\n")
    (line,) = sources.problems()
    assert line.startswith("ddwd.yaml:3: syntax: not YAML:")
    sources.yaml.write_bytes(b"aet: \xff")
    (line,) = sources.problems()
    assert "syntax: not YAML" in line


def test_missing_file_that_was_named(sources: Sources) -> None:
    sources.yaml.unlink()
    (line,) = sources.problems()
    assert line.startswith("ddwd.yaml: file: cannot be read (No such file or directory)")


def test_file_that_may_not_be_read_says_how(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path, **_options: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    (line,) = sources.problems()  # though both files are closed to this user
    assert line.startswith("ddwd.yaml: file: cannot be read")
    assert "sudo" in line
    assert "group ddwd" in line


def test_environment_and_defaults_file_name_source_and_variable(sources: Sources) -> None:
    sources.defaults.write_text("OUTPUTDIR=/x\nHTTP_PORT1=abc\nEDITOR=vi\nnonsense\nSTABLE_AGE='3\n")
    wanted = "write a whole number from 1 to 65535, without quotes"
    assert sources.problems(DICOM_PORT2="99999") == [
        "default:1: OUTPUTDIR: is not a known variable; write OUTPUT_DIR",
        f"default:2: HTTP_PORT1: 'abc' is not a whole number; {wanted}",
        'default:4: nonsense: is not NAME=VALUE; write NAME="VALUE"',
        'default:5: STABLE_AGE: is not NAME=VALUE; write NAME="VALUE"',
        f"environment: DICOM_PORT2: 99999 is out of range; {wanted}",
    ]


def test_all_problems_at_once_in_the_order_of_the_file(sources: Sources) -> None:
    sources.yaml.write_text("a: 1\ngateway:\n  dicom_port: x\nstable_age: 0\nstorage:\n  http_port: 4242\n")
    numbers = [line.split(":")[1] for line in sources.problems(SCP_PORT="ignored")]
    assert numbers == ["1", "3", "4"]


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("[10.1.0.0/16, 2001:db8::/32]", ["10.1.0.0/16", "2001:db8::/32"]),
        ("10.1.0.0/16, 10.2.0.7", ["10.1.0.0/16", "10.2.0.7/32"]),
        ("\n  - 0.0.0.0/0\n  - ::/0", ["0.0.0.0/0", "::/0"]),
        ("[]", []),
        ("", []),
    ],
)
def test_a_list_may_be_written_as_one_or_in_one_line_with_commas(
    sources: Sources, text: str, networks: list[str]
) -> None:
    sources.yaml.write_text(f"network:\n  quickack: {text}\n")
    loaded = load_with_sources(environ=sources.environ)
    assert [str(one) for one in loaded.config.network.quickack] == networks
    assert str(loaded.sources["network.quickack"]) == f"{sources.yaml}:{3 if text[:1] == chr(10) else 2}"


def test_each_wrong_entry_of_a_list_is_one_problem_on_its_own_line(sources: Sources) -> None:
    sources.yaml.write_text("network:\n  quickack:\n  - 10.0.0.0/8\n  - ten\n  - 10.0.0.0/99\n")
    assert [line.split(" is ")[0] for line in sources.problems()] == [
        "ddwd.yaml:4: network.quickack: 'ten'",
        "ddwd.yaml:5: network.quickack: '10.0.0.0/99'",
    ]


def test_optional_settings_may_be_written_empty(sources: Sources) -> None:
    sources.yaml.write_text("database:\n  host:\n  password: null\nledger:\n")
    assert sources.config().database.host is None


def test_password_is_never_shown(sources: Sources) -> None:
    hidden = "hush"
    config = sources.config(POSTGRES_PASSWORD=hidden)
    assert config.database.password == hidden
    assert hidden not in repr(config)
    assert hidden not in "\n".join(sources.problems(POSTGRES_PASSWORD=f"{hidden}\x01", DICOM_PORT1="x"))


def test_exit_status_is_ex_config(sources: Sources) -> None:
    sources.yaml.write_text("a: 1")
    with pytest.raises(ConfigError) as caught:
        sources.config()
    assert caught.value.exit_status == 78


@pytest.mark.parametrize(
    ("written", "size"),
    [("500 MiB", 500 * 1024**2), ("2GiB", 2 * 1024**3), ("1 TiB", 1024**4), ("104857600", 104857600)],
)
def test_a_size_is_written_with_its_unit_or_in_bytes(sources: Sources, written: str, size: int) -> None:
    sources.yaml.write_text(f"disk:\n  reserve: {written}\n")
    assert sources.config().disk.reserve == size


# --- the executables of hooks -----------------------------------------------------------------------------------------


@pytest.fixture
def hooked(tmp_path: Path) -> Config:
    """Settings with a hook that only who may write the settings can change."""
    home = tmp_path / "etc"
    home.mkdir(mode=0o755)
    (home / "finished").write_text("#!/bin/sh\n", encoding="utf-8")
    (home / "finished").chmod(0o755)
    route = Route("research", run=home / "finished")
    return replace(Config(), routes=(route,), credentials_file=home / "credentials.json")


def test_a_hook_that_nobody_else_can_change_is_sound(hooked: Config) -> None:
    assert list(hooks_at_fault(hooked)) == []


@pytest.mark.parametrize(
    ("name", "mode"), [("finished", 0o775), ("finished", 0o757), (".", 0o775), (".", 0o777)]
)
def test_a_hook_that_others_can_write_or_replace_is_refused_in_one_line(
    hooked: Config, name: str, mode: int
) -> None:
    (hooked.credentials_file.parent / name).chmod(mode)
    [(what, instead)] = hooks_at_fault(hooked)
    assert "can be changed by others than root" in what
    assert "chown root:root" in instead
    assert "\n" not in what + instead


def test_a_hook_of_another_user_s_is_refused(hooked: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    uid, usual = os.geteuid(), safe_folder.foreign
    # no test can give a file away: instead, this user counts as another one
    monkeypatch.setattr(safe_folder, "foreign", lambda path, _ours: usual(path, {uid + 1}))
    [(what, _)] = hooks_at_fault(hooked)
    assert "can be changed by others than root" in what
