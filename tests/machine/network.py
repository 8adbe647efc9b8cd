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
SECOND_ADDRESS = "10.99.0.3"
_SWITCH = "br0"


@dataclass(frozen=True, slots=True)
class Network:
    """The pair of namespaces of one machine, by the files that hold them; with `lan` it is plugged into another one's LAN instead."""

    folder: Path
    lan: Network | None = None

    @property
    def machine(self) -> Path:
        """The namespace the machine boots in (10.99.0.1, a second one on the same LAN 10.99.0.3; and its own 127.0.0.1)."""
        return self.folder / "net-machine"

    @property
    def modality(self) -> Path:
        """The namespace the sending side lives in (10.99.0.2)."""
        return self.lan.modality if self.lan else self.folder / "net-modality"

    def create(self) -> None:
        """Make both namespaces, the cable between them, the addresses; MTU 1500 as on a hospital's LAN."""
        if self.lan:
            self._join(self.lan)
            return
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

    def _join(self, lan: Network) -> None:
        """Plug the machine into that LAN, whose modality's end of the cable becomes a switch with its address."""
        self.machine.touch()
        _do("unshare", f"--net={self.machine}", "true")
        self._in(self.machine, "link", "add", "eth0", "type", "veth", "peer", "name", "port")
        self._in(self.machine, "link", "set", "port", "netns", str(lan.modality), "name", "eth1")
        self._in(self.machine, "addr", "add", f"{SECOND_ADDRESS}/24", "dev", "eth0")
        self._in(lan.modality, "link", "add", _SWITCH, "type", "bridge")
        self._in(lan.modality, "addr", "flush", "dev", "eth0")
        self._in(lan.modality, "addr", "add", f"{MODALITY_ADDRESS}/24", "dev", _SWITCH)
        for port in ("eth0", "eth1"):
            self._in(lan.modality, "link", "set", port, "master", _SWITCH, "up")
        self._in(lan.modality, "link", "set", _SWITCH, "up")
        for device in ("lo", "eth0"):
            self._in(self.machine, "link", "set", device, "up")

    def destroy(self) -> None:
        """Let go of both namespaces; the kernel removes them with their last process."""
        for holder in (self.machine, self.folder / "net-modality"):
            subprocess.run(["umount", "-l", str(holder)], capture_output=True, check=False)

    def cut(self) -> None:
        """Pull the machine's plug: nobody whom it spoke to is told."""
        self._in(self.machine, "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Put it in again."""
        self._in(self.machine, "link", "set", "eth0", "up")

    @staticmethod
    def _in(holder: Path, *arguments: str) -> None:
        _do("nsenter", f"--net={holder}", "ip", *arguments)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
