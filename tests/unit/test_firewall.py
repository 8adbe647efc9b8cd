"""The firewall's table: what it opens to whom, that it names the portal's ports and nothing else, and that it is the portal's own."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Literal

import pytest

from ddwd.cli.config import firewall_problems
from ddwd.config.checks import ports
from ddwd.config.parsers import Sender, Source
from ddwd.config.schema import PORT_KEYS, Config, Loaded, TlsConfig, WebConfig, flatten
from ddwd.core import clock
from ddwd.core.errors import PeerRefusedError
from ddwd.daemon import firewall as daemon
from ddwd.provisioning import firewall

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
CT = Sender("CT1", IPv4Network("10.1.2.3"))
MR = Sender("MR*", IPv4Network("10.2.0.0/16"))


@pytest.mark.parametrize(
    "tls", [TlsConfig(), TlsConfig(gateway="both", dicomweb=True), TlsConfig(gateway="only")]
)
@pytest.mark.parametrize("web", [WebConfig(), WebConfig(open=True)])
def test_every_port_that_is_listened_on_is_in_the_list_once(tls: TlsConfig, web: WebConfig) -> None:
    config = Config(tls=tls, web=web)
    values = flatten(config)
    assert sorted(port.key for port in firewall.ports(config)) == sorted(ports(config))
    assert {port.key: port.number for port in firewall.ports(config)} == {
        key: values[key] for key in ports(config)
    }


def test_the_senders_reach_the_port_for_tls_too() -> None:
    text = firewall.table(Config(tls=TlsConfig(gateway="both", dicomweb=True), senders=(CT,)))
    assert set(re.findall(r"tcp dport (\d+) ip saddr \{ 10.1.2.3/32 \}", text)) == {"4242", "2762"}
    (closed,) = re.findall(r"tcp dport \{ ([\d, ]+) \} ct state new counter name refused", text)
    assert "8444" in closed.split(", ")


@pytest.mark.parametrize(
    ("senders", "networks"),
    [
        ((), "0.0.0.0/0"),
        ((CT,), "10.1.2.3/32"),
        ((CT, MR), "10.1.2.3/32, 10.2.0.0/16"),
        ((MR, Sender("MR2", IPv4Network("10.2.7.0/24"))), "10.2.0.0/16"),
        ((CT, Sender("ANY")), "0.0.0.0/0"),
    ],
)
def test_only_the_port_of_the_senders_is_open_and_to_their_networks(
    senders: tuple[Sender, ...], networks: str
) -> None:
    text = firewall.table(replace(Config(), senders=senders))
    assert re.findall(r"tcp dport (\d+) ip saddr \{ (.+) \} jump sender", text) == [("4242", networks)]
    assert "tcp dport { 4242, 4243, 4252, 8042, 8043, 11112 } ct state new" in text


def test_the_networks_of_the_web_pages_reach_these_alone() -> None:
    networks = (ip_network("10.4.0.0/16"), ip_network("2001:db8::/32"))
    text = firewall.table(Config(web=WebConfig(open=True, networks=networks), senders=(CT,)))
    assert set(re.findall(r"tcp dport (\d+) ip saddr \{ 10.4.0.0/16 \}", text)) == {"8442", "8443"}
    assert "2001:db8" not in text


def _rules(text: str, pattern: str) -> dict[int, set[str]]:
    return {int(port): set(users.split(", ")) for port, users in re.findall(pattern, text)}


_ANSWERS = r"ct direction reply tcp sport (\d+) meta skuid != \{ (.+?) \} counter name strangers drop"
_CALLERS = (
    r'oif "lo" ct direction original tcp dport (\d+) meta skuid != \{ (.+?) \} counter name strangers reject'
)


def test_what_leaves_a_port_comes_from_the_user_of_its_service() -> None:
    tls = TlsConfig(gateway="both", dicomweb=True)
    config = Config(tls=tls, web=WebConfig(open=True))
    found = _rules(firewall.table(config), _ANSWERS)
    assert found == {port.number: {firewall.USERS[port.key].listens} for port in firewall.ports(config)}
    assert len(found) == 10


def test_the_inner_dicom_ports_are_for_the_parts_that_use_them_and_for_operators() -> None:
    found = _rules(firewall.table(Config(), [1000, 1001]), _CALLERS)
    operators = {"root", "1000", "1001"}
    assert found == {
        4252: {"ddwd-acceptor"} | operators,
        4243: {"ddwd", "ddwd-doctor"} | operators,
        11112: {"ddwd", "ddwd-doctor", "ddwd-storage"} | operators,
    }


def test_with_several_machines_the_link_answers_and_connects_in_the_place_of_the_others() -> None:
    within = replace(Config(), roles=("storage", "extractor"))
    text = firewall.table(within)
    assert _rules(text, _ANSWERS)[8042] == {"ddwd-gateway", "ddwd-tls-link"}
    assert _rules(text, _CALLERS)[4243] == {"ddwd", "ddwd-doctor", "root", "ddwd-tls-link"}


def test_each_port_has_its_users_and_each_of_these_is_installed_and_runs_a_unit() -> None:
    assert set(firewall.USERS) == set(PORT_KEYS)
    named = {user for users in firewall.USERS.values() for user in (users.listens, *(users.connect or ()))}
    made = set(
        re.findall(r"^u (\S+) ", (SYSTEMD / "ddwd.sysusers").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert named <= made
    text = "".join(path.read_text(encoding="utf-8") for path in SYSTEMD.glob("*.service"))
    assert {
        user for user in named if not user.startswith("ddwd-tls-") and f"\nUser={user}\n" not in text
    } == set()
    assert "\nUser=ddwd-tls-%i\n" in text


def test_no_rule_but_its_own_is_touched() -> None:
    text = firewall.table(Config())
    assert set(re.findall(r"\btable (\S+ \S+)", text)) == {"inet ddwd"}
    assert "flush" not in text
    assert "policy accept" in text


def _with(wanted: Literal["auto", "true", "false"]) -> Config:
    return replace(Config(), network=replace(Config().network, firewall=wanted))


def test_a_firewall_that_must_be_and_cannot_be_made_is_a_mistake_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firewall, "PROGRAM", str(tmp_path / "nft"))
    (problem,) = firewall_problems(Loaded(_with("true"), {"network.firewall": Source("ddwd.yaml", 7)}))
    wanted = f"ddwd.yaml:7: network.firewall: {tmp_path}/nft is missing; apt install nftables, or write auto"
    assert str(problem) == wanted
    assert list(firewall_problems(Loaded(_with("auto"), {}))) == []
    assert list(firewall_problems(Loaded(_with("false"), {}))) == []
    (tmp_path / "nft").touch()
    assert list(firewall_problems(Loaded(_with("true"), {}))) == []


def test_it_is_on_where_it_works_unless_the_settings_say_otherwise() -> None:
    assert Config().network.firewall == "auto"


@pytest.mark.parametrize("nft", [None, "echo 'Operation not supported' >&2; exit 1"])
def test_a_machine_on_which_nftables_does_not_work_runs_without_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nft: str | None
) -> None:
    program = tmp_path / "nft"
    monkeypatch.setattr(firewall, "PROGRAM", str(program))
    if nft is not None:
        program.write_text(f"#!/bin/sh\n{nft}\n", encoding="ascii")
        program.chmod(0o755)
    why = "No such file or directory" if nft is None else "Operation not supported"
    assert re.fullmatch(rf"network.firewall is auto, no table: .*{why}.*", firewall.apply(_with("auto")))
    with pytest.raises(PeerRefusedError, match=why):
        firewall.apply(_with("true"))
    # and one whose settings do not want it does not ask for it
    assert firewall.apply(_with("false")) == "network.firewall is false: no table"


def test_a_table_that_cannot_be_removed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nft"
    monkeypatch.setattr(firewall, "PROGRAM", str(program))
    listed = 'case "$*" in "list tables") echo "table inet ddwd";; *) echo "Device or resource busy" >&2; exit 1;; esac'
    program.write_text(f"#!/bin/sh\n{listed}\n", encoding="ascii")
    program.chmod(0o755)
    with pytest.raises(PeerRefusedError, match="Device or resource busy"):
        firewall.apply(_with("false"))


def test_the_table_is_made_again_until_the_members_of_the_group_stay_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members, made, waits = [[1000], [1000, 1001], [1000, 1001]], list[list[int]](), list[float]()
    monkeypatch.setattr(firewall, "operators", lambda: members[0])
    monkeypatch.setattr(daemon, "apply", lambda: made.append(members[0]))

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        members.pop(0)

    monkeypatch.setattr(clock, "sleep", sleep)
    daemon.follow()
    assert made == [[1000], [1000, 1001]]
    assert len(waits) == 2
