"""The sending side: DCMTK of the image, run in the modality's network namespace; it reaches the machine only by LAN.

Used by the demo and the tests. Host paths are given as they are: inside, the host's files lie under /mnt.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.machine.network import MACHINE_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.machine.network import Network

GATEWAY_PORT = 4242
# A mount namespace of its own each time, so that the binds vanish with the command.
JOIN = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
ENTER = 'mount --rbind / "$0/mnt" && mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'


@dataclass(frozen=True, slots=True)
class Sending:
    """A sender at work: its process and what it has said so far."""

    process: subprocess.Popen[bytes]
    log: Path

    def acknowledged(self) -> list[Path]:
        """Return the host's files that storescu -v saw answered with 0x0000 (Success), in their order."""
        found: list[Path] = []
        sent = None
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("I: Sending file: /mnt"):
                sent = Path(line.removeprefix("I: Sending file: /mnt"))
            elif line.startswith("I: Received Store Response (Success)") and sent is not None:
                found.append(sent)
                sent = None
        return found


class Modality:
    """A modality on the machine's LAN (10.99.0.2). Addresses the gateway unless told otherwise."""

    def __init__(self, image: Path, network: Network, cgroup: Path) -> None:
        self._image = image
        self._network = network
        self._cgroup = cgroup
        self._started: list[subprocess.Popen[bytes]] = []

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

    def start(self, command: Sequence[str]) -> Sending:
        """Start COMMAND of the image and return at once; it is killed when the machine ends."""
        return self.start_on_host(self.argv(command))

    def start_on_host(self, command: Sequence[str]) -> Sending:
        """Do the same with a command of the host, which finds its own way into the modality's network."""
        log = self._network.folder / f"modality-{len(self._started)}.log"
        # a cgroup of its own: it outlives a crash of the machine, but not the machine's owner
        self._cgroup.mkdir(exist_ok=True)
        joined = ["sh", "-c", JOIN, str(self._cgroup), *command]
        with log.open("wb") as output:
            process = subprocess.Popen(
                joined,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._started.append(process)
        return Sending(process, log)

    def dcmsend_argv(self, *paths: Path, aec: str = "ORTHANC1", port: int = GATEWAY_PORT) -> list[str]:
        """Return the plain dcmsend call for files and folders of the host."""
        inside = [f"/mnt{path.absolute()}" for path in paths]
        return ["dcmsend", "-v", "-aec", aec, "+sd", "+r", MACHINE_ADDRESS, str(port), *inside]

    def dcmsend(self, *paths: Path, check: bool = True, timeout: float = 600) -> str:
        """Send files and folders to ORTHANC1; return dcmsend's log. Raises CalledProcessError where one is refused."""
        return self.run(self.dcmsend_argv(*paths), check=check, timeout=timeout).stdout

    def storescu_argv(
        self, *paths: Path, aec: str = "ORTHANC1", port: int = GATEWAY_PORT, options: Sequence[str] = ()
    ) -> list[str]:
        """Return the storescu call for files and folders of the host (its log tells each file's answer)."""
        inside = [f"/mnt{path.absolute()}" for path in paths]
        return ["storescu", "-v", "-aec", aec, "+sd", "+r", *options, MACHINE_ADDRESS, str(port), *inside]

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
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._started.clear()
