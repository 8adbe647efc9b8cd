"""Defer accept: the kernel holds a connection until its first byte, for a server that waits for one peer at a time, as Orthanc does.

Orthanc's DICOM server takes one connection after the other and waits up to 30 s for the A-ASSOCIATE-RQ of each (DCMTK): one silent
connection, a port scan or a health check, blocks every modality for that long. A DICOM requestor sends first (PS3.8 section 9.2), so
nothing is lost by waiting in the kernel, where thousands of connections can be silent at once. Called inside the server's own process.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

_BACKLOG = 4096
"""Silent connections at once; the kernel's own limit (net.core.somaxconn) is as high by default."""
_SECONDS = 3600
"""Seconds after which the kernel hands a silent connection to the server."""


def defer_accept(port: int) -> bool:
    """Defer accept on this process's listening sockets of that port; return whether there is one."""
    found = [_defer_accept(int(entry.name), port) for entry in Path("/proc/self/fd").iterdir()]
    return any(found)


def _defer_accept(descriptor: int, port: int) -> bool:
    try:
        copy = os.dup(descriptor)
    except OSError:  # closed meanwhile
        return False
    try:
        found = socket.socket(fileno=copy)
    except OSError:  # not a socket
        os.close(copy)
        return False
    with found, suppress(OSError):
        is_internet = found.family in {socket.AF_INET, socket.AF_INET6}
        is_listening = is_internet and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not is_listening or found.getsockname()[1] != port:
            return False
        found.listen(_BACKLOG)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _SECONDS)
        return True
    return False
