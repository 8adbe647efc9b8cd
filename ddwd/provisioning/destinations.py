"""What becomes of `destinations` in the gateway's configuration: servers that it sends to by DICOMweb, modalities by DIMSE. Pure.

A destination is no sender by that: its entry may ask the gateway for nothing. Orthanc has one list of authorities for all its
HTTPS servers (HttpsCACertificates), so the one of each destination is put together with the portal's own, or the machine's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddwd.config import tls
from ddwd.config.paths import Paths
from ddwd.provisioning import sender_acl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ddwd.config.loader import Config
    from ddwd.config.routing import Destination

_SEND_SECONDS = 900
"""One job, whatever it holds: Orthanc's time-out is that of the whole transfer."""
_ASK_SECONDS = 15
_ACKNOWLEDGE_SECONDS = 120
"""A destination may take so long to answer one C-STORE."""
_OF_THE_MACHINE = Path("/etc/ssl/certs/ca-certificates.crt")


def servers(destinations: Sequence[Destination]) -> dict[str, dict[str, Any]]:
    """DicomWeb.Servers: each twice, as it is sent to and as it is asked."""
    return {
        name: _server(one, seconds)
        for one in destinations
        if one.url is not None
        for name, seconds in ((one.server, _SEND_SECONDS), (one.asked, _ASK_SECONDS))
    }


def _server(one: Destination, seconds: int) -> dict[str, Any]:
    login = {"Username": one.user, "Password": one.password or ""} if one.user else {}
    return {"Url": f"{(one.url or '').rstrip('/')}/", **login, "ChunkedTransfers": True, "Timeout": seconds}


def modalities(destinations: Sequence[Destination], known: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """DicomModalities; one that is a sender too (`known`) may what it may as such, for Orthanc knows both by their one AE title."""
    return {one.server: _modality(one, known) for one in destinations if one.url is None}


def _modality(one: Destination, known: Mapping[str, Any]) -> dict[str, Any]:
    title = (one.aet or "").lower()
    twin: Mapping[str, Any] = next(
        (entry for entry in known.values() if str(entry["AET"]).lower() == title), {}
    )
    return {
        "AET": one.aet,
        "Host": one.host,
        "Port": one.port,
        **{key: bool(twin.get(key)) for key in sender_acl.allowing()},
        "AllowTranscoding": False,
        "Timeout": _ACKNOWLEDGE_SECONDS,
        "UseDicomTls": one.tls,
    }


def authorities(config: Config) -> list[Path]:
    """Whose certificates the gateway takes by HTTPS where there are destinations by HTTPS; nothing where there are none."""
    secure = [one for one in config.destinations if one.url is not None and one.url.startswith("https:")]
    if not secure:
        return []
    own = [tls.authority(config)] if config.tls.dicomweb else []
    return list(dict.fromkeys([*own, *(one.ca or _OF_THE_MACHINE for one in secure)]))


def bundle(config: Config) -> Path:
    """All of them in one file; ddwd-provision writes it."""
    return Paths(config).tls / "destinations.pem"
