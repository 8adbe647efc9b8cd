"""Render the settings of stunnel, which accepts HTTPS for the Orthancs: ddwd-tls@gateway and ddwd-tls@storage.

The web server of Debian's Orthanc cannot use TLS: civetweb calls a function that OpenSSL 3 no longer has, and crashes at the first
HTTPS connection (docs/security.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.config import tls
from ddwd.config.schema import HERE
from ddwd.provisioning.orthanc_config import KEY_OF_UNIT

if TYPE_CHECKING:
    from ddwd.config.schema import Config, NodeName

NODES: tuple[NodeName, ...] = ("gateway", "storage")
PROGRAM = Path("/usr/bin/stunnel4")
_BASE = """\
; Written by ddwd-provision from ddwd.yaml at each start.
foreground = yes
debug = notice
pid =
"""
_SERVICE = """
[{name}]
accept = {accept}
connect = {here}:{port}
cert = {certificate}
key = {key}
{peers}sslVersionMin = TLSv1.2
ciphers = ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM
options = NO_RENEGOTIATION
TIMEOUTbusy = 10
TIMEOUTclose = 10
TIMEOUTconnect = 10
"""
_PEERS = "CAfile = {trusted}\nrequireCert = yes\nverifyChain = yes\n"
"""A client without a certificate of the authority fails in the handshake, which may take at most ten seconds."""


def render(config: Config, node: NodeName) -> str | None:
    """Return the settings of the TLS proxy of that Orthanc, or None if it needs no proxy."""
    own = config.node(node)
    services: list[tuple[str, str, int, str]] = []
    if node == "storage" and config.tls.dicomweb:
        accept = f"{HERE}:{config.tls.dicomweb_port}"
        peers = _PEERS.format(trusted=tls.authority(config))
        services.append(("dicomweb", accept, own.http_port, peers))
    if config.web.open:
        # browsers need no certificate: people log in to Orthanc by password
        services.append(("web", str(config.web.port_for(node)), own.http_port, ""))
    if not services or not config.has(node):
        return None
    certificate, key = tls.files(config, node).certificate, KEY_OF_UNIT.format(unit=f"tls@{node}")
    return _BASE + "".join(
        _SERVICE.format(
            name=name, accept=accept, here=HERE, port=port, certificate=certificate, key=key, peers=peers
        )
        for name, accept, port, peers in services
    )
