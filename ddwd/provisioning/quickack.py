"""Compute and apply routes with `quickack 1`, so that a sender's segments are acknowledged at once (for senders with Nagle's algorithm on).

The kernel delays an acknowledgement by 40 ms unless the route to the sender has `quickack 1`. Routes of the operator and of the
kernel are never changed. Each route into a network of `network.quickack` gets twins: routes for both halves of its network, with the
same gateway and device, and with the portal's protocol number, by which one command removes them all. The metric of a twin is higher
than that of the original, so that a route added later for the same half can be added and takes precedence. The kernel's loopback
routes are for single addresses already, so their twin is inserted before them; only the kernel uses those routes. Only the tables
`main` and `local` are read: with policy routing, the operator sets `quickack 1` in the other tables.

`twins` and `plan` are pure functions; `read` and `apply` run ip(8). Used by the daemon, which has CAP_NET_ADMIN, and by the doctor,
which only reads.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ddwd.core.errors import PeerRefusedError
from ddwd.provisioning.host import completed, must

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ddwd.config.parsers import Network

    JsonRoute = Mapping[str, Any]
    """One route as `ip -json route` prints it, with its IP `version`."""

PROTOCOL = "221"
"""Protocol number of the portal's routes, unassigned in Debian's /etc/iproute2/rt_protos. ddwd-quickack.service flushes routes by it."""
_METRIC_OFFSET = 188
"""Added to the metric of the original route."""
_LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")
_KNOWN = frozenset({
    "type", "dst", "tos", "table", "gateway", "via", "dev", "protocol", "scope", "prefsrc", "metric", "flags", "metrics",
    "nexthops", "nhid", "pref", "expires", "version",
})  # fmt: skip
"""Attributes that a twin copies or does not need; a route with any other attribute (such as an encapsulation) gets no twin."""
_IP = "/usr/bin/ip"
_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Twin:
    """One of the portal's routes: its IP version, and its arguments for ip(8)."""

    version: int
    words: tuple[str, ...]

    @property
    def add(self) -> list[str]:
        """Command that adds the route; in the local table it must come before the kernel's own."""
        return self._command("prepend" if "local" in self.words else "append")

    @property
    def remove(self) -> list[str]:
        """Command that removes the route."""
        return self._command("del")

    def _command(self, verb: str) -> list[str]:
        return [_IP, f"-{self.version}", "route", verb, *self.words]


@dataclass(frozen=True, slots=True)
class RouteChanges:
    """Twins to remove and to add, in this order, and notes about networks that get none."""

    remove: tuple[Twin, ...] = ()
    add: tuple[Twin, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _KernelRoute:
    """A route that is not the portal's, with its network parsed."""

    network: Network
    facts: JsonRoute

    @property
    def is_unicast(self) -> bool:
        return str(self.facts.get("type", "unicast")) == "unicast"

    @property
    def is_quick(self) -> bool:
        return any(bool(metrics.get("quickack")) for metrics in self.facts.get("metrics", ()))

    def twin(self, network: Network) -> Twin:
        """Return a twin of this route for a part of its network."""
        facts = dict(self.facts) | {"dst": str(network), "protocol": PROTOCOL}
        if facts.get("table") != "local":
            facts["metric"] = int(facts.get("metric", 0)) + _METRIC_OFFSET
        metrics = {name: value for some in facts.get("metrics", ()) for name, value in some.items()}
        facts["metrics"] = [metrics | {"quickack": 1}]
        return _as_twin(facts)


def plan(routes: Iterable[JsonRoute], networks: Sequence[Network]) -> RouteChanges:
    """Return the changes from the existing twins to those that the networks need. Idempotent: twins are recognised by their protocol."""
    routes = list(routes)
    wanted: dict[Twin, None] = {}
    notes: list[str] = []
    for network in networks:
        mine, complaints = twins(routes, network)
        wanted |= dict.fromkeys(mine)
        notes += complaints
    there = own(routes)
    return RouteChanges(
        remove=tuple(twin for twin in there if twin not in wanted),
        add=tuple(twin for twin in wanted if twin not in there),
        notes=tuple(dict.fromkeys(notes)),
    )


def own(routes: Iterable[JsonRoute]) -> tuple[Twin, ...]:
    """Return the twins among the routes."""
    return tuple(_as_twin(one) for one in routes if one.get("protocol") == PROTOCOL)


def twins(routes: Iterable[JsonRoute], network: Network) -> tuple[list[Twin], list[str]]:
    """Return the twins that one network needs, in the order of their originals, and a note for each route that cannot have one."""
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


def _foreign(routes: Iterable[JsonRoute]) -> Iterator[_KernelRoute]:
    """Yield every route that is not the portal's."""
    return (_KernelRoute(_network(facts), facts) for facts in routes if facts.get("protocol") != PROTOCOL)


def _is_loopback(route: _KernelRoute) -> bool:
    """Return whether the route leads to this machine by 127.0.0.0/8; other addresses of this machine may move to another one."""
    network = route.network
    is_ipv4 = isinstance(network, ipaddress.IPv4Network)
    return route.facts.get("type") == "local" and is_ipv4 and _holds(_LOOPBACK, network)


def _ways(routes: Sequence[_KernelRoute], network: Network) -> Iterator[tuple[_KernelRoute, Network]]:
    """Yield each route by which senders in the network are reached, with the part of the network that it serves.

    A route inside the network serves all of its own addresses; the smallest route that contains the network serves the rest.
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


def _unfit(route: _KernelRoute, target: Network) -> str:
    """Return why a route can have no twin, or an empty text."""
    if target == route.network and target.prefixlen == target.max_prefixlen:
        return (
            f"the route to the single address {target.network_address} is not changed: add quickack 1 to it"
        )
    if strange := sorted(route.facts.keys() - _KNOWN):
        return (
            f"the route to {route.network} has {', '.join(strange)} and is not changed: add quickack 1 to it"
        )
    return ""


def _halves(network: Network) -> list[Network]:
    """Return the more specific networks that cover it: its two halves, or a single address itself."""
    return [network] if network.prefixlen == network.max_prefixlen else list(network.subnets())


# --- as ip(8) prints it and takes it ----------------------------------------------------------------------------------


def _network(facts: JsonRoute) -> Network:
    """Return the destination as a network; `default` does not name its IP version."""
    dst = facts["dst"]
    if dst == "default":
        dst = {4: "0.0.0.0/0", 6: "::/0"}[facts["version"]]
    return ipaddress.ip_network(dst)


def _as_twin(facts: JsonRoute) -> Twin:
    """Return the route as arguments of ip(8): equal routes give equal arguments."""
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
    return [word for name, label in names.items() if name in facts for word in (label, str(facts[name]))]


def read() -> list[JsonRoute]:
    """Return every route of the tables main and local, each with its IP `version`. Raises PeerRefusedError."""
    found: list[JsonRoute] = []
    for version in (4, 6):
        text = _run([_IP, f"-{version}", "-json", "route", "show", "table", "all"])
        rows = [row | {"version": version} for row in json.loads(text or "[]")]
        found += [row for row in rows if row.get("table", "main") in {"main", "local"}]
    return found


def apply(todo: RouteChanges) -> list[str]:
    """Make the changes; return the error of each that ip(8) refuses, after trying all of them."""
    refused = []
    for command in [*(twin.remove for twin in todo.remove), *(twin.add for twin in todo.add)]:
        try:
            _run(command)
        except PeerRefusedError as error:
            refused.append(str(error))
    return refused


def _run(command: list[str]) -> str:
    return must(completed(command, timeout=_SECONDS), " ".join(command)).out
