"""The link between the machines of one portal: stunnel's settings for ddwd-tls@link, and what must hold where `roles` are divided. Pure.

A part that runs on another machine is found on this machine's own loopback, at its usual port: stunnel leads there by TLS, with a
certificate of the link's own authority on both sides. So every part goes on to speak to this machine alone, and nothing between two
machines is plain. On the other side one port takes all; the name that is asked for (SNI) tells the part, and a certificate tells which
roles its machine has, so that a gateway in the DMZ gets no further than to STOW-RS.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ddwd.config.loader import HERE, ROLES
from ddwd.config.paths import Paths
from ddwd.config.tls import CREDENTIAL, LINK, LINK_CA, LINK_KEY, of_link

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.config.loader import Config, Loaded, Role
    from ddwd.core.errors import Problem

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
"""No session is resumed: it would be taken up without another look at the certificate."""


class Way(NamedTuple):
    """A part on another machine: the role there, what it is asked for as, and where it is found on this machine."""

    role: Role
    part: str
    host: str
    accept: str


class Offer(NamedTuple):
    """A part of this machine that others may reach: its port here, and the roles whose machines may."""

    part: str
    port: int
    roles: tuple[Role, ...]


class Receiver(NamedTuple):
    """A C-STORE receiver as ORTHANC2 of this machine reaches it."""

    aet: str
    host: str
    port: int


def subject(role: Role) -> str:
    """What a certificate says of a machine that has this role."""
    return f"{role}.ddwd.internal"


def ways(config: Config) -> tuple[Way, ...]:
    """What this machine needs of others."""
    found = []
    for node in (config.gateway, config.storage):
        if config.has(node.name):
            continue
        if config.has("extractor"):
            found.append(Way(node.name, f"{node.name}-dicom", node.host, f"{HERE}:{node.dicom_port}"))
        if config.has("extractor") or (node.name == "storage" and config.has("gateway")):
            found.append(Way(node.name, f"{node.name}-http", node.host, f"{HERE}:{node.http_port}"))
    distant = receivers(config)[-len(config.extractors) :] if config.extractors else ()
    for one, there in zip(config.extractors, distant, strict=True):
        found.append(Way("extractor", "scp", one.host, f"{there.host}:{there.port}"))
    return tuple(found)


def receivers(config: Config) -> tuple[Receiver, ...]:
    """Those that ORTHANC2 sends to: this machine's own first, the others each at a loopback address of its own."""
    own = (Receiver(config.scp.aet, config.scp.host, config.scp.port),) if config.has("extractor") else ()
    distant = (
        Receiver(one.aet, f"127.0.1.{number}", config.scp.port)
        for number, one in enumerate(config.extractors, start=1)
    )
    return (*own, *distant)


def offers(config: Config) -> tuple[Offer, ...]:
    """What others may reach here; the first is what who asks for nothing gets, under the same condition."""
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
    """The settings of stunnel; None where all runs here."""
    if not config.is_linked:
        return None
    common = _COMMON.format(
        folder=config.link.folder,
        certificate=LINK,
        key=_KEY_OF_UNIT,
        authority=LINK_CA,
    )
    return common + "".join([*_served(config), *_led(config)])


def _served(config: Config) -> Iterator[str]:
    known = offers(config)
    for number, one in enumerate((known[0], *known)):
        name = "link" if number == 0 else one.part
        way_in = f"accept = {config.link.port}" if number == 0 else f"sni = link:{one.part}"
        checks = "".join(f"checkHost = {subject(role)}\n" for role in one.roles)
        yield f"\n[{name}]\n{way_in}\nconnect = {HERE}:{one.port}\n{checks}"


def _led(config: Config) -> Iterator[str]:
    for number, one in enumerate(ways(config), start=1):
        yield (
            f"\n[to-{number}-{one.part}]\nclient = yes\naccept = {one.accept}\nconnect = {one.host}:{config.link.port}\n"
            f"sni = {one.part}\ncheckHost = {subject(one.role)}\n"
        )


def files(config: Config) -> list[Path]:
    """What must be there for it."""
    return [*of_link(config), config.link.folder / LINK_KEY] if config.is_linked else []


def flags(config: Config) -> dict[Path, bool]:
    """The files that the conditions of the units look for, and whether each is to be there."""
    return {Paths(config).role(role): config.has(role) for role in ROLES}


def problems(loaded: Loaded) -> Iterator[Problem]:
    """What cannot be with these roles."""
    config = loaded.config
    if not config.roles:
        yield loaded.problem("roles", "nothing is to run here", f"name some of {', '.join(ROLES)}")
        return
    yield from _hosts(loaded)
    yield from _inner_tls(loaded)
    yield from _whole(loaded)
    if config.has("storage") and not receivers(config):
        yield loaded.problem(
            "extractors", "nobody would fetch from storage", "name the extractors of the other machines"
        )
    if config.extractors and not config.has("storage"):
        yield loaded.problem("extractors", "storage runs elsewhere", "write it on the machine of storage")
    titles = [one.aet for one in receivers(config)]
    for aet in sorted({aet for aet in titles if titles.count(aet) > 1}):
        yield loaded.problem(
            "extractors", f"AE title {aet} is there twice", "give each machine its own scp.aet"
        )
    for path in files(config):
        if not path.exists():
            yield loaded.problem(
                "roles", f"{path} does not exist", "sudo ddwd link FOLDER makes it, on one of the machines"
            )


def _hosts(loaded: Loaded) -> Iterator[Problem]:
    """Who is elsewhere has a place, who is here has none."""
    for node in (loaded.config.gateway, loaded.config.storage):
        here, key = loaded.config.has(node.name), f"{node.name}.host"
        if here and node.host != HERE:
            yield loaded.problem(
                key,
                f"{node.name} is in roles, so it runs here",
                f"remove it, or take {node.name} out of roles",
            )
        needed = loaded.config.has("extractor") or node.name == "storage"
        if not here and needed and node.host == HERE:
            yield loaded.problem(
                key,
                f"{node.name} is not in roles, and nothing says where it runs",
                "write the other machine here",
            )


def _whole(loaded: Loaded) -> Iterator[Problem]:
    """What looks at the disks of more than one part."""
    config = loaded.config
    if config.commitment.modalities and set(config.roles) != set(ROLES):
        what = "storage commitment is answered by a machine with all roles"
        yield loaded.problem("commitment.modalities", what, "write []")
    for node in (config.gateway, config.storage):
        if not config.has(node.name) and config.retention.free(node.name) is not None:
            what = f"the room of {node.name} is on another machine"
            yield loaded.problem(f"retention.{node.name}_free", what, f"set retention.{node.name}_days")


def _inner_tls(loaded: Loaded) -> Iterator[Problem]:
    """The link is encrypted; the inner hops of one machine need their own authority on both sides of it."""
    config = loaded.config
    if not config.is_linked:
        return
    for key, is_on in (
        ("tls.dicomweb", config.tls.dicomweb),
        ("tls.storage", config.tls.storage),
        ("tls.scp", config.tls.scp),
    ):
        if is_on:
            yield loaded.problem(
                key, "is for hops within one machine", "write false: between machines the link encrypts"
            )
