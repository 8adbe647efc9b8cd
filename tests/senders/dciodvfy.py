"""dciodvfy of dicom3tools as a judge: its complaints of a data set before and after the portal, without what each writer may choose.

The File Meta Information is each writer's own (PS3.10 7.1), group lengths are retired (PS3.5 7.2), and Data Set Trailing
Padding (PS3.10 7.2) may go. How a private element is encoded depends on the transfer syntax, not on the data set.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

_OTHER = re.compile(
    r"\(0002,|MediaStorage|FileMetaInformation|TransferSyntaxUID"  # File Meta Information
    r"|\([0-9a-f]{4},0000\)>|Bad group length|\(fffc,fffc\)"  # group lengths, padding
    r"|- Unrecognized tag - "  # how a private element is encoded
)
_SECONDS = 120.0


def complaints(path: Path) -> list[str]:
    """The complaints in a fixed order; two files with the same data set have the same ones.

    dciodvfy itself fails on a few data sets; the list then says so. A deflated file is judged by its inflated data set.
    """
    with tempfile.TemporaryDirectory(prefix="ddwd-dciodvfy-") as folder:
        done = subprocess.run(
            ["dciodvfy", "-new", _inflated(path, Path(folder))],
            capture_output=True, check=False, timeout=_SECONDS, cwd=folder,
        )  # fmt: skip
    text = (done.stderr + done.stdout).decode("utf-8", "backslashreplace")
    lines = [line for line in text.splitlines() if line and not _OTHER.search(line)]
    if done.returncode < 0:
        lines.append(f"dciodvfy was ended by signal {-done.returncode}")
    return sorted(lines)


def compare(before: Path, after: Path) -> list[str]:
    """The complaints that only one of the files has: `lost: ...` and `new: ...`; empty for the same data set."""
    first, second = Counter(complaints(before)), Counter(complaints(after))
    lost, new = (first - second).elements(), (second - first).elements()
    return [*(f"lost: {line}" for line in lost), *(f"new: {line}" for line in new)]


def _inflated(path: Path, folder: Path) -> Path:
    """The file, or a copy with the inflated data set: dciodvfy does not read a deflated one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = pydicom.dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return path
        data_set = pydicom.dcmread(path)
        data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data_set.save_as(folder / "inflated.dcm")
    return folder / "inflated.dcm"
