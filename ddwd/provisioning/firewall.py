"""List the ports of the portal and who may reach each, and apply that as a table of nftables.

The only list of ports: the firewall, the doctor and docs/security.md use it. The table (`inet ddwd`) belongs to the portal, filters
these ports only and accepts all other packets; no rule of the operator is changed. To a sender that may not reach a port, the port
is closed (TCP reset).
"""

from __future__ import annotations

import ipaddress
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.config.checks import ports as keys_of_ports
from ddwd.provisioning.host import completed, must

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.config.parsers import Network
    from ddwd.config.schema import Config

TABLE = "inet ddwd"
PROGRAM = "/usr/sbin/nft"
_CONNECTIONS = 16
"""Connections that one sender may hold at a time, so that one machine cannot use up all of them."""
_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port that the portal listens on, its setting, and the networks of other machines that may reach it."""

    number: int
    key: str
    purpose: str
    networks: tuple[Network, ...] = ()


def ports(config: Config) -> tuple[Port, ...]:
    """Return every port in use. A port without networks is for this machine only."""
    everyone = (ipaddress.IPv4Network("0.0.0.0/0"),)
    browsers = config.web.networks or everyone
    senders = tuple(dict.fromkeys(one.network for one in config.senders)) or everyone
    if not config.has("gateway"):
        senders = ()
    known = (
        Port(config.gateway.dicom_port, "gateway.dicom_port", f"DICOM of {config.gateway.aet}", senders),
        Port(config.gateway.http_port, "gateway.http_port", f"web pages and REST of {config.gateway.aet}"),
        Port(config.storage.dicom_port, "storage.dicom_port", f"DICOM of {config.storage.aet}"),
        Port(
            config.storage.http_port,
            "storage.http_port",
            f"web pages, REST and DICOMweb of {config.storage.aet}",
        ),
        Port(config.scp.port, "scp.port", f"DICOM of {config.scp.aet}"),
        Port(config.tls.gateway_port, "tls.gateway_port", f"DICOM of {config.gateway.aet} by TLS", senders),
        Port(config.tls.dicomweb_port, "tls.dicomweb_port", f"DICOMweb of {config.storage.aet} by HTTPS"),
        Port(
            config.web.gateway_port,
            "web.gateway_port",
            f"web pages of {config.gateway.aet} by HTTPS",
            browsers,
        ),
        Port(
            config.web.storage_port,
            "web.storage_port",
            f"web pages of {config.storage.aet} by HTTPS",
            browsers,
        ),
        Port(
            config.link.port,
            "link.port",
            "the other machines of the portal",
            config.link.networks or everyone,
        ),
    )
    used = keys_of_ports(config)
    return tuple(port for port in known if port.key in used)


def table(config: Config) -> str:
    """Return the table in the language of nft(8); it replaces an existing one."""
    known = ports(config)
    chain = ["type filter hook input priority filter; policy accept;", 'iif "lo" accept']
    chain += list(_openings(known))
    closed = ", ".join(str(number) for number in sorted({port.number for port in known}))
    chain.append(f"tcp dport {{ {closed} }} ct state new counter name refused reject with tcp reset")
    limited = (
        f"ct state new add @sources {{ ip saddr ct count over {_CONNECTIONS} }} counter name crowded "
        "reject with tcp reset"
    )
    return "\n".join(
        [
            f"table {TABLE}",
            f"delete table {TABLE}",
            f"table {TABLE} {{",
            "counter refused { }",
            "counter crowded { }",
            "set sources { type ipv4_addr; size 65536; flags dynamic; }",
            "chain input {",
            *(f"  {line}" for line in chain),
            "}",
            "chain sender {",
            f"  {limited}",
            "  accept",
            "}",
            "}",
            "",
        ]
    )


def _openings(known: tuple[Port, ...]) -> Iterator[str]:
    for port in known:
        if merged := _merged(port.networks):
            yield f"tcp dport {port.number} ip saddr {{ {', '.join(map(str, merged))} }} jump sender"


def _merged(networks: tuple[Network, ...]) -> list[ipaddress.IPv4Network]:
    """Return the IPv4 networks, merged into as few as possible. The portal listens on no IPv6 port."""
    return list(
        ipaddress.collapse_addresses(one for one in networks if isinstance(one, ipaddress.IPv4Network))
    )


def apply(config: Config) -> None:
    """Create the table, or remove it if the settings do not want it. Raises PeerRefusedError."""
    if config.network.firewall:
        _nft("-f", "-", text=table(config))
    else:
        remove()


def remove() -> None:
    """Remove the portal's table, if nft is installed and the table exists. Raises PeerRefusedError."""
    if shutil.which(PROGRAM):
        _nft("destroy", "table", *TABLE.split())


def is_there() -> bool:
    """Return whether the kernel has the table. Raises PeerRefusedError if this user may not ask."""
    return f"table {TABLE}" in _nft("list", "tables").splitlines()


def _nft(*words: str, text: str = "") -> str:
    answer = completed([PROGRAM, *words], complaint_line=0, input=text.encode(), timeout=_SECONDS)
    return must(answer, f"{PROGRAM} {' '.join(words)}").out
