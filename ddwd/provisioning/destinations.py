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
from ddwd.provisioning.modalities import allowing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ddwd.config.routing import Destination
    from ddwd.config.schema import Config

_SEND_SECONDS = 900
"""Limit for one job of any size: Orthanc's time-out covers the whole transfer."""
_ASK_SECONDS = 15
_ACKNOWLEDGE_SECONDS = 120
"""How long a destination may take to answer one C-STORE."""
_SYSTEM_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def servers(destinations: Sequence[Destination]) -> dict[str, dict[str, Any]]:
    """Return the entries of DicomWeb.Servers: two for each destination, with the time-outs for sending and for queries."""
    found: dict[str, dict[str, Any]] = {}
    for target in destinations:
        if target.url is None:
            continue
        login = {"Username": target.user, "Password": target.password or ""} if target.user else {}
        server = {"Url": f"{target.url.rstrip('/')}/", **login, "ChunkedTransfers": True}
        found[target.server] = server | {"Timeout": _SEND_SECONDS}
        found[target.query_server] = server | {"Timeout": _ASK_SECONDS}
    return found


def modalities(destinations: Sequence[Destination], entries: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entries of DicomModalities. A destination that is a sender too (in `entries`) keeps the sender's permissions.

    Orthanc identifies a modality by its AE title, so it uses only one of the two entries.
    """
    senders = {str(entry["AET"]).lower(): entry for entry in entries.values()}
    return {
        target.server: {
            "AET": target.aet,
            "Host": target.host,
            "Port": target.port,
            **{key: bool(senders.get(str(target.aet).lower(), {}).get(key)) for key in allowing()},
            "AllowTranscoding": False,
            "Timeout": _ACKNOWLEDGE_SECONDS,
            "UseDicomTls": target.tls,
        }
        for target in destinations
        if target.url is None
    }


def authorities(config: Config) -> list[Path]:
    """Return the files of the authorities that the gateway trusts for HTTPS; empty without a destination by HTTPS."""
    secure = [target for target in config.destinations if (target.url or "").startswith("https:")]
    if not secure:
        return []
    own = [tls.authority(config)] if config.tls.dicomweb else []
    return list(dict.fromkeys([*own, *(target.ca or _SYSTEM_AUTHORITIES for target in secure)]))


def bundle(config: Config) -> Path:
    """Return the path of the file with all of `authorities`, which ddwd-provision writes."""
    return Paths(config).tls / "destinations.pem"


def dimse_authorities(config: Config) -> list[Path]:
    """Return the files of the authorities that the gateway trusts by DIMSE and TLS; empty without such a destination."""
    return list(
        dict.fromkeys(target.ca or tls.authority(config) for target in config.destinations if target.tls)
    )


def dimse_bundle(config: Config) -> Path:
    """Return the path of the file with all of `dimse_authorities`, which ddwd-provision writes."""
    return Paths(config).tls / "destinations-dimse.pem"
