"""Render `destinations` of ddwd.yaml into the gateway's configuration: DICOMweb servers and DIMSE modalities. Pure functions.

A destination does not become a sender: its entry allows it no request to the gateway. Orthanc has one list of authorities for all
HTTPS servers (HttpsCACertificates), so the authorities of all destinations are written to one file, with the portal's own or the
machine's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddwd.config import tls
from ddwd.config.paths import Paths
from ddwd.provisioning import sender_acl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ddwd.config.routing import Destination
    from ddwd.config.schema import Config

_SEND_SECONDS = 900
"""Limit for one job of any size: Orthanc's time-out covers the whole transfer."""
_ASK_SECONDS = 15
_ACKNOWLEDGE_SECONDS = 120
"""How long a destination may take to answer one C-STORE."""
_OF_THE_MACHINE = Path("/etc/ssl/certs/ca-certificates.crt")


def servers(destinations: Sequence[Destination]) -> dict[str, dict[str, Any]]:
    """Return the entries of DicomWeb.Servers: two for each destination, with the time-outs for sending and for queries."""
    found: dict[str, dict[str, Any]] = {}
    for one in destinations:
        if one.url is None:
            continue
        login = {"Username": one.user, "Password": one.password or ""} if one.user else {}
        server = {"Url": f"{one.url.rstrip('/')}/", **login, "ChunkedTransfers": True}
        found[one.server] = server | {"Timeout": _SEND_SECONDS}
        found[one.query_server] = server | {"Timeout": _ASK_SECONDS}
    return found


def modalities(destinations: Sequence[Destination], known: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entries of DicomModalities. A destination that is a sender too (in `known`) keeps the sender's permissions.

    Orthanc identifies a modality by its AE title, so it uses one of both entries.
    """
    senders = {str(entry["AET"]).lower(): entry for entry in known.values()}
    return {
        one.server: {
            "AET": one.aet,
            "Host": one.host,
            "Port": one.port,
            **{key: bool(senders.get(str(one.aet).lower(), {}).get(key)) for key in sender_acl.allowing()},
            "AllowTranscoding": False,
            "Timeout": _ACKNOWLEDGE_SECONDS,
            "UseDicomTls": one.tls,
        }
        for one in destinations
        if one.url is None
    }


def authorities(config: Config) -> list[Path]:
    """Return the files of the authorities that the gateway trusts for HTTPS; empty without a destination by HTTPS."""
    secure = [one for one in config.destinations if one.url is not None and one.url.startswith("https:")]
    if not secure:
        return []
    own = [tls.authority(config)] if config.tls.dicomweb else []
    return list(dict.fromkeys([*own, *(one.ca or _OF_THE_MACHINE for one in secure)]))


def bundle(config: Config) -> Path:
    """Return the path of the file with all of `authorities`, which ddwd-provision writes."""
    return Paths(config).tls / "destinations.pem"
