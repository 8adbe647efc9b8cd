"""The corpus that the senders send, and the check of what arrives: files are known by what their data sets say, never by name.

Real files are those of pydicom and pydicom-data, as they are; where several have one SOPInstanceUID, all but the first get
a UID of their own, so that each file is an image of its own. Made-up files add what the real ones do not have.
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import struct
import tempfile
import warnings
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from tests import studies
from tests.studies import PREFERRED, ROOT_UID, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
LEFT_OUT = ("rtdose_rle", "bad_sequence.", "SC_rgb_jpeg.")
"""Damaged on purpose: dcmjs-dimse makes objects of up to 1.2 GB of these, and no stack sends the last one."""
_FIRST_SLICES = 3


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs of a data set; None for one that is missing or empty."""

    sop_class: str | None
    sop_uid: str | None
    study_uid: str | None
    series_uid: str | None

    @property
    def complete(self) -> bool:
        """Whether all four are there."""
        return None not in {self.sop_class, self.sop_uid, self.study_uid, self.series_uid}


@contextmanager
def _quiet() -> Iterator[None]:
    """Read and write data sets that break rules without pydicom's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- what is sent -----------------------------------------------------------------------------------------------------


@cache
def corpus() -> list[Path]:
    """Every file that a sender can be asked to send: four UIDs, a transfer syntax, and a SOPInstanceUID of its own."""
    folder = _scratch()
    found: list[Path] = []
    taken: set[str | None] = set()
    for path in [*_real(), *made_up(folder / "made-up")]:
        here = path
        if identify(path).sop_uid in taken:
            here = _with_own_uid(path, folder / "renamed" / f"{len(found):05}.dcm")
            if not identify(here).complete:  # pydicom writes a damaged one in another way than it was
                continue
        taken.add(identify(here).sop_uid)
        found.append(here)
    return found


@cache
def incomplete() -> list[Path]:
    """Files that must be refused: without SOPInstanceUID (no stack sends it), without StudyInstanceUID, without SeriesInstanceUID."""
    folder, paths = _scratch(), []
    for number, word in enumerate(("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"), 1):
        data_set = _image(900 + number)
        delattr(data_set, word)
        paths.append(_write(data_set, folder / f"without-{word}.dcm"))
    return paths


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ddwd-senders-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _real() -> list[Path]:
    """The sendable files of pydicom and pydicom-data, those first that keep their UID where several have the same."""
    folders = [
        Path(str(get_testdata_file(name, download=False))).parent for name in ("CT_small.dcm", "693_J2KR.dcm")
    ]
    folders.append(folders[0].parent / "charset_files")
    found = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    whole = [path for path in found if not path.name.startswith(LEFT_OUT) and _is_sendable(path)]
    return sorted(whole, key=lambda path: path.name not in PREFERRED)


def _is_sendable(path: Path) -> bool:
    try:
        with _quiet():
            meta = pydicom.dcmread(path, stop_before_pixels=True).file_meta
    except Exception:  # noqa: BLE001 - a damaged file may make the parser raise anything
        return False
    return "TransferSyntaxUID" in meta and identify(path).complete


def _with_own_uid(path: Path, target: Path) -> Path:
    """Write the file with another SOPInstanceUID, made from its bytes; no other element is decoded."""
    target.parent.mkdir(exist_ok=True)
    number = int(hashlib.sha256(path.read_bytes()).hexdigest()[:24], 16)
    with _quiet():
        data_set = pydicom.dcmread(path)
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = UID(
            f"{ROOT_UID}.7.{number}"
        )
        data_set.save_as(target)
    return target


def made_up(folder: Path) -> list[Path]:
    """Write what the real files do not have: see `_special`; and a CT of a few slices."""
    folder.mkdir(parents=True, exist_ok=True)
    ct = made_up_ct(folder / "ct", _FIRST_SLICES, seed=700, size=64).paths
    return [*ct, *(_write(data_set, folder / f"{name}.dcm") for name, data_set in _special())]


def _special() -> Iterator[tuple[str, Dataset]]:
    yield from _texts()
    yield from _private()
    yield from _encapsulated()
    yield from _large()


def _texts() -> Iterator[tuple[str, Dataset]]:
    for number, (charset, name) in enumerate(
        (
            ("ISO_IR 100", "Müller^Jörg"),
            ("ISO_IR 144", "Щукин^Юлий"),
            ("ISO_IR 192", "王^小東"),
            ("GB18030", "王^小东"),
            (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
            (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ),
        1,
    ):
        data_set = _image(700 + number)
        data_set.SpecificCharacterSet, data_set.PatientName = charset, name
        data_set.PatientComments = "\n".join((name.split("=", maxsplit=1)[0], "-" * 40))
        yield f"text-{number}", data_set
    empty = _image(710)
    empty.PatientBirthDate = empty.StudyDescription = empty.AccessionNumber = ""
    empty.ReferencedStudySequence = []
    yield "empty-values", empty


def _private() -> Iterator[tuple[str, Dataset]]:
    tags = _image(720)
    block = tags.private_block(0x0031, "DDWD TEST", create=True)
    block.add_new(0x01, "LO", "private text")
    block.add_new(0x02, "OB", bytes(range(256)) * 300)
    block.add_new(0x03, "SQ", [_item("one"), _item("two")])
    block.add_new(0x04, "UN", b"\x01\x02\x03\x04")
    yield "private-tags", tags
    other_class = _image(721)
    other_class.SOPClassUID = "1.2.826.0.1.3680043.10.543.99"
    yield "private-class", other_class
    nested, item = _image(722), _item("0")
    for depth in range(1, 30):
        outer = _item(str(depth))
        outer.ContentSequence = [item]
        item = outer
    nested.ContentSequence = [item]
    yield "nested", nested


def _encapsulated() -> Iterator[tuple[str, Dataset]]:
    """Transfer syntaxes of which there is no test file; the frames are bytes that nobody decodes."""
    for number, syntax in enumerate(
        ("1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.107", "1.2.840.10008.1.2.4.100",
         "1.2.840.10008.1.2.4.201", "1.2.826.0.1.3680043.10.543.98"),
        730,
    ):  # fmt: skip
        data_set = _image(number)
        data_set.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4.1"  # Video Photographic
        data_set.file_meta.TransferSyntaxUID = UID(syntax)
        data_set.NumberOfFrames = 2
        data_set.PixelData = encapsulate([bytes([number % 256]) * 1001, bytes(range(250)) * 5])
        data_set["PixelData"].VR = "OB"
        yield f"syntax-{number}", data_set
    document = _image(740)
    document.SOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"  # Encapsulated PDF
    del document.PixelData
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocument = b"%PDF-1.4\n" + bytes(range(256)) * 64 + b"\n%%EOF\n"
    yield "document", document


def _large() -> Iterator[tuple[str, Dataset]]:
    floats = _image(750)
    floats.SOPClassUID = "1.2.840.10008.5.1.4.1.1.30"  # Parametric Map
    del floats.PixelData
    floats.BitsAllocated = 32
    floats.FloatPixelData = struct.pack("<1024f", *(number / 7 for number in range(1024)))
    yield "float-pixels", floats
    zeros = _image(751)
    zeros.PixelData = bytes(32 * 32 * 2)
    yield "zero-pixels", zeros
    long_uid = _image(752)
    long_uid.SOPInstanceUID = UID(f"{ROOT_UID}.752.".ljust(64, "7"))
    yield "long-uid", long_uid
    frames = _image(753)
    frames.NumberOfFrames = 2000
    frames.PixelData = bytes(range(256)) * (32 * 32 * 2 * 2000 // 256)
    yield "four-megabytes", frames


def _item(text: str) -> Dataset:
    item = Dataset()
    item.CodeMeaning = text
    return item


def _image(number: int) -> Dataset:
    """A CT image of 32 x 32 pixels, in a study of its own."""
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.SOPClassUID, data_set.Modality = CTImageStorage, "CT"
    data_set.StudyInstanceUID = f"{ROOT_UID}.8.{number}"
    data_set.SeriesInstanceUID = f"{data_set.StudyInstanceUID}.1"
    data_set.SOPInstanceUID = f"{data_set.SeriesInstanceUID}.1"
    data_set.PatientName, data_set.PatientID = "Made^Up", f"SENDERS-{number}"
    data_set.PatientBirthDate, data_set.PatientSex = "", "O"
    data_set.StudyDate, data_set.StudyTime, data_set.StudyID = "20260101", "120000", "1"
    data_set.AccessionNumber, data_set.SeriesNumber, data_set.InstanceNumber = "SENDERS", 1, number
    data_set.Rows = data_set.Columns = 32
    data_set.BitsAllocated = data_set.BitsStored = 16
    data_set.HighBit, data_set.PixelRepresentation, data_set.SamplesPerPixel = 15, 0, 1
    data_set.PhotometricInterpretation = "MONOCHROME2"
    data_set.PixelData = struct.pack("<1024H", *(number + pixel for pixel in range(1024)))
    return data_set


def _write(data_set: Dataset, path: Path) -> Path:
    meta = data_set.file_meta
    meta.MediaStorageSOPClassUID = data_set.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data_set.get("SOPInstanceUID", f"{ROOT_UID}.9")
    data_set.save_as(path, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return path


# --- what arrived -----------------------------------------------------------------------------------------------------


def identify(path: Path) -> Identity:
    """Read the UIDs of the data set. Raises what pydicom raises for what is no DICOM file, or damaged."""
    with _quiet():
        head = pydicom.dcmread(path, specific_tags=list(UIDS), stop_before_pixels=True)
        return Identity(*(str(head.get(word) or "") or None for word in UIDS))


def by_sop_uid(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Group files by SOPInstanceUID; files without one are left out."""
    return _grouped((identify(path).sop_uid, path) for path in paths)


def by_study(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Group files by StudyInstanceUID; files without one are left out."""
    return _grouped((identify(path).study_uid, path) for path in paths)


def _grouped(pairs: Iterable[tuple[str | None, Path]]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for uid, path in pairs:
        if uid is not None:
            groups[uid].append(path)
    return dict(groups)


def missing(sent: Iterable[Path], delivered: Iterable[Path]) -> list[str]:
    """The SOPInstanceUIDs that were sent and did not arrive."""
    there = by_sop_uid(delivered)
    return [uid for uid in by_sop_uid(sent) if uid not in there]


def faults(sent: Iterable[Path], delivered: Iterable[Path]) -> list[str]:
    """One line for each way in which the delivered files differ from those sent: missing, doubled, extra, changed."""
    before, after = by_sop_uid(sent), by_sop_uid(delivered)
    lines = [f"{uid}: extra" for uid in after if uid not in before]
    for uid, (path, *_) in before.items():
        got = after.get(uid, [])
        if len(got) != 1:
            lines.append(f"{uid}: {'doubled' if got else 'missing'}")
        else:
            lines += [f"{uid}: {line}" for line in differences(path, got[0])]
    return lines


def same_data_set(sent: Path, delivered: Path) -> bool:
    """Whether both files have the same data set, element by element, and the same pixel data, byte by byte."""
    return not differences(sent, delivered)


def differences(sent: Path, delivered: Path) -> list[str]:
    """Where two data sets differ: the elements as tests/studies.py compares them; then the UIDs and the bytes of the pixel data.

    `studies.differences` does not see null bytes at the end of a value: here the pixel data must have every byte, but for
    the padding of an odd length. Only where an uncompressed transfer syntax became another one are the bytes not compared.
    """
    lines = studies.differences(sent, delivered)
    if identify(sent) != identify(delivered):
        lines.append("UIDs differ")
    before, after = _pixels(sent), _pixels(delivered)
    if before.keys() != after.keys():
        lines.append(f"pixel data: {', '.join(before) or 'none'} became {', '.join(after) or 'none'}")
    syntaxes = {_syntax(path) for path in (sent, delivered)}
    if len(syntaxes) == 1:
        lines += [
            f"{word}: {len(value)} bytes differ from {len(after[word])}"
            for word, value in before.items()
            if word in after and value != after[word]
        ]
    return lines


def _syntax(path: Path) -> str:
    with _quiet():
        return str(
            pydicom.dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta.TransferSyntaxUID
        )


def _pixels(path: Path) -> dict[str, bytes]:
    """The pixel data elements at the top level, each with even length."""
    with _quiet():
        data_set = pydicom.dcmread(path)
        found = {word: data_set[word].value or b"" for word in PIXELS if word in data_set}
    return {word: value + bytes(len(value) % 2) for word, value in found.items()}
