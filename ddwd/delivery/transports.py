"""Transports to a destination, DICOMweb and DIMSE: both submit jobs of the gateway and query the destination through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ddwd.core.errors import NotFoundError, PeerRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ddwd.config.routing import Destination
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import DeliveryJobs

_PAGE = 1000
_PAGES = 100


class DestinationTransport(Protocol):
    """Port to one destination. Every method raises PeerDownError if the gateway itself does not answer."""

    name: str
    kind: str

    def submit(self, images: Iterable[OrthancId], priority: int) -> str:
        """Have the gateway send these; return the job's ID. Raises PeerRefusedError, NotFoundError."""

    def listed(self, study_uid: str) -> frozenset[str] | None:
        """Return the SOPInstanceUIDs that the destination has of the study; None if it cannot be queried, or its answer is incomplete."""

    def answers(self) -> bool:
        """Return whether it answers at all, even with an error."""


def kind(destination: Destination) -> str:
    """Return the name of the protocol, for messages."""
    return "DICOMweb" if destination.url is not None else "DIMSE"


def transport_to(destination: Destination, gateway: DeliveryJobs) -> DestinationTransport:
    """Return the transport to this destination."""
    return Dicomweb(destination, gateway) if destination.url is not None else Dimse(destination, gateway)


class Dicomweb:
    """STOW-RS and QIDO-RS (PS3.18 sections 10.5 and 10.6): the images it lists are the proof. Queries use a server entry with a short time-out."""

    def __init__(self, destination: Destination, gateway: DeliveryJobs) -> None:
        self.name, self.kind = destination.name, kind(destination)
        self._server, self._query_server = destination.server, destination.query_server
        self._gateway = gateway

    def submit(self, images: Iterable[OrthancId], priority: int) -> str:
        return self._gateway.stow(self._server, images, priority)

    def listed(self, study_uid: str) -> frozenset[str] | None:
        # page by page, for a server may return fewer than requested
        found: set[str] = set()
        try:
            for _ in range(_PAGES):
                arguments = {"limit": str(_PAGE), "offset": str(len(found))}
                rows = self._gateway.search(self._query_server, f"/studies/{study_uid}/instances", arguments)
                if not rows:
                    return frozenset(found)
                if not (new := {_sop_uid(row) for row in rows} - found - {""}):
                    return None  # it returns the first page only: whether it has more is unknown
                found |= new
        except (PeerRefusedError, NotFoundError):
            pass
        return None

    def answers(self) -> bool:
        try:
            self._gateway.search(self._query_server, "/studies", {"limit": "1"})
        except PeerRefusedError as error:
            return error.reason not in _UNREACHABLE
        except NotFoundError:
            return True
        return True


class Dimse:
    """C-STORE (PS3.4 annex B): the success of the job is the proof. A warning counts as success; so does 0x0111, duplicate SOP instance."""

    def __init__(self, destination: Destination, gateway: DeliveryJobs) -> None:
        self.name, self.kind = destination.name, kind(destination)
        self._modality = destination.server
        self._gateway = gateway

    def submit(self, images: Iterable[OrthancId], priority: int) -> str:
        return self._gateway.store(self._modality, images, priority)

    def listed(self, study_uid: str) -> frozenset[str] | None:
        del study_uid
        return None  # a storage SCP need not answer queries

    def answers(self) -> bool:
        try:
            self._gateway.echoes(self._modality)
        except (PeerRefusedError, NotFoundError):
            return False
        return True


_UNREACHABLE = frozenset({9, 43})
"""Orthanc's NetworkProtocol, which it makes of an HTTP status of 5xx too, and Timeout."""


def _sop_uid(row: dict[str, Any]) -> str:
    values = row.get("00080018", {}).get("Value") or [""]
    return str(values[0])
