"""Prepare the listening ports of an Orthanc, DICOM and HTTP, which are not reached by settings. Called inside Orthanc's own process.

Both servers listen on every address of the machine, and all that an Orthanc serves is for this machine: so each socket is bound to the
loopback device, and the kernel refuses what comes by another one. Both also give a thread or a turn to a connection that sends nothing:
the DICOM server waits up to 30 s for the A-ASSOCIATE-RQ of each (DCMTK), the web server has 50 threads and waits HttpRequestTimeout. So
the kernel holds a connection until its first byte: in DICOM and in HTTP the one who connects sends first (PS3.8 section 9.2), and
thousands of connections can be silent at once.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_BACKLOG = 4096
"""Silent connections at once; the kernel's own limit (net.core.somaxconn) is as high by default."""
_SECONDS = 3600
"""Seconds after which the kernel hands a silent connection to the server."""


def prepare(ports: Collection[int]) -> set[int]:
    """Prepare this process's listening sockets of these ports; return the ports that have one."""
    found = {_prepare(int(entry.name), ports) for entry in Path("/proc/self/fd").iterdir()}
    return found - {0}


def _prepare(descriptor: int, ports: Collection[int]) -> int:
    """Return the port of the listening socket behind that descriptor once it is prepared; 0 for any other descriptor."""
    try:
        copy = os.dup(descriptor)
    except OSError:  # closed meanwhile
        return 0
    try:
        found = socket.socket(fileno=copy)
    except OSError:  # not a socket
        os.close(copy)
        return 0
    with found, suppress(OSError):
        is_internet = found.family in {socket.AF_INET, socket.AF_INET6}
        is_listening = is_internet and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not is_listening or found.getsockname()[1] not in ports:
            return 0
        found.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        found.listen(_BACKLOG)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _SECONDS)
        return int(found.getsockname()[1])
    return 0
