"""Who may make which request by REST, and which requests change nothing. Pure; asked inside Orthanc, by its plugin.

Orthanc has checked the password, and has put the method that `_method` or X-HTTP-Method-Override names in place of the request's own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ddwd.core.model import VIEWER

if TYPE_CHECKING:
    from collections.abc import Mapping

_READING = frozenset({"/tools/find", "/tools/lookup", "/tools/count-resources"})
"""Requests by POST that make no change."""
_ID = "[0-9a-f-]+"
_SETS = "/tools/(find|lookup|bulk-content)"
_WHOLE = f"/instances/{_ID}/attachments/dicom/verify-md5"
_ANY = re.compile(r"/.*")
_EXTRACTOR_POSTS = rf"{_SETS}|/instances|{_WHOLE}|/dicom-web/servers/[^/]+/(stow|qido)"
_ROUTE = re.compile(rf"/studies/{_ID}/metadata/DdwdRoute")
_RIGHTS: Mapping[str, Mapping[str, re.Pattern[str]]] = {
    "extractor": {
        "GET": _ANY,
        "POST": re.compile(_EXTRACTOR_POSTS),
        "PUT": _ROUTE,
        "DELETE": re.compile(rf"/instances/{_ID}"),
    },
    "courier": {
        "GET": re.compile(
            rf"/changes|/jobs(/{_ID})?|/studies(/{_ID}(/series|/metadata/DdwdRoute)?)?|/series/{_ID}"
            rf"|/instances/{_ID}(/content/[0-9-]+)?"
        ),
        "POST": re.compile(
            r"/tools/bulk-content|/dicom-web/servers/[^/]+/(stow|get)|/modalities/[^/]+/(store|echo)"
        ),
    },
    "commitment": {
        "GET": re.compile(rf"/changes|/(instances|series)/{_ID}"),
        "POST": re.compile(rf"/tools/find|{_WHOLE}"),
    },
    "monitor": {"GET": re.compile(r"/changes|/system|/statistics|/tools/now")},
    "gateway": {"GET": re.compile(r"/dicom-web/.*"), "POST": re.compile(r"/dicom-web/studies")},
    "ddwd": {
        "GET": _ANY,
        "POST": re.compile(
            rf"{_EXTRACTOR_POSTS}|/tools/count-resources|/dicom-web/servers/[^/]+/get|/modalities/[^/]+/(store|echo)"
        ),
        "PUT": _ROUTE,
        "DELETE": re.compile(rf"/(instances|studies)/{_ID}"),
    },
}
"""Login of a unit -> method -> paths, without the query. `gateway` is STOW-RS of ORTHANC1 at ORTHANC2. `ddwd` is the commands' and the self
test's, and the login of every unit of version 0.2.0, which another machine may still run."""
PORTAL_LOGINS = frozenset(_RIGHTS)


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
        """Whether it is what the portal does with every study: a unit does what it may, and removes nothing."""
        return self.user in _RIGHTS and self.is_allowed and self.method != "DELETE"

    @property
    def is_allowed(self) -> bool:
        """Whether its login may make it: the viewer only reads, a unit has its rights, every other login may do everything."""
        if self.user == VIEWER:
            return not self.may_change
        if self.user not in _RIGHTS:
            return True
        pattern = _RIGHTS[self.user].get(self.method)
        return pattern is not None and pattern.fullmatch(self.path) is not None
