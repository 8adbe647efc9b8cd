"""Which routes have a sender's segments acknowledged at once, for a sender that waits for them (Nagle's algorithm on).

The kernel delays an acknowledgement by 40 ms unless the route to the sender says `quickack 1`. No route of the operator's or the
kernel's is ever changed: each that leads into a network of `network.quickack` gets twins that are more specific (both halves of its
network), lead the same way, and carry a protocol number of our own, by which one command takes all of them back. Their metric
is higher than that of the original, so that a route which someone adds later for just that half neither fails nor loses.
Into the loopback, whose kernel routes are for single addresses already, a twin is put in front; nobody but the kernel touches those.
Only the tables `main` and `local` are looked at: who routes by policy sets `quickack 1` there.

`twins` and `plan` are pure; `read` and `apply` run ip(8). Used by the daemon, which has CAP_NET_ADMIN, and by the doctor, which only reads.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ddwd.core.errors import PeerRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ddwd.config.parsers import Network

    JsonRoute = Mapping[str, Any]
    """One route as `ip -json route` prints it, and the IP `version` that was asked for."""

PROTOCOL = "221"
"""Marks a route as ours; Debian's /etc/iproute2/rt_protos gives it to no one. ddwd-quickack.service flushes it by this number."""
_BEHIND = 188
"""Added to the metric of the original, of the same network where that is only half of it."""
_LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")
_KNOWN = frozenset({
    "type", "dst", "tos", "table", "gateway", "via", "dev", "protocol", "scope", "prefsrc", "metric", "flags", "metrics",
    "nexthops", "nhid", "pref", "expires", "version",
})  # fmt: skip
"""What a twin can have too, or need not: one with anything else (an encapsulation, say) is left alone."""
_IP = "/usr/bin/ip"
_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Twin:
    """A route of ours: its IP version, and how ip(8) is told of it."""

    version: int
    words: tuple[str, ...]

    @property
    def add(self) -> list[str]:
        """Command that makes it; in the local table it has to stand in front of the kernel's own."""
        return self._command("prepend" if "local" in self.words else "append")

    @property
    def remove(self) -> list[str]:
        """Command that takes it back."""
        return self._command("del")

    def _command(self, verb: str) -> list[str]:
        return [_IP, f"-{self.version}", "route", verb, *self.words]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for a list of networks, stale twins first; and what is to be said."""

    remove: tuple[Twin, ...] = ()
    add: tuple[Twin, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Route:
    """A foreign route, with its network parsed."""

    network: Network
    facts: JsonRoute

    @property
    def is_unicast(self) -> bool:
        return str(self.facts.get("type", "unicast")) == "unicast"

    @property
    def is_quick(self) -> bool:
        return any(bool(metrics.get("quickack")) for metrics in self.facts.get("metrics", ()))

    def twin(self, network: Network) -> Twin:
        """The same way to a part of its network."""
        facts = dict(self.facts) | {"dst": str(network), "protocol": PROTOCOL}
        if facts.get("table") != "local":
            facts["metric"] = int(facts.get("metric", 0)) + _BEHIND
        metrics = {name: value for some in facts.get("metrics", ()) for name, value in some.items()}
        facts["metrics"] = [metrics | {"quickack": 1}]
        return _as_twin(facts)


def plan(routes: Iterable[JsonRoute], networks: Sequence[Network]) -> Plan:
    """Hold what is there against what should be; idempotent, as what it adds is recognised by its protocol."""
    routes = list(routes)
    wanted: dict[Twin, None] = {}
    notes: list[str] = []
    for network in networks:
        mine, said = twins(routes, network)
        wanted |= dict.fromkeys(mine)
        notes += said
    there = own(routes)
    return Plan(
        remove=tuple(twin for twin in there if twin not in wanted),
        add=tuple(twin for twin in wanted if twin not in there),
        notes=tuple(dict.fromkeys(notes)),
    )


def own(routes: Iterable[JsonRoute]) -> tuple[Twin, ...]:
    """The twins that are there."""
    return tuple(_as_twin(one) for one in routes if one.get("protocol") == PROTOCOL)


def twins(routes: Iterable[JsonRoute], network: Network) -> tuple[list[Twin], list[str]]:
    """The twins one network needs, in the order of the originals, and what cannot be had for it, in words."""
    foreign = [one for one in _foreign(routes) if one.network.version == network.version]
    found = [one.twin(one.network) for one in foreign if _is_loopback(one) and _holds(network, one.network)]
    if network.is_loopback:
        return found, []
    main = [
        one for one in foreign if one.facts.get("table", "main") == "main" and not one.network.is_loopback
    ]
    taken = {one.network for one in main}
    ways = list(_ways(main, network))
    notes = [] if any(way.is_unicast for way, _ in ways) else [f"no route leads to {network}"]
    for way, target in ways:
        if not way.is_unicast or way.is_quick:
            continue
        if complaint := _unfit(way, target):
            notes.append(complaint)
        else:
            found += [way.twin(half) for half in _halves(target) if half not in taken]
    return list(dict.fromkeys(found)), notes


def _foreign(routes: Iterable[JsonRoute]) -> Iterator[_Route]:
    """Every route that is not ours."""
    return (_Route(_network(facts), facts) for facts in routes if facts.get("protocol") != PROTOCOL)


def _is_loopback(route: _Route) -> bool:
    """Tell a route to this machine itself, by 127.0.0.0/8; its other addresses may move to another one."""
    network = route.network
    is_ipv4 = isinstance(network, ipaddress.IPv4Network)
    return route.facts.get("type") == "local" and is_ipv4 and _holds(_LOOPBACK, network)


def _ways(routes: Sequence[_Route], network: Network) -> Iterator[tuple[_Route, Network]]:
    """Each route that senders of the network are reached by, with the part of it that counts.

    Those inside the network count whole. What they leave goes by the smallest that holds the network.
    """
    around = [one for one in routes if _holds(one.network, network)]
    smallest = max((one.network.prefixlen for one in around), default=0)
    for one in routes:
        if _holds(network, one.network):
            yield one, one.network
        elif one in around and one.network.prefixlen == smallest:
            yield one, network


def _holds(outer: Network, inner: Network) -> bool:
    return cast("ipaddress.IPv4Network", inner).subnet_of(cast("ipaddress.IPv4Network", outer))


def _unfit(route: _Route, target: Network) -> str:
    """Why a route can have no twin; nothing where it can."""
    if target == route.network and target.prefixlen == target.max_prefixlen:
        return f"the route to {target.network_address} alone is not ours to change: add quickack 1 to it"
    if strange := sorted(route.facts.keys() - _KNOWN):
        return (
            f"the route to {route.network} has {', '.join(strange)} and is left alone: add quickack 1 to it"
        )
    return ""


def _halves(network: Network) -> list[Network]:
    """What is more specific and covers it; a single address is that already."""
    return [network] if network.prefixlen == network.max_prefixlen else list(network.subnets())


# --- as ip(8) prints it and takes it ----------------------------------------------------------------------------------


def _network(facts: JsonRoute) -> Network:
    """Destination; `default` names no IP version."""
    dst = facts["dst"]
    if dst == "default":
        dst = {4: "0.0.0.0/0", 6: "::/0"}[facts["version"]]
    return ipaddress.ip_network(dst)


def _as_twin(facts: JsonRoute) -> Twin:
    """Two routes that are the same give the same words."""
    network = _network(facts)
    kind = [facts["type"]] if facts.get("type", "unicast") != "unicast" else []
    words = [*kind, str(network), *_pairs(facts, {"tos": "tos", "table": "table"}), *_hop(facts)]
    words += _pairs(
        facts, {"prefsrc": "src", "scope": "scope", "metric": "metric", "protocol": "proto", "pref": "pref"}
    )
    for metrics in facts.get("metrics", ()):
        words += _pairs(metrics, {name: name for name in sorted(metrics)})
    for hop in facts.get("nexthops", ()):
        words += ["nexthop", *_hop(hop), *_pairs(hop, {"weight": "weight"})]
    return Twin(network.version, tuple(words))


def _hop(facts: JsonRoute) -> list[str]:
    words = ["via", facts["via"]["family"], facts["via"]["host"]] if "via" in facts else []
    words += _pairs(facts, {"gateway": "via", "dev": "dev"})
    return [*words, "onlink"] if "onlink" in facts.get("flags", ()) else words


def _pairs(facts: JsonRoute, names: Mapping[str, str]) -> list[str]:
    return [word for name, said in names.items() if name in facts for word in (said, str(facts[name]))]


def read() -> list[JsonRoute]:
    """Every route of the tables main and local, each with its IP `version`; raises PeerRefusedError."""
    found: list[JsonRoute] = []
    for version in (4, 6):
        said = _run([_IP, f"-{version}", "-json", "route", "show", "table", "all"])
        rows = [row | {"version": version} for row in json.loads(said or "[]")]
        found += [row for row in rows if row.get("table", "main") in {"main", "local"}]
    return found


def apply(todo: Plan) -> list[str]:
    """Do it; what ip(8) refuses is returned in words, and keeps nothing else from being done."""
    refused = []
    for command in [*(twin.remove for twin in todo.remove), *(twin.add for twin in todo.add)]:
        try:
            _run(command)
        except PeerRefusedError as error:
            refused.append(str(error))
    return refused


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerRefusedError(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise PeerRefusedError(f"{' '.join(command)}: {said}")
    return done.stdout
