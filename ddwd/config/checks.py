"""Compare settings with each other: two parts with one port, a rule with an unknown destination, retention that can never apply. Pure."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from ddwd.config.parsers import DEFAULT
from ddwd.config.schema import AET_KEYS, PORT_KEYS, value_of

if TYPE_CHECKING:
    from collections.abc import Container

    from ddwd.config.schema import Config, Loaded
    from ddwd.core.errors import Problem


def contradictions(loaded: Loaded, refused: Container[str]) -> list[Problem]:
    """Return a problem for each contradiction; keys in `refused` have no value of their own and are left out."""
    used = [key for key in ports(loaded.config) if key not in refused]
    return [
        *_clashes(loaded, used, "port"),
        *_clashes(loaded, [key for key in AET_KEYS if key not in refused], "AE title"),
        *_unknown_destinations(loaded),
        *_duplicate_modalities(loaded),
        *_impossible_retention(loaded),
    ]


def ports(config: Config) -> list[str]:
    """Return the keys of the ports that this machine listens on with these settings."""
    unused = set() if config.tls.gateway == "both" else {"tls.gateway_port"}
    unused |= set() if config.tls.dicomweb else {"tls.dicomweb_port"}
    unused |= set() if config.web.open else {"web.gateway_port", "web.storage_port"}
    unused |= set() if config.is_linked else {"link.port"}
    if not config.has("extractor"):
        unused |= {"scp.port", *(key for key in PORT_KEYS if key.startswith(_absent(config)))}
    return [key for key in PORT_KEYS if key not in unused]


def _absent(config: Config) -> tuple[str, ...]:
    """Return the prefixes of the keys of the Orthancs that this machine neither has nor reaches."""
    absent = () if config.has("gateway") else ("gateway.",)
    return absent if config.has("storage") or config.has("gateway") else (*absent, "storage.")


def _clashes(loaded: Loaded, keys: list[str], what: str) -> list[Problem]:
    """Report each pair with the same value, at the key of the two that was written."""
    problems = []
    for first, second in combinations(keys, 2):
        value = value_of(loaded.config, first)
        if value == value_of(loaded.config, second):
            reported, other = (second, first) if loaded.sources[second] != DEFAULT else (first, second)
            taken = f"{what} {value} is used by {other} too"
            problems.append(loaded.problem(reported, taken, f"give each its own {what}"))
    return problems


def _duplicate_modalities(loaded: Loaded) -> list[Problem]:
    """Report each AE title that has two places for its report."""
    titles = [one.aet.lower() for one in loaded.config.commitment.modalities]
    return [
        loaded.problem("commitment.modalities", f"{one.aet} is listed twice", "give each AE title one place")
        for number, one in enumerate(loaded.config.commitment.modalities)
        if one.aet.lower() in titles[:number]
    ]


def _unknown_destinations(loaded: Loaded) -> list[Problem]:
    """Report each rule that sends to a destination that is not in `destinations`."""
    known = {one.name for one in loaded.config.destinations}
    return [
        loaded.problem(
            "routes", f"{name!r} in also of {route.name} is no destination", "name it in destinations"
        )
        for route in loaded.config.routes
        for name in route.also
        if name not in known
    ]


def _impossible_retention(loaded: Loaded) -> list[Problem]:
    """Report each rule of `retention` and the routes that can never apply, or would remove the last copy unasked."""
    config = loaded.config
    return [loaded.problem(*found) for found in config.retention.contradictions(config.routes)]
