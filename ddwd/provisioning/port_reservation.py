"""Reserve the portal's ports for its own services: systemd lets no other process of this machine bind them.

The services that listen run in ddwd.slice. Everything else that a user of the machine can start runs in one of three slices, which get a drop-in with
SocketBindDeny= (systemd.resource-control(5)). It lies in /etc, so that it holds from the first moment of a boot, also while the portal is
stopped. systemd enforces it by a program in the kernel, and leaves the ports open to all where the kernel takes none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.provisioning import firewall

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ddwd.config.schema import Config

SLICES = ("machine", "system", "user")
ENFORCE = (
    ["systemctl", "daemon-reexec"],
    ["systemd-run", "--quiet", "--collect", "--wait", "--slice=ddwd.slice", "true"],
)
"""What brings a change into force: systemd 257 goes on enforcing a rule that is only reloaded away, and begins with a new one when something starts
in a slice beside it."""


def drop_in(config: Config) -> str | None:
    """Return the drop-in of each slice, or None if `network.firewall` is false."""
    if config.network.firewall == "false":
        return None
    ports = sorted({port.number for port in firewall.ports(config)})
    return "\n".join(
        [
            "# Written by ddwd-provision: these are ports of the portal; network.firewall: false in ddwd.yaml takes the file away.",
            "[Slice]",
            *(f"SocketBindDeny=tcp:{port}" for port in ports),
            "",
        ]
    )


def places(slices: Path) -> Iterator[Path]:
    """Yield where the drop-ins lie, below the folder of the machine's own units."""
    for name in SLICES:
        yield slices / f"{name}.slice.d" / "50-ddwd.conf"
