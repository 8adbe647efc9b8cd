"""The routes of quickack: what is added to those of `ip -json route`, what is left alone, and that all of it is recognised again."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.daemon.quickack import RouteSync, main, protocols
from ddwd.provisioning import quickack
from ddwd.provisioning.quickack import PROTOCOL, Twin, plan
from tests.readme import REPO

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.config.parsers import Network
    from ddwd.provisioning.quickack import JsonRoute, RouteChanges


def route(dst: str, version: int = 4, **facts: Any) -> JsonRoute:
    """A foreign route of table main, as ip(8) of Debian 13 prints it."""
    return {"dst": dst, "dev": "eth0", "flags": [], "version": version} | facts


_OWN: dict[str, Any] = {"type": "local", "dev": "lo", "table": "local", "protocol": "kernel", "scope": "host"}
LOOPBACK = [
    route("127.0.0.0/8", prefsrc="127.0.0.1", **_OWN),
    route("127.0.0.1", prefsrc="127.0.0.1", **_OWN),
    route("10.1.0.5", prefsrc="10.1.0.5", **(_OWN | {"dev": "eth0"})),
    route("127.255.255.255", **(_OWN | {"type": "broadcast", "scope": "link"})),
    route("::1", 6, metric=0, pref="medium", **_OWN),
]
LAN = route("10.1.0.0/24", protocol="kernel", scope="link", prefsrc="10.1.0.5")
DEFAULT = route("default", gateway="10.1.0.1")


def words(*twins: Twin) -> list[str]:
    return [" ".join(twin.words) for twin in twins]


def networks(*texts: str) -> list[Network]:
    return [ip_network(text) for text in texts]


def added(routes: list[JsonRoute], *texts: str) -> list[str]:
    return words(*plan(routes, networks(*texts)).add)


def printed(twin: Twin) -> JsonRoute:
    """What ip(8) prints of such a route; enough of its language for what the tests make."""
    facts: dict[str, Any] = {"flags": [], "version": twin.version}
    rest = list(twin.words)
    if rest[0] == "local":
        facts["type"] = rest.pop(0)
    network = ip_network(rest.pop(0))
    facts["dst"] = str(network.network_address if network.num_addresses == 1 else network)
    names = {"via": "gateway", "src": "prefsrc", "proto": "protocol"}
    for name, value in zip(rest[::2], rest[1::2], strict=True):
        if name == "quickack":
            facts["metrics"] = [{"quickack": 1}]
        else:
            facts[names.get(name, name)] = int(value) if name == "metric" else value
    return facts


def with_twins(routes: list[JsonRoute], *texts: str) -> list[JsonRoute]:
    """The same with all that quickack adds; to the loopback unless told otherwise."""
    return [*routes, *map(printed, plan(routes, networks(*(texts or ("127.0.0.0/8",)))).add)]


def test_the_loopback_gets_twins_in_front_of_the_kernels_own_routes() -> None:
    todo = plan([*LOOPBACK, LAN, DEFAULT], networks("127.0.0.0/8"))
    assert [" ".join(twin.add) for twin in todo.add] == [
        f"/usr/bin/ip -4 route prepend local {network} table local dev lo src 127.0.0.1 scope host "
        f"proto {PROTOCOL} quickack 1"
        for network in ("127.0.0.0/8", "127.0.0.1/32")
    ]
    assert (todo.remove, todo.notes) == ((), ())


def test_a_network_of_its_own_route_gets_both_halves_behind_the_same_interface() -> None:
    assert added([*LOOPBACK, LAN, DEFAULT], "10.1.0.0/24") == [
        f"10.1.0.{half}/25 dev eth0 src 10.1.0.5 scope link metric 188 proto {PROTOCOL} quickack 1"
        for half in (0, 128)
    ]


def test_what_lies_behind_a_larger_route_goes_the_same_way_as_before() -> None:
    assert added([LAN, DEFAULT], "192.168.7.0/24", "10.1.0.9") == [
        f"192.168.7.0/25 via 10.1.0.1 dev eth0 metric 188 proto {PROTOCOL} quickack 1",
        f"192.168.7.128/25 via 10.1.0.1 dev eth0 metric 188 proto {PROTOCOL} quickack 1",
        f"10.1.0.9/32 dev eth0 src 10.1.0.5 scope link metric 188 proto {PROTOCOL} quickack 1",
    ]


def test_every_sender_is_reached_by_the_route_it_was_reached_by() -> None:
    routes = [
        *LOOPBACK, LAN, DEFAULT, route("10.2.0.0/16", gateway="10.1.0.2"), route("10.2.3.0/24", gateway="10.1.0.3"),
        route("0.0.0.0/1", gateway="10.1.0.4"), route("10.9.0.0/16", type="blackhole"),
    ]  # fmt: skip
    both = with_twins(routes, "0.0.0.0/0")
    for address in ("10.1.0.77", "10.2.0.1", "10.2.3.200", "11.0.0.1", "200.1.1.1", "10.9.1.1", "127.0.0.1"):
        before, after = _chosen(routes, address), _chosen(both, address)
        assert [before.get(key) for key in ("type", "gateway", "dev")] == [
            after.get(key) for key in ("type", "gateway", "dev")
        ]
        assert ("metrics" in after) is (before.get("type") != "blackhole" and address != "127.0.0.1")


def _chosen(routes: list[JsonRoute], address: str) -> JsonRoute:
    """As the kernel chooses: table local, the most specific network, the lowest metric."""
    holding = [one for one in routes if ip_address(address) in _network(one)]
    return min(
        holding,
        key=lambda one: (one.get("table") != "local", -_network(one).prefixlen, one.get("metric", 0)),
    )


def _network(one: JsonRoute) -> Network:
    return ip_network("0.0.0.0/0" if one["dst"] == "default" else one["dst"])


def test_two_ways_to_one_network_keep_their_order() -> None:
    routes = [
        route("default", gateway="10.1.0.1", metric=100),
        route("default", gateway="10.3.0.1", metric=600),
    ]
    assert [line.split(" dev ")[0] for line in added(routes, "0.0.0.0/0")] == [
        "0.0.0.0/1 via 10.1.0.1",
        "128.0.0.0/1 via 10.1.0.1",
        "0.0.0.0/1 via 10.3.0.1",
        "128.0.0.0/1 via 10.3.0.1",
    ]
    assert [line.split("metric ")[1][:3] for line in added(routes, "0.0.0.0/0")] == [
        "288",
        "288",
        "788",
        "788",
    ]


def test_a_twin_has_all_that_its_original_has() -> None:
    hops = [
        {"gateway": "10.1.0.2", "dev": "eth0", "weight": 2, "flags": []},
        {"gateway": "10.1.0.3", "dev": "eth0", "weight": 1, "flags": ["onlink"]},
    ]
    several = {"dst": "10.4.0.0/16", "flags": [], "version": 4, "nexthops": hops, "metrics": [{"mtu": 1400}]}
    over_ipv6 = route("10.5.0.0/16", via={"family": "inet6", "host": "fe80::5"}, tos="0x10", flags=["onlink"])
    assert added([several], "10.4.1.0/32") == [
        (
            f"10.4.1.0/32 metric 188 proto {PROTOCOL} mtu 1400 quickack 1 "
            "nexthop via 10.1.0.2 dev eth0 weight 2 nexthop via 10.1.0.3 dev eth0 onlink weight 1"
        )
    ]
    assert added([over_ipv6], "10.5.1.0/32") == [
        f"10.5.1.0/32 tos 0x10 via inet6 fe80::5 dev eth0 onlink metric 188 proto {PROTOCOL} quickack 1"
    ]


def test_ipv6_is_done_likewise() -> None:
    routes = [*LOOPBACK, route("default", 6, gateway="fd00::1", metric=1024, pref="medium", expires=1700)]
    assert added(routes, "2001:db8::/32")[0] == (
        f"2001:db8::/33 via fd00::1 dev eth0 metric 1212 proto {PROTOCOL} pref medium quickack 1"
    )


@pytest.mark.parametrize(
    "texts", [("127.0.0.0/8",), ("0.0.0.0/0",), ("10.0.0.0/8", "10.1.0.9", "192.168.0.0/16")]
)
def test_done_twice_it_changes_nothing_more(texts: tuple[str, ...]) -> None:
    there = with_twins([*LOOPBACK, LAN, DEFAULT], *texts)
    assert len(there) > len(LOOPBACK) + 2
    assert plan(there, networks(*texts)) == quickack.RouteChanges()


def test_what_no_network_asks_for_any_more_is_taken_back_and_nothing_of_others() -> None:
    there = with_twins([*LOOPBACK, LAN, DEFAULT], "0.0.0.0/0")
    todo = plan(there, [])
    assert set(todo.remove) == set(quickack.own(there))
    assert len(todo.remove) == len(there) - len(LOOPBACK) - 2
    assert todo.add == ()


def test_another_gateway_is_followed() -> None:
    ours = with_twins([DEFAULT], "10.8.0.0/16")[1:]
    todo = plan([route("default", gateway="10.1.0.2"), *ours], networks("10.8.0.0/16"))
    assert [line.split(" dev ")[0] for line in words(*todo.remove)] == [
        "10.8.0.0/17 via 10.1.0.1",
        "10.8.128.0/17 via 10.1.0.1",
    ]
    assert [line.split(" dev ")[0] for line in words(*todo.add)] == [
        "10.8.0.0/17 via 10.1.0.2",
        "10.8.128.0/17 via 10.1.0.2",
    ]


def test_a_route_that_acknowledges_at_once_already_needs_nothing() -> None:
    todo = plan(
        [route("10.8.0.0/16", gateway="10.1.0.1", metrics=[{"quickack": 1}])], networks("10.8.1.0/24")
    )
    assert todo == quickack.RouteChanges()


@pytest.mark.parametrize(
    ("routes", "network", "note"),
    [
        ([LAN], "192.168.0.0/16", "no route leads to 192.168.0.0/16"),
        ([DEFAULT], "fd00::/8", "no route leads to fd00::/8"),
        ([DEFAULT, route("10.8.0.0/16", type="unreachable")], "10.8.1.0/24", "no route leads to 10.8.1.0/24"),
        (
            [route("10.1.0.9", gateway="10.1.0.2")],
            "10.1.0.9",
            "the route to the single address 10.1.0.9 is not changed: add quickack 1 to it",
        ),
        (
            [route("10.8.0.0/16", encap="mpls")],
            "10.8.0.0/16",
            "the route to 10.8.0.0/16 has encap and is not changed: add quickack 1 to it",
        ),
    ],
)
def test_what_cannot_be_had_is_said_and_keeps_nothing_else_back(
    routes: list[JsonRoute], network: str, note: str
) -> None:
    todo = plan([*LOOPBACK, *routes], networks(network, "127.0.0.0/8"))
    assert todo.notes == (note,)
    assert len(todo.add) == 2  # those of the loopback


class Kernel:
    """The routes of a machine; takes twins as ip(8) would, and refuses them for as long as it is told to."""

    def __init__(self, *routes: JsonRoute) -> None:
        self.routes = list(routes)
        self.refuses = False

    def read(self) -> list[JsonRoute]:
        return list(self.routes)

    def apply(self, todo: RouteChanges) -> list[str]:
        if self.refuses:
            return ["ip: Operation not permitted"]
        gone = set(todo.remove)
        self.routes = [one for one in self.routes if not gone & set(quickack.own([one]))]
        self.routes += map(printed, todo.add)
        return []


def test_a_way_that_goes_and_comes_back_is_followed_without_an_operator() -> None:
    kernel = Kernel(LAN, DEFAULT)
    sync = RouteSync(networks("10.1.0.0/24"), kernel.read, kernel.apply)
    sync.turn()
    assert len(quickack.own(kernel.routes)) == 2
    kernel.routes = []  # the interface went down, and ours with it
    sync.turn()
    assert kernel.routes == []
    kernel.routes = [LAN]
    assert sync.turn().status == "towards 10.1.0.0/24"
    assert len(quickack.own(kernel.routes)) == 2


def test_what_cannot_be_done_is_said_once_shown_as_long_as_it_lasts_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kernel = Kernel(DEFAULT)
    kernel.refuses = True
    sync = RouteSync(networks("10.8.0.0/16"), kernel.read, kernel.apply)
    told = [sync.turn().status for _ in range(3)]
    assert told == ["towards 10.8.0.0/16; ip: Operation not permitted"] * 3
    assert [one.message for one in caplog.records if one.levelname == "WARNING"] == [
        "ip: Operation not permitted"
    ]
    kernel.refuses = False
    assert sync.turn().status == "towards 10.8.0.0/16"
    assert len(quickack.own(kernel.routes)) == 2


def test_a_datagram_of_the_kernel_tells_whose_routes_have_changed() -> None:
    def message(protocol: int) -> bytes:
        body = struct.pack("=8BI", 2, 24, 0, 0, 254, protocol, 0, 1, 0) + b"\0" * 6
        return struct.pack("=IHHII", 16 + len(body), 24, 0, 0, 0) + body + b"\0\0"

    assert list(protocols(message(2) + message(221))) == [2, 221]
    assert list(protocols(b"")) == []


@pytest.mark.parametrize(
    ("setting", "status"),
    [("[127.0.0.0/8]", 0), ("[]", 1), ("[nonsense]", 255)],
    ids=["a network is wanted", "none is: skipped", "unreadable: failed"],
)
def test_systemd_is_told_whether_there_is_anything_to_do(
    setting: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ddwd.yaml").write_text(f"network:\n  quickack: {setting}\n")
    monkeypatch.setenv("DDWD_CONFIG", str(tmp_path / "ddwd.yaml"))
    monkeypatch.setattr("sys.argv", ["ddwd-quickack", "--wanted"])
    assert main() == status


def test_the_unit_takes_back_the_routes_of_that_protocol() -> None:
    unit = (REPO / "systemd" / "ddwd-quickack.service").read_text(encoding="utf-8")
    assert [line for line in unit.splitlines() if line.startswith("ExecStopPost")] == [
        f"ExecStopPost=/usr/bin/ip -{version} route flush table all proto {PROTOCOL}" for version in (4, 6)
    ]
