"""Prepare the listening DICOM port of an Orthanc, which is not reached by settings. Called inside Orthanc's own process.

Orthanc's DICOM server takes one connection after the other and waits up to 30 s for the A-ASSOCIATE-RQ of each (DCMTK): one silent
connection, a port scan or a health check, blocks all others for that long. So the kernel holds a connection until its first byte: a
DICOM requestor sends first (PS3.8 section 9.2), and thousands of connections can be silent at once. And it listens on every address of the
machine: where only this machine may connect, the kernel drops what others send (a filter of the socket, as of bpf(4)).
"""

from __future__ import annotations

import array
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

_BACKLOG = 4096
"""Silent connections at once; the kernel's own limit (net.core.somaxconn) is as high by default."""
_SECONDS = 3600
"""Seconds after which the kernel hands a silent connection to the server."""
_SO_ATTACH_FILTER = 26
_FROM_HERE = (
    (0x20, 0, 0, 0xFFF00000 + 12),  # load the source address of the IPv4 header
    (0x54, 0, 0, 0xFF000000),
    (0x15, 0, 1, 0x7F000000),  # 127.0.0.0/8
    (0x06, 0, 0, 0xFFFFFFFF),  # take the packet
    (0x06, 0, 0, 0),  # drop it
)
"""Code, jumps and operand of each instruction (struct sock_filter)."""


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
            _accept_from_here_only(found)
        found.listen(_BACKLOG)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _SECONDS)
        return True
    return False


def _accept_from_here_only(listener: socket.socket) -> None:
    program = array.array("B", b"".join(struct.pack("HBBI", *instruction) for instruction in _FROM_HERE))
    address, _ = program.buffer_info()
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_FROM_HERE), address))
