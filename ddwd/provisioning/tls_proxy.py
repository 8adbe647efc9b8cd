"""Render the settings of stunnel, which accepts HTTPS for the Orthancs: STOW-RS by ddwd-tls@storage, people's web pages by
ddwd-tls@web-gateway and ddwd-tls@web-storage. People's connections have processes of their own, with few places: a person who uses these up
keeps other people from the pages, and no image from its way.

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
    from collections.abc import Mapping

    from ddwd.config.schema import Config, NodeName

STOW = "storage"
WEB: Mapping[str, NodeName] = {"web-gateway": "gateway", "web-storage": "storage"}
"""The Orthanc whose pages each instance for people serves."""
INSTANCES = (STOW, *WEB)
"""Instances of ddwd-tls@ for the Orthancs of this machine."""
UNIT = "ddwd-tls@{instance}"
WEB_LIMITS = ("LimitNOFILE=60", "TasksMax=48")
"""Connections of people at once to one Orthanc: 27, as stunnel accepts one for each two descriptors, and each has a thread."""
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
{more}sslVersionMin = TLSv1.2
ciphers = ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM
options = NO_RENEGOTIATION
TIMEOUTbusy = 10
TIMEOUTclose = 10
TIMEOUTconnect = 10
"""
_PEERS = "CAfile = {trusted}\nrequireCert = yes\nverifyChain = yes\n"
"""A client without a certificate of the authority fails in the handshake, which may take at most ten seconds."""
_IDLE = "TIMEOUTidle = 60\n"
"""Seconds after which the connection of a browser that is silent is closed; the browser makes a new one when it needs it."""


def render(config: Config, instance: str) -> str | None:
    """Return the settings of that instance, or None if the settings of the portal do not need it."""
    if instance == STOW:
        if not (config.tls.dicomweb and config.has("storage")):
            return None
        accept = f"{HERE}:{config.tls.dicomweb_port}"
        peers = _PEERS.format(trusted=tls.authority(config))
        return _service(config, "storage", instance, name="dicomweb", accept=accept, more=peers)
    node = WEB[instance]
    if not (config.web.open and config.has(node)):
        return None
    # browsers need no certificate: people log in to Orthanc by password
    return _service(config, node, instance, name="web", accept=str(config.web.port_for(node)), more=_IDLE)


def _service(config: Config, node: NodeName, instance: str, *, name: str, accept: str, more: str) -> str:
    return _BASE + _SERVICE.format(
        name=name,
        accept=accept,
        here=HERE,
        port=config.node(node).http_port,
        certificate=tls.files(config, node).certificate,
        key=KEY_OF_UNIT.format(unit=f"tls@{instance}"),
        more=more,
    )
