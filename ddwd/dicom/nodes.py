"""The three DICOM nodes of the portal as its own parts reach them: address, AE title, and TLS where the settings have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.config import tls
from ddwd.core.model import EXTRACTOR_AET
from ddwd.dicom.upper_layer import Peer

if TYPE_CHECKING:
    from ddwd.config.schema import Config

_HERE = "127.0.0.1"


def gateway(config: Config, calling: str) -> Peer:
    """ORTHANC1, from the command line or the self test. Raises ConfigError."""
    node = config.gateway
    return Peer(_HERE, node.dicom_port, node.aet, calling, tls.to_gateway(config))


def storage(config: Config, name: tls.Name = "operator") -> Peer:
    """ORTHANC2, which answers one caller alone. Raises ConfigError."""
    node = config.storage
    return Peer(_HERE, node.dicom_port, node.aet, EXTRACTOR_AET, tls.to_storage(config, name))


def scp(config: Config, calling: str, name: tls.Name = "operator") -> Peer:
    """Our own SCP. Raises ConfigError."""
    node = config.scp
    return Peer(node.host, node.port, node.aet, calling, tls.to_scp(config, name))
