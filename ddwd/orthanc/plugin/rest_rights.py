"""Who may make which request by REST, and which requests change nothing. Pure; asked inside Orthanc, by its plugin.

Orthanc has checked the password, and has put the method that `_method` or X-HTTP-Method-Override names in place of the request's own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ddwd.core.model import VIEWER

if TYPE_CHECKING:
    from collections.abc import Mapping

PORTAL = "ddwd"
"""Login of the extractor, the other services and the commands."""
_READING = frozenset({"/tools/find", "/tools/lookup", "/tools/count-resources"})
"""Requests by POST that make no change."""
_ORDINARY: Mapping[str, Mapping[str, re.Pattern[str]]] = {
    PORTAL: {
        "POST": re.compile(
            r"/tools/bulk-content"
            r"|/instances(/[0-9a-f-]+/attachments/dicom/verify-md5)?"
            r"|/dicom-web/servers/[^/]+/(stow|qido|get)"
            r"|/modalities/[^/]+/(store|echo)"
        ),
        "PUT": re.compile(r"/studies/[0-9a-f-]+/metadata/DdwdRoute"),
    },
    "gateway": {"POST": re.compile(r"/dicom-web/studies")},
}
"""What the portal's own logins do with every study: its effect is in the study's own events, in its custody record and in the ledger."""


class RestRequest(NamedTuple):
    """One request: the login, the method, the path without the query, the address that it came from."""

    user: str
    method: str
    path: str
    address: str

    @property
    def may_change(self) -> bool:
        """Whether it may change something: every method but GET, and every POST but those that only search."""
        return self.method not in {"GET", "HEAD"} and not (self.method == "POST" and self.path in _READING)

    @property
    def is_ordinary(self) -> bool:
        """Whether it is what the portal does with every study, by its own login."""
        pattern = _ORDINARY.get(self.user, {}).get(self.method)
        return pattern is not None and pattern.fullmatch(self.path) is not None

    @property
    def is_allowed(self) -> bool:
        """Whether its login may make it: the viewer only reads."""
        return self.user != VIEWER or not self.may_change
