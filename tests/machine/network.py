"""Two network namespaces joined by a cable: one for the machine, one for the modality; the host's stays as it was.

Made and removed by machine.py. A namespace is held by a file in the machine's own folder, so nothing appears under
/run/netns and several machines can use the same addresses at once.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MACHINE_ADDRESS = "10.99.0.1"
MODALITY_ADDRESS = "10.99.0.2"


@dataclass(frozen=True, slots=True)
class Network:
    """The pair of namespaces of one machine, by the files that hold them."""

    folder: Path

    @property
    def machine(self) -> Path:
        """The namespace the machine boots in (10.99.0.1 and its own 127.0.0.1)."""
        return self.folder / "net-machine"

    @property
    def modality(self) -> Path:
        """The namespace the sending side lives in (10.99.0.2)."""
        return self.folder / "net-modality"

    def create(self) -> None:
        """Make both namespaces, the cable between them, the addresses; MTU 1500 as on a hospital's LAN."""
        for holder in (self.machine, self.modality):
            holder.touch()
            _do("unshare", f"--net={holder}", "true")
        self._in(self.machine, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        # a name with a slash is taken as the path of a namespace
        self._in(self.machine, "link", "set", "eth1", "netns", str(self.modality), "name", "eth0")
        for holder, address in ((self.machine, MACHINE_ADDRESS), (self.modality, MODALITY_ADDRESS)):
            self._in(holder, "addr", "add", f"{address}/24", "dev", "eth0")
            self._in(holder, "link", "set", "lo", "up")
            self._in(holder, "link", "set", "eth0", "up")

    def destroy(self) -> None:
        """Let go of both namespaces; the kernel removes them with their last process."""
        for holder in (self.machine, self.modality):
            subprocess.run(["umount", "-l", str(holder)], capture_output=True, check=False)

    @staticmethod
    def _in(holder: Path, *arguments: str) -> None:
        _do("nsenter", f"--net={holder}", "ip", *arguments)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
