"""Find who listens on a TCP port of this machine, and whether it is the user of the service that the port belongs to.

The user of each listening socket is in the kernel's table, which every user may read; the process is found as far as this user may see it.
"""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ddwd.core.errors import DdwdError
from ddwd.provisioning import firewall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ddwd.config.schema import Config

_TABLES = ("net/tcp", "net/tcp6")
_LISTENING = "0A"  # in the state column of /proc/self/net/tcp; ProcSubset=pid hides /proc/net


class Holder(NamedTuple):
    """The user that listens on a port, and the process if it may be seen."""

    user: str
    process: str = ""

    def __str__(self) -> str:
        return f"{self.process}, user {self.user}" if self.process else f"user {self.user}"


def holders(port: int, proc: Path = Path("/proc")) -> list[Holder]:
    """Return who listens on that port."""
    rows = []
    for name in _TABLES:
        try:
            lines = (proc / "self" / name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        found = (line.split() for line in lines)
        rows += [row for row in found if row[3] == _LISTENING and re.fullmatch(rf".*:{port:04X}", row[1])]
    return [Holder(_name(int(row[7])), _process(row[9], proc)) for row in rows]


def strangers(
    config: Config, find: Callable[[int], list[Holder]] = holders
) -> Iterator[tuple[firewall.Port, Holder]]:
    """Yield each port of the portal on which somebody listens who is neither its service, nor root, nor who asks, as in `ddwd try`."""
    for port in firewall.ports(config):
        own = {*firewall.listeners(config, port.key), "root", _name(os.geteuid())}
        yield from ((port, holder) for holder in find(port.number) if holder.user not in own)


def cannot_start(error: OSError, *ports: int) -> DdwdError:
    """Return the error of a service that cannot listen on its ports: it says who holds them."""
    held = [f"port {port} is held by {holder}" for port in ports for holder in holders(port)]
    return DdwdError(f"cannot start: {'; '.join(held) or error.filename or ''} ({error.strerror})")


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _process(inode: str, proc: Path) -> str:
    for descriptor in proc.glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == Path(f"socket:[{inode}]"):
                process = descriptor.parents[1]
                return f"{(process / 'comm').read_text(encoding='utf-8').strip()} (process {process.name})"
        except OSError:
            continue
    return ""
