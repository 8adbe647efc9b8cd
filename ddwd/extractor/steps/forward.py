"""Second stage: send on what the gateway holds and storage does not. The net below the Lua script.

Lua forwards on the fast path and forgets; its jobs neither retry nor survive a restart. This stage submits the missing
instances as new jobs, in blocks small enough for any time-out, and never more jobs at once than the gateway can work at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.client import OrthancPort

SERVER = "storage"
"""Name of the storage among the gateway's DICOMweb servers (appliance/render.py)."""
_BLOCK = 200
_JOBS_AT_ONCE = 4
_STOW_KIND = "DicomWebStowClient"


class Forwarder:
    """Submits STOW-RS jobs on the gateway."""

    def __init__(self, gateway: OrthancPort, beside: int = 0) -> None:
        """`beside` jobs of the same kind may go elsewhere (ddwd-courier), and take no room from these."""
        self._gateway = gateway
        self._at_once = _JOBS_AT_ONCE + beside
        self.last_error = ""
        """What the gateway says of the latest STOW job that failed, as far as it remembers."""

    def send(self, missing: frozenset[OrthancId], priority: int = 0) -> int:
        """Submit new jobs for `missing`, of that priority; the number of instances submitted, 0 while the gateway's jobs are full.

        Raises PeerDownError or PeerRefusedError; what was submitted before is harmless, a duplicate changes nothing.
        """
        room = self._at_once - self._in_flight()
        wanted = sorted(missing)
        sent = 0
        for _ in range(room):
            block = wanted[sent : sent + _BLOCK]
            if not block:
                break
            self._gateway.stow(SERVER, block, priority)
            sent += len(block)
        return sent

    def _in_flight(self) -> int:
        jobs = [job for job in self._gateway.jobs().values() if job.kind == _STOW_KIND]
        self.last_error = next((job.error for job in reversed(jobs) if job.state == "Failure"), "")
        return sum(job.in_flight for job in jobs)
