"""Render the settings of stunnel, which accepts TLS for an Orthanc that cannot: ddwd-tls@gateway and ddwd-tls@storage.

Debian's Orthanc offers either TLS or plain DICOM on its one DICOM port. Its web server cannot use TLS: civetweb calls a function that
OpenSSL 3 no longer has, and crashes at the first HTTPS connection. docs/security.md describes both.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.config import tls
from ddwd.provisioning.orthanc_config import KEY_OF_UNIT, senders_bundle

if TYPE_CHECKING:
    from ddwd.config.loader import Config, NodeName

NODES: tuple[NodeName, ...] = ("gateway", "storage")
PROGRAM = Path("/usr/bin/stunnel4")
_HERE = "127.0.0.1"
_BASE = """\
; Written by ddwd-provision from ddwd.yaml at each start.
foreground = yes
debug = notice
pid =
"""
_SERVICE = """
[{name}]
accept = {accept}
connect = {connect}
cert = {certificate}
key = {key}
CAfile = {trusted}
requireCert = yes
verifyChain = yes
sslVersionMin = TLSv1.2
ciphers = ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM
options = NO_RENEGOTIATION
TIMEOUTbusy = 10
TIMEOUTclose = 10
TIMEOUTconnect = 10
"""
"""A client without a certificate of the authority fails in the handshake, which may take at most ten seconds."""

_WEB = """
[web]
accept = {accept}
connect = {connect}
cert = {certificate}
key = {key}
sslVersionMin = TLSv1.2
ciphers = ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM
options = NO_RENEGOTIATION
TIMEOUTbusy = 10
TIMEOUTclose = 10
TIMEOUTconnect = 10
"""


def render(config: Config, node: NodeName) -> str | None:
    """Return the settings of the TLS proxy of that Orthanc, or None if it needs no proxy."""
    if not config.has(node):
        return None
    services = (_dicom(config) if node == "gateway" else _dicomweb(config)) + _web(config, node)
    return _BASE + services if services else None


def _dicom(config: Config) -> str:
    """Return the section for DICOM by TLS, beside the plain port."""
    if config.tls.gateway != "both":
        return ""
    return _service(
        config,
        "gateway",
        "dicom",
        str(config.tls.gateway_port),
        config.gateway.dicom_port,
        senders_bundle(config),
    )


def _dicomweb(config: Config) -> str:
    """Return the section for STOW-RS by HTTPS, for the gateway only."""
    if not config.tls.dicomweb:
        return ""
    accept = f"{_HERE}:{config.tls.dicomweb_port}"
    return _service(config, "storage", "dicomweb", accept, config.storage.http_port, tls.authority(config))


def _web(config: Config, node: NodeName) -> str:
    """Return the section for the web pages by HTTPS. Browsers need no certificate: people log in to Orthanc by password."""
    if not config.web.open:
        return ""
    return _WEB.format(
        accept=config.web.port_for(node),
        connect=f"{_HERE}:{config.node(node).http_port}",
        certificate=tls.files(config, node).certificate,
        key=KEY_OF_UNIT.format(unit=f"tls@{node}"),
    )


def _service(config: Config, node: NodeName, name: str, accept: str, port: int, trusted: Path) -> str:
    return _SERVICE.format(
        name=name,
        accept=accept,
        connect=f"{_HERE}:{port}",
        certificate=tls.files(config, node).certificate,
        key=KEY_OF_UNIT.format(unit=f"tls@{node}"),
        trusted=trusted,
    )
