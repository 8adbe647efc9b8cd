"""Render `senders` of ddwd.yaml, the list of who may send to the gateway, into Orthanc's configuration. Pure functions.

Orthanc's own list holds whole AE titles with one address each; Orthanc rejects the association of any other caller (PS3.8 section
9.3.4, calling AE title not recognized). The list supports neither networks nor patterns, so orthanc/senders.lua checks AE title and
address again before an image is stored, and refuses it with 0xA700. Orthanc logs both, and the monitor writes them to the audit trail.
The list also holds the modalities that may ask for storage commitment, but not where to answer: ddwd-commitment does that.
For a connection from this machine only the AE title is checked: the TLS of a sender may end here. The portal's own commands connect
from this machine.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any

from ddwd.config.parsers import Sender
from ddwd.core.model import INBOX_AET, SELF_TEST_AET, SEND_AET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ddwd.config.schema import Config

SCRIPT = "senders.lua"
_ASKING = ("StorageCommitment",)
_HERE = ipaddress.IPv4Network("127.0.0.0/8")
_OWN = tuple(Sender(aet, ipaddress.IPv4Network("127.0.0.1")) for aet in (SELF_TEST_AET, SEND_AET, INBOX_AET))
_UNUSED_PORT = 1
_REQUESTS = ("Echo", "Find", "FindWorklist", "Get", "Move", "Store", "StorageCommitment")


def rules(senders: Sequence[Sender]) -> list[dict[str, Any]]:
    """Return the table for orthanc/senders.lua: patterns of AE titles, each with the first and the last address of its network."""
    return [
        {
            "Aet": sender.aet.lower(),
            "First": int(sender.network.network_address),
            "Last": int(sender.network.broadcast_address),
        }
        for sender in (*senders, *_OWN)
    ]


def admits(senders: Sequence[Sender], aet: str, address: str) -> bool:
    """Return whether a sender with this AE title may send from this address."""
    source = ipaddress.IPv4Address(address)
    listed = [sender for sender in (*senders, *_OWN) if _matches(sender.aet, aet)]
    return not senders or any(source in sender.network or source in _HERE for sender in listed)


def _matches(pattern: str, aet: str) -> bool:
    escaped = re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(escaped, aet.strip(" ").lower()) is not None


def orthanc(config: Config) -> dict[str, Any]:
    """Return the part of the gateway's configuration that depends on `senders`."""
    senders = (*config.senders, *_OWN)
    is_open = not config.senders or any(sender.is_pattern for sender in senders)
    titles = {} if is_open else {sender.aet.lower(): sender for sender in senders}
    return {
        "DicomAlwaysAllowStore": is_open,
        "DicomAlwaysAllowEcho": is_open,
        "DicomCheckModalityHost": (
            len(titles) == len(senders)
            and all(sender.network.prefixlen == sender.network.max_prefixlen for sender in senders)
            and config.tls.gateway != "both"  # stunnel connects from this machine for senders by TLS
        ),
        "DicomModalities": _modalities(config, titles),
    }


def _modalities(config: Config, titles: Mapping[str, Sender]) -> dict[str, Any]:
    """Return one entry for each AE title that may send or ask for storage commitment."""
    askers = {station.aet.lower(): station for station in config.commitment.modalities}
    entries = {}
    for number, (title, sender) in enumerate(titles.items(), start=1):
        requests = ("Store", *(_ASKING if title in askers else ()))
        address = str(sender.network.network_address)
        entries[f"sender-{number}"] = modality(sender.aet, address, *requests)
    others = [station for title, station in askers.items() if title not in titles]
    for number, station in enumerate(others, start=1):
        entries[f"asker-{number}"] = modality(station.aet, station.address, *_ASKING)
    return entries


def modality(aet: str, host: str, *requests: str) -> dict[str, Any]:
    """Return an entry of DicomModalities that allows these requests and C-ECHO. Orthanc never connects to it, so the port is unused."""
    return {"AET": aet, "Host": host, "Port": _UNUSED_PORT, **allowing("Echo", *requests)}


def allowing(*requests: str) -> dict[str, bool]:
    """Return the permissions of an entry of DicomModalities: these requests and no others."""
    return {f"Allow{request}": request in requests for request in _REQUESTS}
