"""The sending side: DCMTK of the image, run in the modality's network namespace; it reaches the machine only by LAN.

Used by the demo and the tests. Host paths are given as they are: inside, the host's files lie under /mnt.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.machine.network import MACHINE_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.machine.network import Network

GATEWAY_PORT = 4242
# A mount namespace of its own each time, so that the binds vanish with the command.
ENTER = 'mount --rbind / "$0/mnt" && mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'


class Modality:
    """A modality on the machine's LAN (10.99.0.2). Addresses the gateway unless told otherwise."""

    def __init__(self, image: Path, network: Network) -> None:
        self._image = image
        self._network = network
        self.started: list[subprocess.Popen[str]] = []

    def argv(self, command: Sequence[str]) -> list[str]:
        """Return the host command that runs COMMAND of the image in the modality's namespace."""
        return [*self.netns_argv(), "unshare", "--mount", "sh", "-c", ENTER, str(self._image), *command]

    def netns_argv(self) -> list[str]:
        """Return the prefix that runs a program of the HOST (say, the venv's python) on the modality's network."""
        return ["nsenter", f"--net={self._network.modality}"]

    def run(
        self, command: Sequence[str], *, check: bool = True, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run COMMAND of the image and return its output (stderr in stdout); `timeout` in seconds.

        Raises CalledProcessError with check, and TimeoutExpired.
        """
        done = subprocess.run(
            self.argv(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=timeout, check=False,
        )  # fmt: skip
        if check and done.returncode:
            failed = subprocess.CalledProcessError(done.returncode, list(command), done.stdout)
            failed.add_note(done.stdout[-4000:])
            raise failed
        return done

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start COMMAND of the image and return at once; it is killed when the machine ends."""
        process = subprocess.Popen(
            self.argv(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def dcmsend_argv(self, *paths: Path, aec: str = "ORTHANC1", port: int = GATEWAY_PORT) -> list[str]:
        """Return the plain dcmsend call for files and folders of the host."""
        inside = [f"/mnt{path.absolute()}" for path in paths]
        return ["dcmsend", "-v", "-aec", aec, "+sd", "+r", MACHINE_ADDRESS, str(port), *inside]

    def dcmsend(self, *paths: Path, check: bool = True, timeout: float = 600) -> str:
        """Send files and folders to ORTHANC1; return dcmsend's log. Raises CalledProcessError where one is refused."""
        return self.run(self.dcmsend_argv(*paths), check=check, timeout=timeout).stdout

    def storescu(
        self, *paths: Path, aec: str = "ORTHANC1", port: int = GATEWAY_PORT, options: Sequence[str] = (),
        check: bool = True, timeout: float = 600,
    ) -> str:  # fmt: skip
        """Send with storescu (one status line per image in the log)."""
        inside = [f"/mnt{path.absolute()}" for path in paths]
        command = ["storescu", "-v", "-aec", aec, "+sd", "+r", *options, MACHINE_ADDRESS, str(port), *inside]
        return self.run(command, check=check, timeout=timeout).stdout

    def echoscu(self, aec: str = "ORTHANC1", port: int = GATEWAY_PORT, *, check: bool = True) -> bool:
        """Tell whether C-ECHO is answered with Success."""
        done = self.run(["echoscu", "-aec", aec, MACHINE_ADDRESS, str(port)], check=check, timeout=30)
        return done.returncode == 0

    def http_status(self, port: int, path: str = "/system", user: str = "") -> int:
        """Return the HTTP status the machine gives over the LAN; 0 where nothing answers."""
        url = f"http://{MACHINE_ADDRESS}:{port}{path}"
        named = ["-u", user] if user else []
        command = ["curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", *named, url]
        return int(self.run(command, check=False, timeout=30).stdout or 0)

    def stop(self) -> None:
        """Kill what start() started and is still running."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self.started.clear()
