"""Part of the schema: the nodes, and the sections about connections: hosts, ports, encryption. Import from schema.py."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ddwd.config import parsers
from ddwd.config.declaration import setting
from ddwd.config.parsers import PORT, Network

NodeName = Literal["gateway", "storage"]
HERE = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class OrthancNode:
    """One of the two Orthancs. Its ports are on this machine's loopback even if it runs on another `host`: the link leads there."""

    name: NodeName
    aet: str
    host: str
    dicom_port: int
    http_port: int

    @property
    def url(self) -> str:
        """Base of its REST API, which answers on the loopback only."""
        return f"http://127.0.0.1:{self.http_port}"


@dataclass(frozen=True, slots=True)
class Gateway(OrthancNode):
    """ORTHANC1, which the modalities send to by C-STORE."""

    name: NodeName = "gateway"
    aet: str = setting("ORTHANC1", parsers.aet)
    """AE title that a sender must call (1 to 16 characters)."""
    host: str = setting(HERE, parsers.host)
    """The machine it runs on; 127.0.0.1 is this one. If it is another, the ports below lead there, from this machine only."""
    dicom_port: int = setting(4242, PORT, "DICOM_PORT1", listens=True)
    """Port for DICOM; the standard one, 104, works too. ddwd-acceptor listens there and passes the images on to ORTHANC1."""
    orthanc_port: int = setting(4252, PORT, listens=True)
    """Port of ORTHANC1's own DICOM server, open to this machine only: for ddwd-acceptor."""
    associations: int = setting(600, parsers.whole(10, 800))
    """Associations at once, of all senders together; one more is rejected as transient (local limit exceeded)."""
    associations_each: int = setting(300, parsers.whole(5, 800))
    """Associations at once of one address, so that one machine cannot use up all of them."""
    answer_within: float = setting(25.0, parsers.seconds(5, 3600))
    """Seconds that an image waits for those before it, and then that ORTHANC1 has to store it, with one more for each 10 MB; else it is answered 0xA700."""
    http_port: int = setting(8042, PORT, "HTTP_PORT1", listens=True)
    """Port of its web pages and REST API, open to this machine only, by login."""


@dataclass(frozen=True, slots=True)
class Storage(OrthancNode):
    """ORTHANC2, which receives by DICOMweb and is retrieved from by C-MOVE."""

    name: NodeName = "storage"
    aet: str = setting("ORTHANC2", parsers.aet)
    """AE title that a sender must call."""
    host: str = setting(HERE, parsers.host)
    """The machine it runs on; 127.0.0.1 is this one."""
    dicom_port: int = setting(4243, PORT, "DICOM_PORT2", listens=True)
    """Port for DICOM."""
    http_port: int = setting(8043, PORT, "HTTP_PORT2", listens=True)
    """Port of its web pages, REST API and DICOMweb, open to this machine only, by login."""


@dataclass(frozen=True, slots=True)
class Scp:
    """The portal's own C-STORE receiver, the destination of the C-MOVE."""

    aet: str = setting("PYTHON_SCP", parsers.aet)
    """AE title of the portal's own receiver, under which ORTHANC2 knows it."""
    host: str = setting(HERE, parsers.host)
    """Address the receiver listens on; the loopback, since only ORTHANC2 connects to it."""
    port: int = setting(11112, PORT, listens=True)
    """Port for DICOM."""


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """How the machines of one portal reach each other: always by TLS with certificates on both sides (ddwd-tls@link.service; needs the
    package stunnel4). `ddwd link FOLDER` makes the certificates, and FOLDER for the other machine. Not used where all roles are here."""

    port: int = setting(8450, PORT, listens=True)
    """Port by which the machines of one portal reach each other, the same on each machine."""
    networks: tuple[Network, ...] = setting((), parsers.network)
    """With network.firewall: the machines that may reach it, as [10.0.0.2]; [] is every one."""
    folder: Path = setting(Path("/etc/ddwd/link"), parsers.folder)
    """Folder of its authority, certificate and key."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The network between the senders and this machine."""

    quickack: tuple[Network, ...] = setting((ipaddress.IPv4Network("127.0.0.0/8"),), parsers.network)
    """Networks of senders that are slow with small images (see docs/troubleshoot.md#small-images-arrive-slowly). They are acknowledged at
    once: a sender that leaves Nagle's algorithm on, as plain dcmsend and old modalities do, otherwise waits 40 ms for each small message.
    Networks and single addresses, as [127.0.0.0/8, 10.1.0.0/16]; 0.0.0.0/0 is every sender; [] is none."""
    firewall: Literal["auto", "true", "false"] = setting("auto", parsers.switch_or_auto)
    """A table of nftables (ddwd-firewall.service): only the networks in `senders` reach gateway.dicom_port, each machine by
    gateway.associations_each connections at most, and only this machine any other port of the portal. No other port and no other rule of
    nftables is touched. The ports are also reserved: systemd lets no process but the portal's services bind them. auto: where nftables
    works; true: it must; false: no table, no reserved port."""


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Encryption (TLS 1.2 or later), each hop by itself, always with certificates on both sides. First: ddwd tls init
    It makes what is missing in `folder`: two authorities (ca.pem for the portal's own parts, senders-ca.pem for the modalities) and
    NAME.pem with NAME.key for gateway, storage, scp, extractor and operator (ddwd's own commands). Files of your own with these names
    are used as they are. ddwd tls issue NAME makes one for a modality; ddwd tls show lists when each of them expires."""

    gateway: str = setting("off", parsers.choice("off", "both", "only"))
    """DICOM from the modalities by TLS: `off`, `both` (a second port) or `only` (see docs/encryption.md). With both: plain on
    gateway.dicom_port and TLS on gateway_port, during a migration (needs the package stunnel4). With only: TLS on gateway.dicom_port."""
    gateway_port: int = setting(2762, PORT, listens=True)
    """Port for DICOM by TLS beside the plain one; 2762 is the registered one."""
    dicomweb: bool = setting(False, parsers.switch)
    """true: STOW-RS from ORTHANC1 to ORTHANC2 by HTTPS (needs the package stunnel4: Debian's Orthanc cannot serve HTTPS by itself)."""
    dicomweb_port: int = setting(8444, PORT, listens=True)
    """Port for it, open to this machine only."""
    storage: bool = setting(False, parsers.switch)
    """true: C-MOVE of the extractor to ORTHANC2 by TLS."""
    scp: bool = setting(False, parsers.switch)
    """true: C-STORE from ORTHANC2 to the receiver by TLS."""
    folder: Path = setting(Path("/etc/ddwd/tls"), parsers.folder)
    """Folder of the certificates and keys."""
    gateway_certificate: Path | None = setting(None, parsers.folder)
    """Certificate that the modalities see, if it is not gateway.pem in that folder. In PEM form: the certificate, then those between it
    and its authority."""
    gateway_key: Path | None = setting(None, parsers.folder)
    """Its key, without a pass phrase, readable for root alone."""
    senders_ca: Path | None = setting(None, parsers.folder)
    """The authorities whose modalities are accepted, in PEM form, if they are not in senders-ca.pem in that folder."""

    @property
    def is_used(self) -> bool:
        """Whether any hop is encrypted."""
        return self.gateway != "off" or self.dicomweb or self.storage or self.scp


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The web pages of both Orthancs, for other machines. On this machine they are at gateway.http_port and storage.http_port."""

    open: bool = setting(False, parsers.switch)
    """true: the web pages by HTTPS for other machines, with the logins of `ddwd credentials`. Needs the package stunnel4, and first:
    ddwd tls init. The certificates are gateway.pem and storage.pem of tls.folder."""
    networks: tuple[Network, ...] = setting((), parsers.network)
    """With network.firewall: the networks that may reach them, as [10.4.0.0/16]; [] is every one."""
    gateway_port: int = setting(8442, PORT, listens=True)
    """Port for HTTPS of ORTHANC1's pages."""
    storage_port: int = setting(8443, PORT, listens=True)
    """Port for HTTPS of ORTHANC2's pages."""

    def port_for(self, node: NodeName) -> int:
        """Port for HTTPS of that Orthanc's pages."""
        return self.gateway_port if node == "gateway" else self.storage_port
