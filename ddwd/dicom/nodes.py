"""The three DICOM nodes of the portal as its own parts reach them: address, AE title, and TLS if it is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ddwd.config import tls
from ddwd.config.schema_network import HERE
from ddwd.core.model import EXTRACTOR_AET
from ddwd.dicom.upper_layer import Peer

if TYPE_CHECKING:
    from ddwd.config.schema import Config

Part = Literal["gateway", "storage", "scp"]


def of_part(config: Config, part: Part, calling: str) -> Peer:
    """Return the node of a part; storage accepts the extractor's AE title alone, whatever `calling` is. Raises ConfigError."""
    if part == "storage":
        return storage(config)
    return (gateway if part == "gateway" else scp)(config, calling)


def gateway(config: Config, calling: str) -> Peer:
    """Return ORTHANC1, for the command line, the drop folder or the self test. Raises ConfigError."""
    node = config.gateway
    return Peer(HERE, node.dicom_port, node.aet, calling, tls.to_gateway(config))


def storage(config: Config, name: tls.Name = "operator") -> Peer:
    """Return ORTHANC2, which accepts one calling AE title only. Raises ConfigError."""
    node = config.storage
    return Peer(HERE, node.dicom_port, node.aet, EXTRACTOR_AET, tls.to_storage(config, name))


def scp(config: Config, calling: str, name: tls.Name = "operator") -> Peer:
    """Return our own SCP. Raises ConfigError."""
    node = config.scp
    return Peer(node.host, node.port, node.aet, calling, tls.to_scp(config, name))
