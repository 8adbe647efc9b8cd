"""Who may send, by `senders` of ddwd.yaml: AE title and address must match one entry. Pure.

For a connection from this machine only the AE title is checked: the portal's own commands connect from here.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from ddwd.config.parsers import Sender
from ddwd.core.model import INBOX_AET, SELF_TEST_AET, SEND_AET

if TYPE_CHECKING:
    from collections.abc import Sequence

_HERE = ipaddress.IPv4Network("127.0.0.0/8")
_OWN = tuple(Sender(aet, ipaddress.IPv4Network("127.0.0.1")) for aet in (SELF_TEST_AET, SEND_AET, INBOX_AET))


def admits(senders: Sequence[Sender], aet: str, address: str) -> bool:
    """Return whether a sender with this AE title may send from this address; everyone may if there is no list."""
    source = ipaddress.ip_address(address)
    listed = [sender for sender in (*senders, *_OWN) if _matches(sender.aet, aet)]
    return not senders or any(source in sender.network or source in _HERE for sender in listed)


def _matches(pattern: str, aet: str) -> bool:
    escaped = re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(escaped, aet.strip(" ").lower()) is not None
