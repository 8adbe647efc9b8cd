"""Prepare the listening DICOM port of an Orthanc, which is not reached by settings. Called inside Orthanc's own process.

Orthanc's DICOM server takes one connection after the other and waits up to 30 s for the A-ASSOCIATE-RQ of each (DCMTK): one silent
connection, a port scan or a health check, blocks all others for that long. So the kernel holds a connection until its first byte: a
DICOM requestor sends first (PS3.8 section 9.2), and thousands of connections can be silent at once. And it listens on every address of the
machine: where only this machine may connect, the socket is bound to the loopback device, and the kernel refuses what comes by another one.
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


def prepare(port: int, *, here_only: bool) -> bool:
    """Prepare this process's listening sockets of that port; return whether there is one."""
    found = [
        _prepare(int(entry.name), port, here_only=here_only) for entry in Path("/proc/self/fd").iterdir()
    ]
    return any(found)


def _prepare(descriptor: int, port: int, *, here_only: bool) -> bool:
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
        if here_only:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        found.listen(_BACKLOG)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _SECONDS)
        return True
    return False
