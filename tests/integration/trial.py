"""A portal started by `ddwd try`, as a user would start it, with what the tests here ask of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddwd.orthanc.client import Orthanc
from ddwd.provisioning import credentials
from tests.patience import HANG_SECONDS
from tests.studies import faults, is_complete

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ddwd.config.schema import NodeName
    from tests.studies import Study

CLONE = Path(__file__).parents[2]
STOP_LIMIT = 40.0
"""The seconds that `ddwd try` promises to stop in are five less (sandbox.STOP_ORDER)."""
_LIMIT = HANG_SECONDS - 20
_DDWD = (sys.executable, "-m", "ddwd.cli.main")


def wait_for(holds: Callable[[], object], what: str, limit: float = _LIMIT) -> None:
    """Look every 0.05 s until `holds` is true; fail with `what` after `limit` seconds, which is given where the portal promises it."""
    deadline = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < deadline, f"{what} within {limit:.0f} s"
        time.sleep(0.05)


def ddwd(folder: Path, *words: str | Path, limit: float = _LIMIT) -> subprocess.CompletedProcess[str]:
    """Run the command line on the settings of the trial in `folder`, to its end."""
    return subprocess.run(
        [*_DDWD, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
        cwd=CLONE,
        env=_environment(folder),
    )


def _environment(folder: Path) -> dict[str, str]:
    own = {"DDWD_CONFIG": str(folder / "ddwd.yaml"), "DDWD_DEFAULTS": os.devnull, "TCP_NODELAY": "1"}
    return {**os.environ, **own}


class Trial:
    """One running `ddwd try`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.said = folder.with_name(f"{folder.name}.out")
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(
                [*_DDWD, "try", str(folder), *options], stdout=said, stderr=said, cwd=CLONE
            )

    def wait_up(self) -> None:
        """Wait for try.json; a trial that ended before fails with what it said."""
        wait_for(lambda: self.up() or self.ended(), "`ddwd try` was not up")
        assert not self.ended(), self.said.read_text()

    def up(self) -> bool:
        """Tell whether everything answers."""
        return (self.folder / "try.json").exists()

    def ended(self) -> bool:
        """Tell whether `ddwd try` itself is over."""
        return self.process.poll() is not None

    def stop(self, sign: signal.Signals = signal.SIGINT) -> int:
        """End it as Ctrl-C does; return the exit status."""
        if not self.ended():
            self.process.send_signal(sign)
        return self.process.wait(STOP_LIMIT)

    def processes(self) -> dict[int, str]:
        """PID -> command line of every process that was started for this folder."""
        mark = f"DDWD_CONFIG={self.folder / 'ddwd.yaml'}".encode()
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # ended while we looked, or not ours to look at
        return {pid: line for pid, line in found.items() if line}

    def pid(self, part: str) -> int:
        """PID of the process whose command line has `part` in it."""
        return next(pid for pid, line in self.processes().items() if part in line)

    @property
    def facts(self) -> dict[str, Any]:
        """What try.json tells."""
        found: dict[str, Any] = json.loads((self.folder / "try.json").read_text())
        return found

    @property
    def output(self) -> Path:
        """OUTPUT_DIR."""
        return Path(self.facts["output_dir"])

    def orthanc(self, name: NodeName, user: str = "ddwd") -> Orthanc:
        """The REST port of one Orthanc, as the extractor has it."""
        return Orthanc(name, self.url(name), *self.login(name, user))

    def login(self, name: NodeName, user: str) -> tuple[str, str]:
        """User and password of that Orthanc."""
        return credentials.read(self.folder / "credentials.json").login(name, user)

    def url(self, name: NodeName) -> str:
        """Base of that Orthanc's REST interface."""
        return f"http://127.0.0.1:{self.facts[name]['http_port']}"

    def dcmsend(self, paths: Sequence[Path], name: NodeName = "gateway") -> None:
        """Send as a modality does; every image must be accepted."""
        node = self.facts[name]
        call = ["dcmsend", "-dn", "-aec", node["aet"], "127.0.0.1", str(node["dicom_port"]), *map(str, paths)]
        subprocess.run(call, check=True, capture_output=True, timeout=_LIMIT, env=_environment(self.folder))

    def send(self, paths: Sequence[Path]) -> None:
        """Send by `ddwd send`; every image must be accepted."""
        done = ddwd(self.folder, "send", "--json", *paths)
        assert done.returncode == 0, done.stdout + done.stderr

    def wait_complete(self, *studies: Study) -> None:
        """Wait until every image is on disk, then demand that each is what was sent."""
        output = self.output
        for study in studies:
            wait_for(lambda one=study: is_complete(one, output), f"study {study.uid} was not complete")  # type: ignore[misc]
        assert [line for study in studies for line in faults(study, output)] == []
