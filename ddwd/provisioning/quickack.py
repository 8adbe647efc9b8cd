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
from typing import TYPE_CHECKING, Any, NamedTuple, cast

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
_KNOWN = frozenset({
    "type", "dst", "tos", "table", "gateway", "via", "dev", "protocol", "scope", "prefsrc", "metric", "flags", "metrics",
    "nexthops", "nhid", "pref", "expires", "version",
})  # fmt: skip
"""Attributes that a twin copies or does not need; a route with any other attribute (such as an encapsulation) gets no twin."""
_LABELS = {"prefsrc": "src", "protocol": "proto", "gateway": "via"}
"""Arguments of ip(8) that are not named as in its JSON."""
_IP = "/usr/bin/ip"
_SECONDS = 20


class Twin(NamedTuple):
    """One of the portal's routes: its IP version, and its arguments for ip(8)."""

    version: int
    words: tuple[str, ...]

    @property
    def add(self) -> list[str]:
        """Command that adds the route; in the local table it must come before the kernel's own."""
        verb = "prepend" if "local" in self.words else "append"
        return [_IP, f"-{self.version}", "route", verb, *self.words]

    @property
    def remove(self) -> list[str]:
        """Command that removes the route."""
        return [_IP, f"-{self.version}", "route", "del", *self.words]


class RouteChanges(NamedTuple):
    """Twins to remove and to add, in this order, and notes about networks that get none."""

    remove: tuple[Twin, ...] = ()
    add: tuple[Twin, ...] = ()
    notes: tuple[str, ...] = ()


class _KernelRoute(NamedTuple):
    """A route that is not the portal's, with its network parsed."""

    network: Network
    facts: JsonRoute

    @property
    def is_unicast(self) -> bool:
        return str(self.facts.get("type", "unicast")) == "unicast"

    @property
    def is_quick(self) -> bool:
        return any(bool(metrics.get("quickack")) for metrics in self.facts.get("metrics", ()))

    @property
    def is_loopback(self) -> bool:
        """Whether it leads to this machine by 127.0.0.0/8; other addresses of this machine may move to another one."""
        is_ipv4 = isinstance(self.network, ipaddress.IPv4Network)
        return self.facts.get("type") == "local" and is_ipv4 and self.network.is_loopback

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
    results = [twins(routes, network) for network in networks]
    needed = dict.fromkeys(twin for found, _ in results for twin in found)
    existing = own(routes)
    return RouteChanges(
        remove=tuple(twin for twin in existing if twin not in needed),
        add=tuple(twin for twin in needed if twin not in existing),
        notes=tuple(dict.fromkeys(note for _, notes in results for note in notes)),
    )


def own(routes: Iterable[JsonRoute]) -> tuple[Twin, ...]:
    """Return the twins among the routes."""
    return tuple(_as_twin(facts) for facts in routes if facts.get("protocol") == PROTOCOL)


def twins(routes: Iterable[JsonRoute], network: Network) -> tuple[list[Twin], list[str]]:
    """Return the twins that one network needs, in the order of their originals, and a note for each route that cannot have one."""
    parsed = (_KernelRoute(_network(facts), facts) for facts in routes if facts.get("protocol") != PROTOCOL)
    foreign = [route for route in parsed if route.network.version == network.version]
    found = [
        route.twin(route.network)
        for route in foreign
        if route.is_loopback and _contains(network, route.network)
    ]
    if network.is_loopback:
        return found, []
    main = [
        route
        for route in foreign
        if route.facts.get("table", "main") == "main" and not route.network.is_loopback
    ]
    taken = {route.network for route in main}
    serving = list(_serving(main, network))
    notes = [] if any(route.is_unicast for route, _ in serving) else [f"no route leads to {network}"]
    for route, target in serving:
        if not route.is_unicast or route.is_quick:
            continue
        if complaint := _unfit(route, target):
            notes.append(complaint)
        else:
            # the two halves of the network, or a single address itself
            found += [route.twin(part) for part in target.subnets() if part not in taken]
    return list(dict.fromkeys(found)), notes


def _serving(routes: Sequence[_KernelRoute], network: Network) -> Iterator[tuple[_KernelRoute, Network]]:
    """Yield each route by which senders in the network are reached, with the part of the network that it serves.

    A route inside the network serves all of its own addresses; the smallest route that contains the network serves the rest.
    """
    around = [route for route in routes if _contains(route.network, network)]
    smallest = max((route.network.prefixlen for route in around), default=0)
    for route in routes:
        if _contains(network, route.network):
            yield route, route.network
        elif route in around and route.network.prefixlen == smallest:
            yield route, network


def _contains(outer: Network, inner: Network) -> bool:
    return cast("ipaddress.IPv4Network", inner).subnet_of(cast("ipaddress.IPv4Network", outer))


def _unfit(route: _KernelRoute, target: Network) -> str:
    """Return why a route can have no twin, or an empty text."""
    hint = "is not changed: add quickack 1 to it"
    if target == route.network and target.prefixlen == target.max_prefixlen:
        return f"the route to the single address {target.network_address} {hint}"
    if unknown := sorted(route.facts.keys() - _KNOWN):
        return f"the route to {route.network} has {', '.join(unknown)} and {hint}"
    return ""


# --- input and output of ip(8) ----------------------------------------------------------------------------------------


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
    words = [*kind, str(network), *_pairs(facts, "tos", "table"), *_hop(facts)]
    words += _pairs(facts, "prefsrc", "scope", "metric", "protocol", "pref")
    for metrics in facts.get("metrics", ()):
        words += _pairs(metrics, *sorted(metrics))
    for hop in facts.get("nexthops", ()):
        words += ["nexthop", *_hop(hop), *_pairs(hop, "weight")]
    return Twin(network.version, tuple(words))


def _hop(facts: JsonRoute) -> list[str]:
    words = ["via", facts["via"]["family"], facts["via"]["host"]] if "via" in facts else []
    words += _pairs(facts, "gateway", "dev")
    return [*words, "onlink"] if "onlink" in facts.get("flags", ()) else words


def _pairs(facts: JsonRoute, *names: str) -> list[str]:
    found = (name for name in names if name in facts)
    return [word for name in found for word in (_LABELS.get(name, name), str(facts[name]))]


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
