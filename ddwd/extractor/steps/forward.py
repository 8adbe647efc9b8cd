"""Forward step: send the instances that storage is missing, behind the Lua script that forwards first.

The jobs of the Lua script neither retry nor survive a restart. This step submits the missing instances as new jobs, in blocks small
enough for any time-out, and never more jobs at once than the gateway can run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort

SERVER = "storage"
"""Name of the storage among the gateway's DICOMweb servers (provisioning/orthanc_config.py)."""
_BLOCK = 200
_JOBS_AT_ONCE = 4
_STOW_KIND = "DicomWebStowClient"


class Forwarder:
    """Submits STOW-RS jobs on the gateway."""

    def __init__(self, gateway: OrthancPort, beside: int = 0) -> None:
        """`beside` is how many jobs of the same kind may run for other destinations (ddwd-courier)."""
        self._gateway = gateway
        self._at_once = _JOBS_AT_ONCE + beside
        self.last_error = ""
        """What the gateway says of the latest STOW-RS job that failed, if it still remembers one."""

    def send(self, missing: frozenset[OrthancId], priority: int = 0) -> int:
        """Submit jobs for the missing instances; return how many instances were submitted, 0 while the gateway runs enough jobs.

        Raises PeerDownError and PeerRefusedError; jobs submitted before stay, and sending an instance twice changes nothing.
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
