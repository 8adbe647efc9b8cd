"""Entry point of ddwd-quickack: keeps routes by which senders are acknowledged at once beside those that lead to them.

Looks at the routes whenever the kernel reports one that is not ours, so that a new way (an interface that comes up again, another
gateway) is followed within half a second, and once a minute besides. Needs CAP_NET_ADMIN. Images do not depend on it: what it cannot do
is said once and tried again. Its unit takes every route of ours back when it stops.
"""

from __future__ import annotations

import logging
import socket
import struct
import sys
import threading
from typing import TYPE_CHECKING

from ddwd.config.loader import load
from ddwd.core.errors import DdwdError, PeerRefusedError
from ddwd.daemon.loop import Loop, TickResult
from ddwd.provisioning import quickack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ddwd.config.parsers import Network
    from ddwd.provisioning.quickack import JsonRoute, RouteChanges

log = logging.getLogger("ddwd.quickack")

_INTERVAL = 60.0
_BREATH = 0.5
_GROUPS = 0x40 | 0x400
"""RTMGRP_IPV4_ROUTE and RTMGRP_IPV6_ROUTE of rtnetlink(7)."""
_HEADER = struct.Struct("=IHHII")
_SKIP = 1
_FAILED = 255
"""The one exit status of ExecCondition= by which the unit fails; any other but 0 skips it."""
_PROTOCOL_AT = _HEADER.size + 5
"""Place of rtm_protocol: the sixth byte of struct rtmsg."""


class RouteSync:
    """One look at the routes, and what follows from it; `read` and `apply` are those of ip(8) unless a test brings its own."""

    def __init__(
        self,
        networks: Sequence[Network],
        read: Callable[[], list[JsonRoute]] = quickack.read,
        apply: Callable[[RouteChanges], list[str]] = quickack.apply,
    ) -> None:
        self._networks = networks
        self._read = read
        self._apply = apply
        self._said: set[str] = set()

    def turn(self) -> TickResult:
        """Bring the routes to what they should be."""
        try:
            todo = quickack.plan(self._read(), self._networks)
            troubles = [*todo.notes, *self._apply(todo)]
        except PeerRefusedError as error:
            todo, troubles = quickack.RouteChanges(), [str(error)]
        if todo.add or todo.remove:
            log.info("routes with quickack: %d to make, %d to remove", len(todo.add), len(todo.remove))
        for trouble in troubles:
            if trouble not in self._said:
                log.warning("%s", trouble)
        self._said = set(troubles)
        towards = f"towards {', '.join(map(str, self._networks)) or 'no network'}"
        return TickResult("; ".join([towards, *troubles]))


def protocols(data: bytes) -> Iterator[int]:
    """Who made each route that a datagram of rtnetlink(7) reports."""
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
    """Run until stopped; the exit status is that of the error tree.

    With `--wanted` it only answers whether there is anything to do, in the form that ExecCondition= of its unit needs.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    asked = sys.argv[1:] == ["--wanted"]
    try:
        networks = load().network.quickack
    except DdwdError as error:
        sys.stderr.write(f"ddwd-quickack: {error}\n")
        return _FAILED if asked else error.exit_status
    if asked:
        return 0 if networks else _SKIP
    sync = RouteSync(networks)
    loop = Loop(sync.turn, _INTERVAL, breath=_BREATH)
    loop.listen()
    threading.Thread(target=watch, args=(loop.wake,), name="watch", daemon=True).start()
    loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
