"""A modality at the pace of its scanner: DCMTK's senders only know flat out. Runs on the modality's network.

`python -m tests.bench.paced PORT AET RATE FOLDER...` sends each folder's files over an association of its own, one folder after
the other, RATE images a second (0: flat out). With `--for SECONDS --seed FIRST` the one folder is sent under ever new UIDs for so long.
Prints one JSON line per folder: {"seed", "first", "last", "sent"}; time.monotonic() of the first request and the last Success.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pynetdicom import _config
from pynetdicom.presentation import build_context

from ddwd.dicom.store_scu import Outgoing, examine
from ddwd.dicom.upper_layer import Peer, associate
from tests.bench.templates import stamp
from tests.machine.host import MachineError
from tests.machine.network import MACHINE_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pynetdicom.association import Association


class Pace:
    """One image each 1/rate seconds, over all folders: what was late is caught up."""

    def __init__(self, rate: float) -> None:
        self._pause = 1 / rate if rate else 0.0
        self._due = time.monotonic()

    def wait(self) -> None:
        """Sleep until the next image is due."""
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._due += self._pause


def send(peer: Peer, folder: Path, pace: Pace, seed: int | None = None) -> None:
    """Send one folder and say when; with `seed` as the study of that number."""
    paths = sorted(folder.glob("*.dcm"))
    association = _associate(peer, paths[0])
    first = 0.0
    with tempfile.TemporaryDirectory(prefix="paced-") as scratch:
        for number, path in enumerate(paths):
            image = path if seed is None else stamp(path, Path(scratch) / "image.dcm", seed)
            pace.wait()
            first = first or time.monotonic()
            status = association.send_c_store(image).get("Status")
            if status != 0:
                raise MachineError(f"image {number + 1} was answered with {status}")
    told = {"seed": seed, "first": first, "last": time.monotonic(), "sent": len(paths)}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    association.release()


def _associate(peer: Peer, path: Path) -> Association:
    head = examine(path)
    if not isinstance(head, Outgoing):
        raise MachineError(f"{path} is no DICOM file")
    association = associate(peer, [build_context(head.sop_class, head.transfer_syntax)])
    if not association.is_established:
        raise MachineError(f"{peer.called} at port {peer.port} takes no association")
    return association


def main(arguments: Sequence[str]) -> int:
    """Send; 0 where every image was answered with Success."""
    parser = argparse.ArgumentParser(prog="paced")
    parser.add_argument("port", type=int)
    parser.add_argument("aet")
    parser.add_argument("rate", type=float)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--for", dest="seconds", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    _config.STORE_SEND_CHUNKED_DATASET = True
    peer, pace = Peer(MACHINE_ADDRESS, options.port, options.aet, "BENCH"), Pace(options.rate)
    if not options.seconds:
        for folder in options.folders:
            send(peer, folder, pace)
        return 0
    began, seed = time.monotonic(), options.seed
    while time.monotonic() - began < options.seconds:
        send(peer, options.folders[0], pace, seed)
        seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
