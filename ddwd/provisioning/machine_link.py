"""Render stunnel's settings for ddwd-tls@link, the link between the machines of one portal, and check the settings of a divided portal.

Pure functions. A part on another machine is reached on this machine's loopback, at its usual port: stunnel forwards the connection
by TLS, and both sides show a certificate of the link's authority. So every part connects to this machine only, and no connection
between machines is unencrypted. The other machine accepts all connections on one port: the server name (SNI) selects the part, and
the certificate states the roles of the calling machine, so that a gateway in a DMZ reaches STOW-RS only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ddwd.config.schema import HERE, ROLES
from ddwd.config.tls import CREDENTIAL, LINK, LINK_CA, LINK_KEY, of_link

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.config.schema import Config, Loaded, Role
    from ddwd.core.errors import ConfigProblem

UNIT = "ddwd-tls@link"
_KEY_OF_UNIT = f"/run/credentials/{UNIT}.service/{CREDENTIAL}"
_COMMON = """\
; Written by ddwd-provision from ddwd.yaml at each start.
foreground = yes
debug = notice
pid =
cert = {folder}/{certificate}
key = {key}
CAfile = {folder}/{authority}
verifyChain = yes
requireCert = yes
sslVersionMin = TLSv1.2
ciphers = ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM
options = NO_RENEGOTIATION
sessionResume = no
socket = l:SO_KEEPALIVE=1
socket = r:SO_KEEPALIVE=1
TIMEOUTbusy = 10
TIMEOUTclose = 10
TIMEOUTconnect = 5
"""
"""Sessions are not resumed, since stunnel would not check the certificate again."""


class LinkTunnel(NamedTuple):
    """A tunnel to a part on another machine: its role, its server name (SNI), the other machine, and the address on this machine."""

    role: Role
    part: str
    host: str
    accept: str


class Offer(NamedTuple):
    """A part of this machine that others may reach: its name, its port, and the roles whose machines may reach it."""

    part: str
    port: int
    roles: tuple[Role, ...]


class LinkedReceiver(NamedTuple):
    """A C-STORE receiver, with the address at which ORTHANC2 of this machine reaches it."""

    aet: str
    host: str
    port: int


def subject(role: Role) -> str:
    """Return the DNS name in the certificate of a machine that has this role."""
    return f"{role}.ddwd.internal"


def tunnels(config: Config) -> tuple[LinkTunnel, ...]:
    """Return the tunnels to the parts on other machines that this machine needs."""
    found = []
    for node in (config.gateway, config.storage):
        if config.has(node.name):
            continue
        if config.has("extractor"):
            found.append(LinkTunnel(node.name, f"{node.name}-dicom", node.host, f"{HERE}:{node.dicom_port}"))
        if config.has("extractor") or (node.name == "storage" and config.has("gateway")):
            found.append(LinkTunnel(node.name, f"{node.name}-http", node.host, f"{HERE}:{node.http_port}"))
    for extractor, receiver in zip(config.extractors, _distant(config), strict=True):
        accept = f"{receiver.host}:{receiver.port}"
        found.append(LinkTunnel("extractor", "scp", extractor.host, accept))
    return tuple(found)


def receivers(config: Config) -> tuple[LinkedReceiver, ...]:
    """Return the receivers that ORTHANC2 sends to: this machine's own first, each of the others at its own loopback address."""
    scp = config.scp
    own = (LinkedReceiver(scp.aet, scp.host, scp.port),) if config.has("extractor") else ()
    return own + _distant(config)


def _distant(config: Config) -> tuple[LinkedReceiver, ...]:
    return tuple(
        LinkedReceiver(extractor.aet, f"127.0.1.{number}", config.scp.port)
        for number, extractor in enumerate(config.extractors, start=1)
    )


def offers(config: Config) -> tuple[Offer, ...]:
    """Return the parts that other machines may reach here; the first is also for callers that send no server name (SNI)."""
    if not config.is_linked:
        return ()
    found = []
    if config.has("storage"):
        found.append(Offer("storage-http", config.storage.http_port, ("gateway", "extractor")))
        found.append(Offer("storage-dicom", config.storage.dicom_port, ("extractor",)))
    if config.has("gateway"):
        found.append(Offer("gateway-http", config.gateway.http_port, ("extractor",)))
        found.append(Offer("gateway-dicom", config.gateway.dicom_port, ("extractor",)))
    if config.has("extractor"):
        found.append(Offer("scp", config.scp.port, ("storage",)))
    return tuple(found)


def render(config: Config) -> str | None:
    """Return the settings of stunnel, or None if all parts run on this machine."""
    if not config.is_linked:
        return None
    common = _COMMON.format(folder=config.link.folder, certificate=LINK, key=_KEY_OF_UNIT, authority=LINK_CA)
    return common + "".join([*_server_sections(config), *_client_sections(config)])


def _server_sections(config: Config) -> Iterator[str]:
    parts = offers(config)
    for number, offer in enumerate((parts[0], *parts)):
        name = "link" if number == 0 else offer.part
        entry = f"accept = {config.link.port}" if number == 0 else f"sni = link:{offer.part}"
        checks = "".join(f"checkHost = {subject(role)}\n" for role in offer.roles)
        yield f"\n[{name}]\n{entry}\nconnect = {HERE}:{offer.port}\n{checks}"


def _client_sections(config: Config) -> Iterator[str]:
    for number, tunnel in enumerate(tunnels(config), start=1):
        yield (
            f"\n[to-{number}-{tunnel.part}]\nclient = yes\naccept = {tunnel.accept}\n"
            f"connect = {tunnel.host}:{config.link.port}\n"
            f"sni = {tunnel.part}\ncheckHost = {subject(tunnel.role)}\n"
        )


def problems(loaded: Loaded) -> Iterator[ConfigProblem]:
    """Yield the settings that contradict the roles."""
    if not loaded.config.roles:
        yield loaded.problem("roles", "no role is given", f"name some of {', '.join(ROLES)}")
        return
    for check in (_hosts, _undivided, _extractors):
        for key, what, instead in check(loaded.config):
            yield loaded.problem(key, what, instead)


_Found = tuple[str, str, str]
"""A setting, what is wrong with it, and what to write instead."""


def _hosts(config: Config) -> Iterator[_Found]:
    """Check that an Orthanc on another machine has a host, and one on this machine has none."""
    for node in (config.gateway, config.storage):
        key, name = f"{node.name}.host", node.name
        if config.has(name):
            if node.host != HERE:
                yield key, f"{name} is in roles, so it runs here", f"remove it, or take {name} out of roles"
        elif node.host == HERE and (config.has("extractor") or name == "storage"):
            yield key, f"{name} is not in roles, and its machine is not given", "write the other machine here"


def _undivided(config: Config) -> Iterator[_Found]:
    """Check the settings for several parts on one machine: their hops, and their disks.

    The hops within one machine of a divided portal use no TLS: only the link is encrypted, by its own authority.
    """
    inner = {
        "tls.dicomweb": config.tls.dicomweb,
        "tls.storage": config.tls.storage,
        "tls.scp": config.tls.scp,
    }
    for key in (key for key, is_on in inner.items() if is_on and config.is_linked):
        yield key, "is for hops within one machine", "write false: the link encrypts between machines"
    if config.commitment.modalities and set(config.roles) != set(ROLES):
        yield "commitment.modalities", "storage commitment needs a machine with all roles", "write []"
    for name in (node.name for node in (config.gateway, config.storage) if not config.has(node.name)):
        if config.retention.free(name) is not None:
            what = f"the disk of {name} is on another machine"
            yield f"retention.{name}_free", what, f"set retention.{name}_days"


def _extractors(config: Config) -> Iterator[_Found]:
    """Check the extractors of the other machines, and the files of the link."""
    if config.has("storage") and not receivers(config):
        what = "no extractor retrieves from storage"
        yield "extractors", what, "name the extractors of the other machines"
    if config.extractors and not config.has("storage"):
        yield "extractors", "storage runs on another machine", "write it on the machine of storage"
    titles = [receiver.aet for receiver in receivers(config)]
    for aet in sorted({aet for aet in titles if titles.count(aet) > 1}):
        yield "extractors", f"AE title {aet} is used twice", "give each machine its own scp.aet"
    needed = [*of_link(config), config.link.folder / LINK_KEY] if config.is_linked else []
    for path in needed:
        if not path.exists():
            instead = "make it with sudo ddwd link FOLDER on one of the machines"
            yield "roles", f"{path} does not exist", instead
