"""Who may send to the gateway, as `senders` of ddwd.yaml says: what Orthanc is given to hold them to it. Pure.

Orthanc's own list knows whole AE titles, and one address for each: by it a stranger gets no association (PS3.8 section 9.3.4, calling
AE title not recognized). It has no networks and no patterns, so orthanc/senders.lua looks at the pair of both again, before an
image is stored; what it refuses is answered 0xA700. Either way Orthanc logs it, and the monitor tells the audit.
Who may ask for storage commitment stands there too, where the answer goes does not: ddwd-commitment gives it.
The portal's own commands come from this machine; for what else does, only the AE title counts: TLS may have ended here.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any

from ddwd.config.parsers import Sender
from ddwd.core.model import INBOX_AET, SELF_TEST_AET, SEND_AET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ddwd.config.loader import Config

SCRIPT = "senders.lua"
_ASKING = ("StorageCommitment",)
_HERE = ipaddress.IPv4Network("127.0.0.0/8")
_OWN = tuple(Sender(aet, ipaddress.IPv4Network("127.0.0.1")) for aet in (SELF_TEST_AET, SEND_AET, INBOX_AET))
_NOBODYS_PORT = 1
_REQUESTS = ("Echo", "Find", "FindWorklist", "Get", "Move", "Store", "StorageCommitment")


def rules(senders: Sequence[Sender]) -> list[dict[str, Any]]:
    """What orthanc/senders.lua reads: patterns of AE titles, each with the first and the last address of its network."""
    return [
        {
            "Aet": one.aet.lower(),
            "First": int(one.network.network_address),
            "Last": int(one.network.broadcast_address),
        }
        for one in (*senders, *_OWN)
    ]


def admits(senders: Sequence[Sender], aet: str, address: str) -> bool:
    """The rule itself: whether one who calls itself so may send from there."""
    source = ipaddress.IPv4Address(address)
    return not senders or any(
        _matches(one.aet, aet) and (source in one.network or source in _HERE) for one in (*senders, *_OWN)
    )


def _matches(pattern: str, aet: str) -> bool:
    escaped = re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(escaped, aet.strip(" ").lower()) is not None


def orthanc(config: Config) -> dict[str, Any]:
    """What becomes of `senders` in the gateway's configuration."""
    senders = (*config.senders, *_OWN)
    if not config.senders or any(one.is_pattern for one in senders):
        return {
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowEcho": True,
            "DicomCheckModalityHost": False,
            "DicomModalities": _modalities(config, {}),
        }
    titles = {one.aet.lower(): one for one in senders}
    return {
        "DicomAlwaysAllowStore": False,
        "DicomAlwaysAllowEcho": False,
        "DicomCheckModalityHost": (
            len(titles) == len(senders)
            and all(map(_is_one_address, senders))
            and config.tls.gateway != "both"  # who comes by TLS then comes from this machine
        ),
        "DicomModalities": _modalities(config, titles),
    }


def _modalities(config: Config, titles: Mapping[str, Sender]) -> dict[str, Any]:
    """One entry for each AE title: those that may send, and those that may ask for storage commitment."""
    askers = {one.aet.lower(): one for one in config.commitment.modalities}
    listed = [
        modality(one.aet, str(one.network.network_address), "Store", *(_ASKING if title in askers else ()))
        for title, one in titles.items()
    ]
    others = [
        modality(one.aet, one.address, *_ASKING) for title, one in askers.items() if title not in titles
    ]
    return {
        f"{what}-{number}": entry
        for what, entries in (("sender", listed), ("asker", others))
        for number, entry in enumerate(entries, start=1)
    }


def modality(aet: str, host: str, *requests: str) -> dict[str, Any]:
    """An entry of DicomModalities for one that may ask for this, and C-ECHO. Orthanc itself never calls it: the port is nobody's."""
    return {"AET": aet, "Host": host, "Port": _NOBODYS_PORT, **allowing("Echo", *requests)}


def allowing(*requests: str) -> dict[str, bool]:
    """What an entry of DicomModalities may ask of that Orthanc: these requests and no other."""
    return {f"Allow{request}": request in requests for request in _REQUESTS}


def _is_one_address(sender: Sender) -> bool:
    return sender.network.prefixlen == sender.network.max_prefixlen
