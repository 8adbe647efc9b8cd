"""Forward step: send the instances that storage is missing, behind the Lua script that forwards first.

The jobs of the Lua script neither retry nor survive a restart. This step submits the missing instances as new jobs, in blocks small
enough for any time-out, and never more jobs at once than the gateway can run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort

SERVER = "storage"
"""Name of the storage among the gateway's DICOMweb servers (provisioning/orthanc_config.py)."""
_BLOCK = 200
_JOBS_AT_ONCE = 4
_STOW_KIND = "DicomWebStowClient"


@dataclass
class Forwarder:
    """Submits STOW-RS jobs on the gateway; `beside` more may run for other destinations (ddwd-courier).

    `last_error` is the gateway's error of the latest STOW-RS job that failed, if it still remembers one.
    """

    gateway: OrthancPort
    beside: int = 0
    last_error: str = ""

    def send(self, missing: frozenset[OrthancId], priority: int = 0) -> int:
        """Submit jobs for the missing instances; return how many instances were submitted, 0 while the gateway runs enough jobs.

        Raises PeerDownError and PeerRefusedError; jobs submitted before stay, and sending an instance twice changes no image.
        """
        jobs = [job for job in self.gateway.jobs().values() if job.kind == _STOW_KIND]
        self.last_error = next((job.error for job in reversed(jobs) if job.state == "Failure"), "")
        room = max(0, _JOBS_AT_ONCE + self.beside - sum(job.in_flight for job in jobs))
        instances = sorted(missing)[: room * _BLOCK]
        for start in range(0, len(instances), _BLOCK):
            self.gateway.stow(SERVER, instances[start : start + _BLOCK], priority)
        return len(instances)
