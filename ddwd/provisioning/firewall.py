"""List the ports of the portal, who may reach each, and whose process may answer there, and apply that as a table of nftables.

The only list of ports: the firewall, the doctor and docs/security.md use it. The table (`inet ddwd`) belongs to the portal, filters
these ports only and accepts all other packets; no rule of the operator is changed. To a sender that may not reach a port, the port
is closed (TCP reset).

Any local user may take a port above 1023 while its service restarts. So what leaves one of these ports must come from a process of the
service's user: the SYN-ACK of another user is dropped, no handshake is ever complete, and so no password or image is sent to him.
"""

from __future__ import annotations

import grp
import ipaddress
import pwd
import shutil
from typing import TYPE_CHECKING, NamedTuple, cast

from ddwd.config.checks import ports as keys_of_ports
from ddwd.config.schema import value_of
from ddwd.core.errors import PeerRefusedError
from ddwd.provisioning.host import completed, must

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
  counter strangers {{ }}
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
  chain output {{
    type filter hook output priority filter; policy accept;
{answers}
{callers}
    oif "lo" tcp dport {{ {rest} }} ct state new meta skuid != {{ {known} }} ct count over {most} \
counter name crowded reject with tcp reset
  }}
}}
"""
_ANSWER = "    ct direction reply tcp sport {port} meta skuid != {{ {users} }} counter name strangers drop"
"""For a connection to that port. A port may be an ephemeral one of another program's own connection: that is left alone."""
_CALLER = """\
    oif "lo" ct direction original tcp dport {port} meta skuid != {{ {users} }} counter name strangers reject with tcp reset"""
_MOST_OF_OTHERS = 16
"""Connections to the REST interfaces at once of all local users together that are neither the portal's nor operators."""
GROUP = "ddwd"
"""Its members are operators: they may connect wherever the portal's own commands do."""
_ROOT = "root"
_LINK = "ddwd-tls-link"


class Port(NamedTuple):
    """A TCP port that the portal listens on, by its setting, and the networks of other machines that may reach it."""

    key: str
    number: int
    networks: tuple[Network, ...]


class Users(NamedTuple):
    """The user whose process listens on a port, and the users of this machine that connect to it; `None`: every user."""

    listens: str
    connect: tuple[str, ...] | None = None


USERS: Mapping[str, Users] = {
    "gateway.dicom_port": Users("ddwd-acceptor"),
    "gateway.orthanc_port": Users("ddwd-gateway", ("ddwd-acceptor",)),
    "gateway.http_port": Users("ddwd-gateway"),
    "storage.dicom_port": Users("ddwd-storage", ("ddwd", "ddwd-doctor")),
    "storage.http_port": Users("ddwd-storage"),
    "scp.port": Users("ddwd", ("ddwd-storage", "ddwd", "ddwd-doctor")),
    "tls.gateway_port": Users("ddwd-acceptor"),
    "tls.dicomweb_port": Users("ddwd-tls-storage", ("ddwd-gateway",)),
    "web.gateway_port": Users("ddwd-tls-web-gateway"),
    "web.storage_port": Users("ddwd-tls-web-storage"),
    "link.port": Users(_LINK),
}
"""Every port a machine may listen on. The doctor asks ORTHANC2 and the receiver for a C-ECHO, the receiver itself."""
_OTHERS = ("ddwd-commitment", "ddwd-courier", "ddwd-monitor")
"""Users of the portal that connect to the REST interfaces alone."""


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


def listeners(config: Config, key: str) -> tuple[str, ...]:
    """Return the users whose processes may listen on that port: where the service runs on another machine, the link does in its place."""
    own = USERS[key].listens
    return (own, _LINK) if config.is_linked and own != _LINK else (own,)


def table(config: Config, operators: Iterable[int] = ()) -> str:
    """Return the table in the language of nft(8); it replaces an existing one. The portal listens on no IPv6 port.

    `operators` are the user IDs of the members of group ddwd.
    """
    used, openings = ports(config), []
    for port in used:
        ipv4 = [network for network in port.networks if isinstance(network, ipaddress.IPv4Network)]
        if merged := ", ".join(map(str, ipaddress.collapse_addresses(ipv4))):
            openings.append(f"    tcp dport {port.number} ip saddr {{ {merged} }} jump sender")
    closed = ", ".join(map(str, sorted({port.number for port in used})))
    always = (_ROOT, *map(str, operators))
    answers, callers = [], []
    for port in used:
        answers.append(_ANSWER.format(port=port.number, users=", ".join(listeners(config, port.key))))
        users = USERS[port.key]
        if users.connect is not None:
            # what comes from another machine of the portal connects as the link
            link = (_LINK,) if config.is_linked else ()
            connect = ", ".join((*users.connect, *link, *always))
            callers.append(_CALLER.format(port=port.number, users=connect))
    own = {*_OTHERS, *(user for users in USERS.values() for user in (users.listens, *(users.connect or ())))}
    return _TABLE.format(
        table=TABLE,
        openings="\n".join(openings),
        closed=closed,
        connections=config.gateway.associations_each,
        answers="\n".join(answers),
        callers="\n".join(callers),
        rest=", ".join(str(port.number) for port in used if port.key.endswith(".http_port")),
        known=", ".join((*sorted(own), *always)),
        most=_MOST_OF_OTHERS,
    )


def operators() -> list[int]:
    """Return the user IDs of the members of group ddwd."""
    try:
        members, group = grp.getgrnam(GROUP).gr_mem, grp.getgrnam(GROUP).gr_gid
    except KeyError:  # not installed, as in `ddwd try`
        return []
    return sorted(user.pw_uid for user in pwd.getpwall() if user.pw_gid == group or user.pw_name in members)


def apply(config: Config) -> str:
    """Create the table, or remove it if the firewall is off in the settings; return what came of it.

    With `auto` a machine on which nftables does not work is one without the table. Raises PeerRefusedError.
    """
    wanted = config.network.firewall
    if wanted == "false":
        remove()
        return "network.firewall is false: no table"
    try:
        _nft("-f", "-", text=table(config, operators()))
    except PeerRefusedError as error:
        if wanted == "true":
            raise
        return f"network.firewall is auto, no table: {error}"
    return f"table {TABLE} is in place"


def remove() -> None:
    """Remove the portal's table, if there is one. Raises PeerRefusedError if it cannot be removed."""
    if not shutil.which(PROGRAM):
        return
    try:
        table_exists = is_there()
    except PeerRefusedError:  # the kernel has no nftables, and so no table
        return
    if table_exists:
        _nft("destroy", "table", *TABLE.split())


def is_there() -> bool:
    """Return whether the kernel has the table. Raises PeerRefusedError if this user may not list the tables."""
    return f"table {TABLE}" in _nft("list", "tables").splitlines()


def _nft(*words: str, text: str = "") -> str:
    answer = completed([PROGRAM, *words], complaint_line=0, input=text.encode(), timeout=_SECONDS)
    return must(answer, f"{PROGRAM} {' '.join(words)}").out
