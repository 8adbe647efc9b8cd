"""List the ports of the portal and who may reach each, and apply that as a table of nftables.

The only list of ports: the firewall, the doctor and docs/security.md use it. The table (`inet ddwd`) belongs to the portal, filters
these ports only and accepts all other packets; no rule of the operator is changed. To a sender that may not reach a port, the port
is closed (TCP reset).
"""

from __future__ import annotations

import ipaddress
import shutil
from typing import TYPE_CHECKING, NamedTuple, cast

from ddwd.config.checks import ports as keys_of_ports
from ddwd.config.schema import value_of
from ddwd.core.errors import PeerRefusedError
from ddwd.provisioning.host import completed, must

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddwd.config.parsers import Network
    from ddwd.config.schema import Config

TABLE = "inet ddwd"
PROGRAM = "/usr/sbin/nft"
_SECONDS = 20
_TABLE = """\
table {table}
delete table {table}
table {table} {{
  counter refused {{ }}
  counter crowded {{ }}
  set sources {{ type ipv4_addr; size 65536; flags dynamic; }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iif "lo" accept
{openings}
    tcp dport {{ {closed} }} ct state new counter name refused reject with tcp reset
  }}
  chain sender {{
    ct state new add @sources {{ ip saddr ct count over {connections} }} \
counter name crowded reject with tcp reset
    accept
  }}
}}
"""


class Port(NamedTuple):
    """A TCP port that the portal listens on, by its setting, and the networks of other machines that may reach it."""

    key: str
    number: int
    networks: tuple[Network, ...]


def ports(config: Config) -> list[Port]:
    """Return every port in use. A port without networks is for this machine only."""
    everyone = (ipaddress.IPv4Network("0.0.0.0/0"),)
    browsers = config.web.networks or everyone
    senders = tuple(dict.fromkeys(sender.network for sender in config.senders)) or everyone
    if not config.has("gateway"):
        senders = ()
    networks: Mapping[str, tuple[Network, ...]] = {
        "gateway.dicom_port": senders,
        "tls.gateway_port": senders,
        "web.gateway_port": browsers,
        "web.storage_port": browsers,
        "link.port": config.link.networks or everyone,
    }
    return [
        Port(key, cast("int", value_of(config, key)), networks.get(key, ())) for key in keys_of_ports(config)
    ]


def table(config: Config) -> str:
    """Return the table in the language of nft(8); it replaces an existing one. The portal listens on no IPv6 port."""
    used, openings = ports(config), []
    for port in used:
        ipv4 = [network for network in port.networks if isinstance(network, ipaddress.IPv4Network)]
        if merged := ", ".join(map(str, ipaddress.collapse_addresses(ipv4))):
            openings.append(f"    tcp dport {port.number} ip saddr {{ {merged} }} jump sender")
    closed = ", ".join(map(str, sorted({port.number for port in used})))
    each = config.gateway.associations_each
    return _TABLE.format(table=TABLE, openings="\n".join(openings), closed=closed, connections=each)


def apply(config: Config) -> str:
    """Create the table, or remove it if the firewall is off in the settings; return what came of it.

    With `auto` a machine on which nftables does not work is one without the table. Raises PeerRefusedError.
    """
    wanted = config.network.firewall
    if wanted == "false":
        remove()
        return "network.firewall is false: no table"
    try:
        _nft("-f", "-", text=table(config))
    except PeerRefusedError as error:
        if wanted == "true":
            raise
        return f"network.firewall is auto, no table: {error}"
    return f"table {TABLE} is in place"


def remove() -> None:
    """Remove the portal's table, if nft is installed and the table exists. Raises PeerRefusedError."""
    if shutil.which(PROGRAM):
        _nft("destroy", "table", *TABLE.split())


def is_there() -> bool:
    """Return whether the kernel has the table. Raises PeerRefusedError if this user may not list the tables."""
    return f"table {TABLE}" in _nft("list", "tables").splitlines()


def _nft(*words: str, text: str = "") -> str:
    answer = completed([PROGRAM, *words], complaint_line=0, input=text.encode(), timeout=_SECONDS)
    return must(answer, f"{PROGRAM} {' '.join(words)}").out
