"""Entry point of ddwd-firewall: install the portal's table of nftables, or remove it ($1 is `stop`). Runs once.

With `follow` it is the entry point of ddwd-operators: install the table anew after a change of group ddwd.
Needs CAP_NET_ADMIN. The portal runs without it: if a table that must be there cannot be made, the unit fails and the doctor reports that.
"""

from __future__ import annotations

import sys

import sdnotify

from ddwd.config.loader import load
from ddwd.core import clock
from ddwd.daemon.loop import enter
from ddwd.provisioning import firewall

_QUIET = 2.0
"""Seconds without a change of the members after which systemd watches them again."""


def main() -> int:
    """Install or remove the table; return the exit status."""
    steps = {"stop": firewall.remove, "follow": follow}
    return enter("ddwd-firewall", steps.get(" ".join(sys.argv[1:]), apply))


def apply() -> None:
    """Install the table that the settings describe. Raises PeerRefusedError and ConfigError."""
    done = firewall.apply(load())
    sys.stdout.write(f"{done}\n")
    sdnotify.SystemdNotifier().notify(f"STATUS={done}")  # what `ddwd status` and `ddwd doctor` show


def follow() -> None:
    """Install the table, and again until the members of group ddwd stay the same. Raises as `apply`.

    While the unit runs, systemd does not watch the group: a script that adds several users would be followed in part.
    """
    admitted: list[int] | None = None
    while (members := firewall.operators()) != admitted:
        apply()
        admitted = members
        clock.sleep(_QUIET)
