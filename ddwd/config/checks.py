"""Compare settings with each other: two parts with one port, a route to an unknown destination, retention that can never apply.

Pure, but for `hooks_at_fault`, which looks at the hooks' executables on this machine.
"""

from __future__ import annotations

import os
from itertools import combinations
from typing import TYPE_CHECKING

from ddwd.config.parsers import DEFAULT
from ddwd.config.schema import AET_KEYS, PORT_KEYS, value_of
from ddwd.core import safe_folder

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from ddwd.config.schema import Config, Loaded
    from ddwd.core.errors import ConfigProblem


def contradictions(loaded: Loaded, refused: Container[str]) -> list[ConfigProblem]:
    """Return a problem for each contradiction; keys in `refused` have no value of their own and are left out."""
    config = loaded.config
    listening = [key for key in ports(config) if key not in refused]
    destinations = {destination.name for destination in config.destinations}
    titles = [station.aet.lower() for station in config.commitment.modalities]
    return [
        *_clashes(loaded, listening, "port"),
        *_clashes(loaded, [key for key in AET_KEYS if key not in refused], "AE title"),
        *_hidden_routes(loaded),
        *(
            loaded.problem(
                "routes", f"{name!r} in also of {route.name} is no destination", "name it in destinations"
            )
            for route in config.routes
            for name in route.also
            if name not in destinations
        ),
        *(
            loaded.problem(
                "commitment.modalities", f"{station.aet} is listed twice", "give each AE title one place"
            )
            for number, station in enumerate(config.commitment.modalities)
            if station.aet.lower() in titles[:number]
        ),
        *(loaded.problem(*found) for found in config.retention.contradictions(config.routes)),
    ]


def _hidden_routes(loaded: Loaded) -> Iterator[ConfigProblem]:
    routes = loaded.config.routes
    for number, route in enumerate(routes, start=1):
        if not route.when and (hidden := [below.name for below in routes[number:]]):
            what = f"{route.name} matches every study, so that no study gets to {', '.join(hidden)}"
            yield loaded.problem("routes", what, "put it last, or say in its `when` what it is for")
            return


def hooks_at_fault(config: Config) -> Iterator[tuple[str, str]]:
    """Yield a hook of a route that cannot be run, or that a user may change who may not change the settings; and what to do.

    ddwd-hooks gets every study of the route, so a user who may write to the executable, or replace it, could have them.
    """
    home = config.credentials_file.parent
    trusted = {0, home.stat().st_uid if home.is_dir() else os.geteuid()}
    for path in dict.fromkeys(route.run for route in config.routes if route.run is not None):
        if not (path.is_file() and os.access(path, os.X_OK)):
            yield f"{path} cannot be run", f"install it, then: chmod 755 {path}"
        elif place := safe_folder.foreign(path, trusted):
            what = f"{path} can be changed by others than root, by way of {place}"
            yield what, f"chown root:root {place} && chmod go-w {place}, or install it in /usr/local/bin"


def ports(config: Config) -> list[str]:
    """Return the keys of the ports that this machine listens on with these settings."""
    unused = set() if config.tls.gateway == "both" else {"tls.gateway_port"}
    unused |= set() if config.tls.dicomweb else {"tls.dicomweb_port"}
    unused |= set() if config.web.open else {"web.gateway_port", "web.storage_port"}
    unused |= set() if config.is_linked else {"link.port"}
    if not config.has("extractor"):
        # this machine reaches ORTHANC1 only if it runs here, and ORTHANC2 if either of the two runs here
        absent = {"gateway": not config.has("gateway"), "storage": not config.own_nodes}
        unused |= {"scp.port", *(key for key in PORT_KEYS if absent.get(key.partition(".")[0]))}
    return [key for key in PORT_KEYS if key not in unused]


def _clashes(loaded: Loaded, keys: list[str], what: str) -> list[ConfigProblem]:
    """Report each pair with the same value, at the key of the two that was written."""
    problems = []
    for first, second in combinations(keys, 2):
        value = value_of(loaded.config, first)
        if value == value_of(loaded.config, second):
            reported, other = (second, first) if loaded.sources[second] != DEFAULT else (first, second)
            taken = f"{what} {value} is used by {other} too"
            problems.append(loaded.problem(reported, taken, f"give each its own {what}"))
    return problems
