"""Entry point of ddwd-quickack: for each network route to senders, keep a copy with quickack, so that they get TCP ACKs at once.

Compares the routes when the kernel reports a change that is not ours, so that a new path (an interface that comes up again, another
gateway) has its copy within half a second, and once a minute as well. Needs CAP_NET_ADMIN. Images do not depend on it: a failure is
logged once and tried again. Its unit removes all its routes when it stops.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence

from ddwd.config.loader import load
from ddwd.config.parsers import Network
from ddwd.core.errors import PeerRefusedError
from ddwd.daemon.loop import Loop, TickResult, enter
from ddwd.provisioning import quickack

log = logging.getLogger("ddwd.quickack")

_INTERVAL = 60.0
_BREATH = 0.5
_GROUPS = 0x40 | 0x400  # RTMGRP_IPV4_ROUTE and RTMGRP_IPV6_ROUTE of rtnetlink(7)
_HEADER = struct.Struct("=IHHII")
_PROTOCOL_AT = _HEADER.size + 5  # place of rtm_protocol: the sixth byte of struct rtmsg


class RouteSync:
    """Keep the routes with quickack in step with the others; `read` and `apply` call ip(8), unless a test passes its own."""

    def __init__(
        self,
        networks: Sequence[Network],
        read: Callable[[], list[quickack.JsonRoute]] = quickack.read,
        apply: Callable[[quickack.RouteChanges], list[str]] = quickack.apply,
    ) -> None:
        self._networks = networks
        self._read = read
        self._apply = apply
        self._logged: set[str] = set()

    def turn(self) -> TickResult:
        """Add and remove routes as planned; return the status."""
        try:
            todo = quickack.plan(self._read(), self._networks)
            troubles = [*todo.notes, *self._apply(todo)]
        except PeerRefusedError as error:
            todo, troubles = quickack.RouteChanges(), [str(error)]
        if todo.add or todo.remove:
            log.info("routes with quickack: %d to make, %d to remove", len(todo.add), len(todo.remove))
        for trouble in troubles:
            if trouble not in self._logged:
                log.warning("%s", trouble)
        self._logged = set(troubles)
        towards = f"towards {', '.join(map(str, self._networks)) or 'no network'}"
        return TickResult("; ".join([towards, *troubles]))


def protocols(data: bytes) -> Iterator[int]:
    """Yield the rtm_protocol (who made it) of each route in a datagram of rtnetlink(7)."""
    while len(data) > _PROTOCOL_AT:
        yield data[_PROTOCOL_AT]
        length = _HEADER.unpack_from(data)[0]
        data = data[max(length + 3 & ~3, _HEADER.size) :]


def watch(changed: Callable[[], None]) -> None:
    """Call `changed` for every change of a route that is not ours; does not return."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.bind((0, _GROUPS))
        while True:
            try:
                theirs = any(one != int(quickack.PROTOCOL) for one in protocols(kernel.recv(65536)))
            except OSError:  # ENOBUFS: more happened than was read
                theirs = True
            if theirs:
                changed()


def main() -> int:
    """Run until stopped; return the exit status."""
    return enter("ddwd-quickack", _run, wanted=lambda: bool(load().network.quickack))


def _run() -> None:
    loop = Loop(RouteSync(load().network.quickack).turn, _INTERVAL, breath=_BREATH)
    threading.Thread(target=watch, args=(loop.wake,), name="watch", daemon=True).start()
    loop.serve()
