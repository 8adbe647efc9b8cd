"""Senders in `network.quickack` are acknowledged at once: routes come, follow the machine's own, and go; no other one is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import SETTINGS
from tests.machine.network import MODALITY_ADDRESS
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.appliance.conftest import Portal

LOOPBACK = {"local 127.0.0.0/8", "local 127.0.0.1"}
LAN = {"10.99.0.0/25", "10.99.0.128/25"}
BEHIND = {"172.16.0.0/13", "172.24.0.0/13"}
SETTING = "quickack: [127.0.0.0/8]"
WANTED = "quickack: [127.0.0.0/8, 10.99.0.0/24, 172.16.0.0/12, 2001:db8::/32]"


def _routes(portal: Portal) -> tuple[set[str], list[str]]:
    """Ours, by their networks, and all others.

    The kernel's own for the interface's link-local address are left out: they appear a second or two after the interface
    is up, once duplicate address detection has ended (RFC 4862), whatever we do.
    """
    ours, others = set(), []
    for version in ("-4", "-6"):
        said = portal.machine.run(["ip", version, "route", "show", "table", "all"]).stdout
        for line in map(str.strip, said.splitlines()):
            if "proto 221" in line:
                assert "quickack 1" in line
                ours.add(line.split(" dev ")[0].split(" via ")[0])
            elif "fe80::" not in line:
                others.append(line)
    return ours, others


def _wait(portal: Portal, wanted: set[str]) -> None:
    portal.machine.wait_for(
        lambda: _routes(portal)[0] == wanted, limit=20, what=f"the routes of quickack are not {wanted}"
    )


@pytest.fixture
def operators(portal: Portal) -> Iterator[list[str]]:
    """A route of the operator's to a network of modalities, for one test; all routes that are not ours."""
    portal.machine.run(f"ip route add 172.16.0.0/12 via {MODALITY_ADDRESS} mtu 1400")
    yield _routes(portal)[1]
    portal.machine.run("ip route flush 172.16.0.0/12")


@pytest.fixture
def setting(portal: Portal, operators: list[str]) -> Iterator[list[str]]:
    """Networks of modalities in ddwd.yaml, and the unit started with them, for one test."""
    path = portal.machine.path(SETTINGS)
    before = path.read_text(encoding="utf-8")
    assert SETTING in before
    path.write_text(before.replace(SETTING, WANTED), encoding="utf-8")
    portal.machine.run("systemctl restart ddwd-quickack")
    _wait(portal, LOOPBACK | LAN | BEHIND)
    yield operators
    path.write_text(before, encoding="utf-8")
    portal.machine.run("systemctl restart ddwd-quickack")
    _wait(portal, LOOPBACK)


def _chosen(portal: Portal, address: str) -> str:
    return portal.machine.run(["ip", "route", "get", address]).stdout


def test_after_apt_install_the_loopback_is_acknowledged_at_once_and_nothing_else(portal: Portal) -> None:
    assert _routes(portal)[0] == LOOPBACK
    assert "quickack 1" in _chosen(portal, "127.0.0.1")
    assert "quickack 1" not in _chosen(portal, MODALITY_ADDRESS)


def test_the_networks_of_the_setting_get_routes_that_lead_the_same_way(
    portal: Portal, setting: list[str], tmp_path: Path
) -> None:
    assert _routes(portal)[1] == setting
    for address in (MODALITY_ADDRESS, "172.16.0.9", "172.31.255.9"):
        assert "quickack 1" in _chosen(portal, address)
    assert f"via {MODALITY_ADDRESS} dev eth0" in _chosen(portal, "172.31.255.9")
    assert "mtu 1400" in _chosen(portal, "172.31.255.9")
    portal.deliver(made_up_ct(tmp_path, 20, seed=377, size=64))


@pytest.mark.usefixtures("setting")
def test_a_network_that_no_route_leads_to_is_told_by_the_doctor_and_is_not_fatal(portal: Portal) -> None:
    assert portal.machine.is_active("ddwd-quickack")
    said = portal.machine.run("ddwd doctor").stdout
    assert "no route leads to 2001:db8::/32" in said
    assert "may wait 40 ms" not in said


def test_an_interface_that_was_away_has_its_routes_again_by_itself(
    portal: Portal, setting: list[str]
) -> None:
    portal.machine.run("ip link set eth0 down")
    _wait(portal, LOOPBACK)
    portal.machine.run("ip link set eth0 up")
    portal.machine.run(f"ip route add 172.16.0.0/12 via {MODALITY_ADDRESS} mtu 1400")
    _wait(portal, LOOPBACK | LAN | BEHIND)
    assert _routes(portal)[1] == setting


@pytest.mark.usefixtures("setting")
def test_a_route_that_the_operator_removes_is_gone(portal: Portal) -> None:
    portal.machine.run("ip route del 172.16.0.0/12")
    _wait(portal, LOOPBACK | LAN)
    portal.machine.run(f"ip route add 172.16.0.0/12 via {MODALITY_ADDRESS}")  # the fixture's to remove


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_stopped_or_killed_it_leaves_no_route_and_all_others(
    portal: Portal, setting: list[str], signal: str
) -> None:
    portal.machine.run(
        f"systemctl kill --kill-whom=main --signal={signal} ddwd-quickack; systemctl stop ddwd-quickack"
    )
    ours, others = _routes(portal)
    assert ours == set()
    assert others == setting
    assert portal.machine.is_active("ddwd", "ddwd-gateway")


def test_the_unit_may_change_routes_and_nothing_else(portal: Portal) -> None:
    assert portal.machine.show("ddwd-quickack", "CapabilityBoundingSet") == "cap_net_admin"
    assert portal.machine.show("ddwd-quickack", "User") == "ddwd"
