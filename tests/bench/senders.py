"""Who sends in the bench, and when its first and last image were acknowledged (time.monotonic of this host).

DCMTK's dcmsend from the modality's network, or inside the machine over its loopback, flat out; paced.py at a scanner's pace.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

from tests.machine.host import REPO, MachineError
from tests.machine.network import MACHINE_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.sides import Side
    from tests.bench.templates import Study
    from tests.machine import Machine

_INBOX = "/srv/bench"


@dataclass(frozen=True, slots=True)
class Sent:
    """When the first image was sent and the last one acknowledged (monotonic seconds), and how many."""

    first: float
    last: float
    images: int

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / (self.last - self.first)


def dcmsend(
    machine: Machine, side: Side, *studies: Study, nagle: bool = True, loopback: bool = False
) -> Sent:
    """Send flat out over one association and wait for the end. Raises MachineError where an image was refused.

    `nagle` is DCMTK's own default; `loopback` sends from inside the machine instead of over the LAN.
    """
    options = [] if nagle else ["env", "TCP_NODELAY=1"]
    call = [*options, "dcmsend", "-v", "-aec", side.aet, "+sd", "+r"]
    if loopback:
        for study in studies:
            machine.copy_in(study.folder, f"{_INBOX}/{study.uid}")
        argv = machine.argv([*call, "127.0.0.1", str(side.port), *(f"{_INBOX}/{one.uid}" for one in studies)])
    else:
        folders = [f"/mnt{one.folder}" for one in studies]
        argv = machine.modality.argv([*call, MACHINE_ADDRESS, str(side.port), *folders])
    try:
        return _watch(argv, sum(study.images for study in studies))
    finally:
        if loopback:
            machine.run(["rm", "-rf", *(f"{_INBOX}/{one.uid}" for one in studies)])


def _watch(argv: Sequence[str], images: int) -> Sent:
    first = last = 0.0
    acknowledged = 0
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            if "Sending C-STORE Request" in line:
                first = first or time.monotonic()
            elif "Received C-STORE Response (Success)" in line:
                last = time.monotonic()
                acknowledged += 1
    if acknowledged != images:
        raise MachineError(f"{acknowledged} of {images} images were acknowledged")
    return Sent(first, last, images)


def at_once(machine: Machine, side: Side, shares: Sequence[Sequence[Study]]) -> Sent:
    """One plain dcmsend for each share, all at the same time."""
    sent: list[Sent] = []
    threads = [
        Thread(target=lambda share=share: sent.append(dcmsend(machine, side, *share)), daemon=True)
        for share in shares
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(sent) != len(shares):
        raise MachineError("a sender broke off")
    return Sent(
        min(one.first for one in sent), max(one.last for one in sent), sum(one.images for one in sent)
    )


class Paced:
    """paced.py at work: `wait` for its end, which tells of each study it sent."""

    def __init__(
        self, machine: Machine, side: Side, rate: float, *studies: Study, seconds: float = 0, seed: int = 0
    ) -> None:
        options = ["--for", str(seconds), "--seed", str(seed)] if seconds else []
        self._process = subprocess.Popen(
            [
                *machine.modality.netns_argv(), sys.executable, "-m", "tests.bench.paced", str(side.port), side.aet, str(rate),
                *(str(study.folder) for study in studies), *options,
            ],
            stdout=subprocess.PIPE, text=True, cwd=REPO,
        )  # fmt: skip

    def is_over(self) -> bool:
        """Whether it has sent everything."""
        return self._process.poll() is not None

    def wait(self) -> list[Sent]:
        """Each study's times, in order. Raises MachineError where an image was refused."""
        said, _ = self._process.communicate()
        if self._process.returncode:
            raise MachineError("the paced sender broke off; what it said stands above")
        rows = [json.loads(line) for line in said.splitlines()]
        return [Sent(row["first"], row["last"], row["sent"]) for row in rows]
