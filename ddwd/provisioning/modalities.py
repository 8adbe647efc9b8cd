"""Render entries of Orthanc's DicomModalities: whom an Orthanc knows by AE title, and what each may request. Pure functions.

Who may send images is decided before: ddwd-acceptor checks `senders` and alone connects to ORTHANC1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddwd.config.schema import Config

_UNUSED_PORT = 1
_REQUESTS = ("Echo", "Find", "FindWorklist", "Get", "Move", "Store", "StorageCommitment")


def commitment_modalities(config: Config) -> dict[str, Any]:
    """Return an entry for each AE title that may request storage commitment, but not its address: ddwd-commitment answers."""
    return {
        f"asker-{number}": modality(station.aet, station.address, "StorageCommitment")
        for number, station in enumerate(config.commitment.modalities, start=1)
    }


def modality(aet: str, host: str, *requests: str) -> dict[str, Any]:
    """Return an entry of DicomModalities that allows these requests and C-ECHO. Orthanc never connects to it, so the port is unused."""
    return {"AET": aet, "Host": host, "Port": _UNUSED_PORT, **allowing("Echo", *requests)}


def allowing(*requests: str) -> dict[str, bool]:
    """Return the permissions of an entry of DicomModalities: these requests and no others."""
    return {f"Allow{request}": request in requests for request in _REQUESTS}
