"""Record each request by REST that may change something as an audit event, `changed-by-rest`. Called inside Orthanc, before it serves the request.

Recorded are the login, the method, the path, the address and the study that it is about; also any request that is refused. Not recorded
is what the portal does with every study by its own logins (rest_rights.py). The portal removes images one by one, by retention and
repair, which have events of their own; of these requests twenty a minute are recorded singly, and the rest as a count.

Orthanc may still answer the request with an error: the event says who asked for what, and the lists of images what became of it.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from ddwd.core.audit import Audit, Event
from ddwd.core.model import is_uid
from ddwd.orthanc.plugin.rest_rights import PORTAL_LOGINS, RestRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    StudiesOf = Callable[[str, str], Sequence[str]]
    """("patients" | "studies" | "series" | "instances", Orthanc ID) -> the Orthanc IDs of the studies that it is of."""

_SINGLY = 20
_PERIOD_SECONDS = 60.0
_RESOURCE = re.compile(r"/(patients|studies|series|instances)/([0-9a-f]{8}(?:-[0-9a-f]{8}){4})(?:/.*)?")
_LEVELS = frozenset({"patients", "studies", "series", "instances"})
_ORTHANC_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}")


class RestAudit:
    """Records the requests to one Orthanc, `node`; safe to call from several threads. `now` is a monotonic clock."""

    def __init__(self, node: str, audit: Audit, studies_of: StudiesOf, now: Callable[[], float]) -> None:
        self._node = node
        self._audit = audit
        self._studies_of = studies_of
        self._now = now
        self._lock = threading.Lock()
        self._period_ends = 0.0
        self._singly = self._more = 0

    def note(self, request: RestRequest) -> None:
        """Record the request if it may change something."""
        if self._more:
            self._record_more()
        if request.is_allowed:
            if not request.may_change or request.is_ordinary:
                return
            if request.user in PORTAL_LOGINS and not self._is_one_of_few():
                return
        for study in self._studies(request.path) or ("",):
            self._record(request, study)

    def _is_one_of_few(self) -> bool:
        """Return whether this removal by the portal is recorded singly; it is counted otherwise."""
        with self._lock:
            if self._now() >= self._period_ends and not self._more:
                self._period_ends, self._singly = self._now() + _PERIOD_SECONDS, 0
            if self._singly < _SINGLY:
                self._singly += 1
                return True
            self._more += 1
            return False

    def _record_more(self) -> None:
        """Record how many removals were counted, once their minute is over."""
        with self._lock:
            if self._now() < self._period_ends:
                return
            more, self._more = self._more, 0
        message = f"the portal asked for {more} more removals on the {self._node} in the last minute"
        self._audit.record(
            Event.CHANGED_BY_REST,
            message,
            user="ddwd",
            method="DELETE",
            resource="/instances",
            granted="yes",
            instances=more,
            peer=self._node,
        )

    def _record(self, request: RestRequest, study: str) -> None:
        resource = printable_path(request.path)
        verb = "asked for" if request.is_allowed else "was refused"
        fields = {"study": study} if study else {}
        self._audit.record(
            Event.CHANGED_BY_REST,
            f"{request.user} from {request.address} {verb} {request.method} {resource} on the {self._node}",
            user=request.user,
            method=request.method,
            resource=resource,
            address=request.address,
            granted="yes" if request.is_allowed else "no",
            peer=self._node,
            **fields,
        )

    def _studies(self, path: str) -> Sequence[str]:
        found = _RESOURCE.fullmatch(path)
        return self._studies_of(*found.groups()) if found else ()


def printable_path(path: str) -> str:
    """Return the path without its query, and with `?` for an identifier that is not one: a PatientID may be typed there."""
    parts = path.partition("?")[0].split("/")
    for index, part in enumerate(parts[1:], start=1):
        if parts[index - 1] in _LEVELS and part and not _ORTHANC_ID.fullmatch(part) and not is_uid(part):
            parts[index] = "?"
    return "/".join(parts)
