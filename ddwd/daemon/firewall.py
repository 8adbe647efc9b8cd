"""Entry point of ddwd-firewall: puts the portal's table of nftables in place, or takes it away ($1 is `stop`). Runs once.

Needs CAP_NET_ADMIN. The portal runs without it: where it cannot be made the unit has failed, and the doctor says so.
"""

from __future__ import annotations

import sys

from ddwd.config.loader import load
from ddwd.core.errors import DdwdError
from ddwd.provisioning import firewall


def main() -> int:
    """Do it; the exit status is that of the error tree."""
    try:
        if sys.argv[1:] == ["stop"]:
            firewall.remove()
            return 0
        config = load()
        firewall.apply(config)
    except DdwdError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    state = "in place" if config.network.firewall else "not wanted (network.firewall)"
    sys.stdout.write(f"table {firewall.TABLE}: {state}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
