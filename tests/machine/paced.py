"""A modality that sends at its own pace: `python -m tests.machine.paced ADDRESS PORT AE RATE FILE ...`, by one association.

RATE is in images a second; 0 is as fast as they are answered. Ends with 1 at the first image that is not answered with 0x0000.
"""

from __future__ import annotations

import sys
import time

from pydicom import dcmread
from pynetdicom import AE


def main(address: str, port: int, aet: str, rate: float, paths: list[str]) -> int:
    """Send the files in their order; return the exit status."""
    first = dcmread(paths[0], stop_before_pixels=True)
    entity = AE(aet)
    entity.add_requested_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
    association = entity.associate(address, port, ae_title="ORTHANC1")
    if not association.is_established:
        return 1
    began = time.monotonic()
    for number, path in enumerate(paths):
        if rate:
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
        if getattr(association.send_c_store(path), "Status", None) != 0:
            return 1
    association.release()
    return 0


if __name__ == "__main__":
    _, host, number, title, pace, *files = sys.argv
    sys.exit(main(host, int(number), title, float(pace), files))
