"""Entry point of ddwd-firewall: install the portal's table of nftables, or remove it ($1 is `stop`). Runs once.

Needs CAP_NET_ADMIN. The portal runs without it: if a table that must be there cannot be made, the unit fails and the doctor reports that.
"""

from __future__ import annotations

import sys

import sdnotify

from ddwd.config.loader import load
from ddwd.daemon.loop import enter
from ddwd.provisioning import firewall


def main() -> int:
    """Install or remove the table; return the exit status."""
    return enter("ddwd-firewall", firewall.remove if sys.argv[1:] == ["stop"] else _apply)


def _apply() -> None:
    done = firewall.apply(load())
    sys.stdout.write(f"{done}\n")
    sdnotify.SystemdNotifier().notify(f"STATUS={done}")  # what `ddwd status` and `ddwd doctor` show
