"""Studies to send: made once as a template, then stamped with new UIDs of the same length by replacing bytes.

A template's seed is TEMPLATE_SEED; the studies made of it are numbered from FIRST_SEED on, and no number comes twice in one run.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.uid import MultiFrameGrayscaleByteSecondaryCaptureImageStorage

from tests.studies import ROOT_UID, made_up_ct

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE_SEED = 100000
FIRST_SEED = 200000
PATIENT = "MADEUP-CT"
HUGE_UID = f"{ROOT_UID}.{TEMPLATE_SEED}.9.9"
_OLD = f"{ROOT_UID}.{TEMPLATE_SEED}".encode("ascii")
_HEAD_BYTES = 4096
_FRAME = 4096  # rows and columns of the huge object's frames


def stamp(source: Path, target: Path, seed: int) -> Path:
    """Write the template's file as one of study `seed`; return where."""
    content = source.read_bytes()
    head = content[:_HEAD_BYTES].replace(_OLD, uid_of(seed).encode("ascii"))
    target.write_bytes(head + content[_HEAD_BYTES:])
    return target


def uid_of(seed: int) -> str:
    """StudyInstanceUID of study `seed`."""
    return f"{ROOT_UID}.{seed}"


@dataclass(frozen=True)
class Study:
    """A study in a folder of the host, ready to be sent."""

    folder: Path
    uid: str
    images: int

    def remove(self) -> None:
        """Delete its files on the host."""
        shutil.rmtree(self.folder)


class Templates:
    """Makes studies below one folder of the host; an image of `size` has size x size x 2 bytes of pixels."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seeds = count(FIRST_SEED)

    def study(self, images: int, size: int) -> Study:
        """Return a new study that no one has seen yet."""
        seed = next(self._seeds)
        study = Study(self._folder / str(seed), uid_of(seed), images)
        study.folder.mkdir()
        for path in sorted(self.template(images, size).folder.glob("*.dcm")):
            stamp(path, study.folder / path.name, seed)
        return study

    def template(self, images: int, size: int) -> Study:
        """Return what studies of this kind are stamped from."""
        folder = self._folder / f"template-{images}-{size}"
        if not folder.exists():
            made_up_ct(folder, images, seed=TEMPLATE_SEED, patient_id=PATIENT, size=size)
        return Study(folder, uid_of(TEMPLATE_SEED), images)

    def seeds(self, number: int) -> int:
        """Set `number` seeds aside for studies that are stamped while they are sent; return the first."""
        first = next(self._seeds)
        self._seeds = count(first + number)
        return first

    def huge(self, size: int) -> Path:
        """Return a multi-frame object with `size` bytes of zeros for pixels, a sparse file."""
        path = self._folder / "huge.dcm"
        data_set = dcmread(next(self.template(1, 64).folder.glob("*.dcm")))
        del data_set.PixelData
        data_set.SOPClassUID = MultiFrameGrayscaleByteSecondaryCaptureImageStorage
        data_set.SOPInstanceUID = HUGE_UID
        data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID
        data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
        data_set.Rows = data_set.Columns = _FRAME
        data_set.NumberOfFrames = size // _FRAME**2
        data_set.BitsAllocated = data_set.BitsStored = 8
        data_set.HighBit = 7
        data_set.save_as(path, enforce_file_format=True)
        with path.open("ab") as file:
            # (7FE0,0010) OB with a length of 32 bits (PS3.5 section 7.1.2)
            file.write(b"\xe0\x7f\x10\x00OB\0\0" + size.to_bytes(4, "little"))
            file.truncate(file.tell() + size)
        return path
