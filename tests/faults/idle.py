"""`python -m tests.faults.idle HOST PORT AET COUNT`: hold associations that send nothing, as ultrasound does during an examination.

One that ends, as after a crash of the machine, is opened again. Runs until it is killed.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from contextlib import suppress

from tests.hostile.wire import Sender, Target

_KEEPALIVE = {socket.TCP_KEEPIDLE: 2, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 3}
"""Seconds after which a machine that crashed is noticed: it sends no end of its connections."""


def main(argv: list[str]) -> None:
    """Hold the associations."""
    host, port, aet, count = argv
    target = Target(host, int(port), aet, None)
    held: list[Sender] = []
    while True:
        held = [sender for sender in held if not _has_ended(sender)]
        with suppress(OSError):
            while len(held) < int(count):
                held.append(_associated(target))
        time.sleep(1)


def _associated(target: Target) -> Sender:
    sender = Sender(target, 10)
    try:
        sender.associate()
        sender.connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            sender.connection.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:
        sender.connection.close()
        raise
    return sender


def _has_ended(sender: Sender) -> bool:
    poller = select.poll()
    poller.register(sender.connection, select.POLLIN)
    if not poller.poll(0):
        return False
    sender.connection.close()
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
